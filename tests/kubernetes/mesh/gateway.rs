//! The gateway: an Envoy outside the mesh, with the identity that a socket gives it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::access_log::{self, AccessLog};
use crate::{
    envoy::Secrets,
    support::{
        http::{self, loopback},
        peer::peer,
        process::Process,
        wait::wait_until,
    },
};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const LISTENER: &str = "http";
const START: Duration = Duration::from_secs(10);

/// As whom the gateway knows the service.
pub(crate) enum Expected<'a> {
    /// By this SPIFFE ID alone; it shows its own certificate.
    Id(&'a str),
    /// By this SPIFFE ID alone, verified by the bundle of its trust domain; it shows its own certificate.
    ForeignId(&'a str),
    /// By this SPIFFE ID alone, and it shows none.
    IdButShowNothing(&'a str),
    /// As the validation context of this name on the socket says.
    Context(&'a str),
}

impl Expected<'_> {
    /// The secret that it is verified by.
    fn bundle(&self) -> &str {
        match self {
            Self::Id(_) | Self::IdButShowNothing(_) => "ROOTCA",
            Self::ForeignId(id) => id.split_once("/ns/").unwrap().0,
            Self::Context(name) => name,
        }
    }
}

/// Where it has its secrets from.
enum Source<'a> {
    /// A socket that speaks SDS.
    Socket(&'a Path),
    /// A folder with `sds-default.yaml` and `sds-rootca.yaml`.
    Folder(&'a Path),
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    /// Takes plain HTTP.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    bundle: String,
}

impl Gateway {
    /// Starts one before `backend` that has its secrets from `socket`, which need not be there yet.
    pub(crate) fn start(
        name: &str,
        folder: &Path,
        socket: &Path,
        backend: SocketAddr,
        expected: &Expected<'_>,
    ) -> Self {
        Self::start_by(name, folder, &Source::Socket(socket), backend, expected)
    }

    /// Starts one that has them from `files`, a folder with `sds-default.yaml` and `sds-rootca.yaml`.
    pub(crate) fn of_files(
        name: &str,
        folder: &Path,
        files: &Path,
        backend: SocketAddr,
        expected: &Expected<'_>,
    ) -> Self {
        Self::start_by(name, folder, &Source::Folder(files), backend, expected)
    }

    fn start_by(name: &str, folder: &Path, source: &Source<'_>, backend: SocketAddr, expected: &Expected<'_>) -> Self {
        let [config_file, admin_file, log] = ["json", "admin", "log"].map(|end| folder.join(format!("{name}.{end}")));
        fs::write(&config_file, config(source, backend, expected, &log).to_string()).unwrap();
        let mut command = peer("envoy");
        command.arg("--config-path").arg(config_file).arg("--admin-address-path").arg(&admin_file);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "100"]);
        let process = Process::start(name, folder, &mut command);
        let (admin, port) = wait_until(START, &format!("the listener of {name}"), || {
            let written = fs::read_to_string(&admin_file).map_err(|error| error.to_string())?;
            let admin = written.parse().map_err(|error| format!("{written:?}: {error}"))?;
            let listeners = http::get(admin, "/listeners?format=json")?;
            listener_port(&listeners).map(|port| (admin, port)).ok_or(listeners)
        });
        Self { process, address: loopback(port), admin, log, bundle: expected.bundle().to_owned() }
    }

    /// What it saw of the service.
    pub(crate) fn log(&self) -> AccessLog {
        AccessLog::at(self.log.clone())
    }

    /// What it holds by SDS.
    pub(crate) fn secrets(&self) -> Result<Secrets, String> {
        Secrets::verifying_by(&self.bundle, self.admin)
    }

    /// Fails when it has ended.
    pub(crate) fn check_it_runs(&mut self) {
        assert_eq!(self.process.ended(), None, "the gateway has ended");
    }
}

fn listener_port(listeners: &str) -> Option<u16> {
    let listeners: Value = serde_json::from_str(listeners).ok()?;
    let ours = listeners["listener_statuses"].as_array()?.iter().find(|status| status["name"] == LISTENER)?;
    u16::try_from(ours["local_address"]["socket_address"]["port_value"].as_u64()?).ok()
}

/// Each request has a connection to the service of its own, and each connection a whole handshake: a pooled one would hide
/// rotation, and with a resumed session nobody looks at certificates, not even at one that has expired.
fn config(source: &Source<'_>, backend: SocketAddr, expected: &Expected<'_>, log: &Path) -> Value {
    let exactly = |id: &str| json!({"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": id}}]});
    let (context, shows) = match expected {
        Expected::Id(id) | Expected::ForeignId(id) => (exactly(id), true),
        Expected::IdButShowNothing(id) => (exactly(id), false),
        Expected::Context(_) => (json!({}), true),
    };
    let own =
        if shows { json!([{"name": "default", "sds_config": source.sds("sds-default.yaml")}]) } else { json!([]) };
    let to_backend = json!({
        "name": "backend", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": endpoint("backend", &socket_address(backend)),
        "typed_extension_protocol_options": protocol(
            &json!({"http_protocol_options": {}}), &json!({"max_requests_per_connection": 1})
        ),
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"),
            "max_session_keys": 0,
            "common_tls_context": {
                "alpn_protocols": ["istio-http/1.1", "istio", "http/1.1"],
                "tls_certificate_sds_secret_configs": own,
                "combined_validation_context": {
                    "default_validation_context": context,
                    "validation_context_sds_secret_config": {"name": expected.bundle(), "sds_config": source.sds("sds-rootca.yaml")},
                },
            },
        }},
    });
    let mut clusters = vec![to_backend];
    if let Source::Socket(socket) = source {
        clusters.push(json!({
            "name": "sds", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": endpoint("sds", &json!({"pipe": {"path": socket}})),
            "typed_extension_protocol_options": protocol(&json!({"http2_protocol_options": {}}), &json!({})),
        }));
    }
    let filter = json!({"name": "http", "typed_config": {
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "access_log": access_log::to_file(log, &access_log::gateway_fields()),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "10s"}},
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")}}],
    }});
    json!({
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": socket_address(loopback(0))},
        "static_resources": {
            "listeners": [{
                "name": LISTENER,
                "address": socket_address(loopback(0)),
                "filter_chains": [{"filters": [filter]}],
            }],
            "clusters": clusters,
        },
    })
}

impl Source<'_> {
    /// For the secret that is in `file`, where they are in files.
    fn sds(&self, file: &str) -> Value {
        match self {
            Self::Socket(_) => json!({"resource_api_version": "V3", "api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
            }}),
            Self::Folder(folder) => json!({"resource_api_version": "V3", "path_config_source": {
                "path": folder.join(file), "watched_directory": {"path": folder},
            }}),
        }
    }
}

fn protocol(explicit: &Value, common: &Value) -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": explicit,
        "common_http_protocol_options": common,
    }})
}

fn endpoint(cluster: &str, address: &Value) -> Value {
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
