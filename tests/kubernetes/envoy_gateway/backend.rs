//! Pods behind a Service of the mesh: an Envoy with the inbound filter chains that istiod gives a sidecar, by mode and class of the
//! port, and with a certificate of the mesh. docs/testing.md says what is left out.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    mesh::access_log::{self, AccessLog},
    network::Host,
    pair::TRUST_DOMAIN,
    support::{authority::Authority, http, peer::peer, process::Process, wait::wait_until},
};

pub(crate) const PORT: u16 = 8080;
const START: Duration = Duration::from_secs(10);
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

/// What the pod's PeerAuthentication says, or that it has no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Strict,
    Permissive,
    NoSidecar,
}

/// How istiod takes the port, by the name that the Service gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Named `http`.
    Http,
    /// Named `grpc`.
    Grpc,
    /// With `appProtocol: kubernetes.io/h2c`.
    H2c,
    /// Without a name.
    Sniffed,
}

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum App {
    /// With the pod's own name and that of the chain.
    Itself,
    /// A server of gRPC elsewhere.
    Grpc(SocketAddr),
}

/// A running pod.
pub(crate) struct Backend {
    name: String,
    class: Class,
    app: App,
    _process: Process,
    host: Host,
    folder: PathBuf,
}

impl Backend {
    /// Starts one whose certificate names `account` of `namespace`.
    pub(crate) fn start(
        name: &str,
        host: Host,
        logs: &Path,
        mesh: &Authority,
        account: (&str, &str),
        (mode, class, app): (Mode, Class, App),
    ) -> Self {
        let folder = logs.join(format!("backend-{name}"));
        fs::create_dir_all(&folder).unwrap();
        write_identity(&folder, mesh, account);
        fs::write(folder.join("envoy.json"), bootstrap(name, app, &folder).to_string()).unwrap();
        let mut command = peer("envoy");
        command.arg("--config-path").arg(folder.join("envoy.json"));
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "100"]);
        write_listener(&folder, &listener(name, mode, class, app, host.address(), &folder));
        let process = Process::start(&format!("backend-{name}"), logs, &mut host.command(&command));
        let backend = Self { name: name.to_owned(), class, app, _process: process, host, folder };
        wait_until(START, &format!("the listener of {name}"), || {
            std::net::TcpStream::connect(backend.address()).map(drop)
        });
        backend
    }

    /// Where its port is.
    pub(super) fn address(&self) -> SocketAddr {
        (self.host.address(), PORT).into()
    }

    /// As istiod does it when a policy changes, live.
    pub(crate) fn set(&self, mode: Mode) {
        let listener = listener(&self.name, mode, self.class, self.app, self.host.address(), &self.folder);
        write_listener(&self.folder, &listener);
    }

    /// Its address alone.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.host.address()
    }

    /// Ends it; another one may take its host.
    pub(crate) fn stop(self) -> Host {
        self.host
    }

    /// Whether it takes connections in that mode by now: what it says to plaintext tells.
    pub(super) fn mode_is(&self, mode: Mode) -> Result<(), String> {
        let expected = match mode {
            Mode::Strict => None,
            Mode::Permissive => Some("plain"),
            Mode::NoSidecar => Some("no sidecar"),
        };
        let said = http::get(self.address(), "/probe");
        let is_so = match (&said, expected) {
            (Ok(text), Some(chain)) => text.ends_with(chain),
            (Err(_), None) => true,
            _ => false,
        };
        if is_so { Ok(()) } else { Err(format!("{said:?}")) }
    }

    /// Every request so far.
    pub(super) fn log(&self) -> AccessLog {
        AccessLog::at(self.folder.join("access.log"))
    }
}

/// A certificate as the mesh's authority signs it, for an account of `namespace`.
fn write_identity(folder: &Path, mesh: &Authority, (namespace, account): (&str, &str)) {
    let id = format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}");
    let (chain, key) = mesh.svid(&id);
    fs::write(folder.join("chain.pem"), chain).unwrap();
    fs::write(folder.join("key.pem"), key).unwrap();
    fs::write(folder.join("roots.pem"), mesh.chain.last().unwrap()).unwrap();
}

fn write_listener(folder: &Path, listener: &Value) {
    let resources = json!({ "resources": [listener] });
    fs::write(folder.join("listener.new"), resources.to_string()).unwrap();
    fs::rename(folder.join("listener.new"), folder.join("listener.json")).unwrap();
}

fn bootstrap(name: &str, app: App, folder: &Path) -> Value {
    let clusters = match app {
        App::Itself => json!([]),
        App::Grpc(address) => json!([{
            "name": "app", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": { "cluster_name": "app", "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                "address": socket_address(address),
            } }] }] },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            } },
        }]),
    };
    json!({
        "node": { "id": name, "cluster": name },
        "dynamic_resources": { "lds_config": { "path_config_source": {
            "path": folder.join("listener.json"), "watched_directory": { "path": folder },
        } } },
        "static_resources": { "clusters": clusters },
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

const HTTP_ALPN: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const TCP_ALPN: [&str; 2] = ["istio", "istio-peer-exchange"];

fn listener(name: &str, mode: Mode, class: Class, app: App, address: Ipv4Addr, folder: &Path) -> Value {
    let all = [HTTP_ALPN.as_slice(), TCP_ALPN.as_slice()].concat();
    let filter = |chain: &str| connection_manager(chain, name, app, folder);
    let mtls = |chain: &str, protocols: &[&str]| {
        json!({
            "name": chain, "filters": [filter(chain)], "transport_socket": tls(folder),
            "filter_chain_match": { "transport_protocol": "tls", "application_protocols": protocols },
        })
    };
    let plain = json!({
        "name": "plain", "filters": [filter("plain")], "filter_chain_match": { "transport_protocol": "raw_buffer" },
    });
    // what is not for the sidecar goes to the application as it is, which makes nothing of it; a chain on which bytes would be
    // passed on is none that a gateway may take
    let chains = match (mode, class) {
        (Mode::NoSidecar, _) => json!([{ "name": "no sidecar", "filters": [filter("no sidecar")] }]),
        (Mode::Strict, Class::Sniffed) => json!([mtls("mutual", &HTTP_ALPN)]),
        (Mode::Strict, _) => json!([mtls("mutual", &[])]),
        (Mode::Permissive, Class::Sniffed) => json!([mtls("mutual", &HTTP_ALPN), plain]),
        (Mode::Permissive, _) => json!([mtls("mutual", &all), plain]),
    };
    let inspector = json!([{ "name": "tls", "typed_config": {
        "@type": format!("{FILTERS}.listener.tls_inspector.v3.TlsInspector"),
    } }]);
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "inbound", "address": socket_address((address, PORT).into()),
        "listener_filters": if mode == Mode::NoSidecar { json!([]) } else { inspector },
        "filter_chains": chains,
    })
}

/// Nobody may take up a session of before: with one nobody looks at certificates.
fn tls(folder: &Path) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{
                "certificate_chain": { "filename": folder.join("chain.pem") },
                "private_key": { "filename": folder.join("key.pem") },
            }],
            "validation_context": {
                "trusted_ca": { "filename": folder.join("roots.pem") },
                "match_typed_subject_alt_names": [{
                    "san_type": "URI", "matcher": { "prefix": format!("spiffe://{TRUST_DOMAIN}/") },
                }],
            },
        },
    } })
}

/// One request for each connection: a kept one would hide what changes.
fn connection_manager(chain: &str, name: &str, app: App, folder: &Path) -> Value {
    let route = match app {
        App::Itself => {
            json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": {
                "inline_string": format!("{name} {chain}"),
            } } }])
        }
        App::Grpc(_) => json!([{ "match": { "prefix": "/" }, "route": { "cluster": "app", "timeout": "0s" } }]),
    };
    let mut fields = access_log::sidecar_fields();
    fields["chain"] = chain.into();
    fields["protocol"] = "%PROTOCOL%".into();
    fields["grpc"] = "%TRAILER(GRPC-STATUS)%".into();
    json!({ "name": "http", "typed_config": {
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "common_http_protocol_options": { "max_requests_per_connection": 1 },
        "access_log": access_log::to_file(&folder.join("access.log"), &fields),
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": route }] },
        "http_filters": [{ "name": "router", "typed_config": { "@type": format!("{FILTERS}.http.router.v3.Router") } }],
    } })
}
