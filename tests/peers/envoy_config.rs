//! The configurations of the two kinds of Envoy: the gateway, and the service behind it.

use std::path::Path;

use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// The listener of either.
pub(crate) const LISTENER: &str = "http";

/// The resource with the roots of the own trust domain.
const OWN: &str = "ROOTCA";

/// Which variant of the discovery protocol is spoken on the socket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sds {
    StateOfTheWorld,
    Delta,
}

/// Where an Envoy has its secrets from.
#[derive(Clone, Copy, Debug)]
enum Secrets<'a> {
    Socket(Sds),
    /// `sds-default.yaml` and `sds-rootca.yaml` of a folder.
    Folder(&'a Path),
}

/// Takes plain HTTP. `/local` it answers itself; everything else goes to `backend` over mutual TLS, each request on a
/// connection of its own, because a pooled connection would hide rotation.
pub(crate) fn gateway(socket: &Path, sds: Sds, backend: u16, backend_id: &str) -> Value {
    gateway_with(Secrets::Socket(sds), OWN, json!([sds_cluster(socket)]), backend, backend_id)
}

/// The same with the backend verified by that resource of the socket.
pub(crate) fn gateway_by(resource: &str, socket: &Path, backend: u16, backend_id: &str) -> Value {
    let secrets = Secrets::Socket(Sds::StateOfTheWorld);
    gateway_with(secrets, resource, json!([sds_cluster(socket)]), backend, backend_id)
}

/// The same with secrets from the files of a folder.
pub(crate) fn gateway_of_files(folder: &Path, backend: u16, backend_id: &str) -> Value {
    gateway_with(Secrets::Folder(folder), OWN, json!([]), backend, backend_id)
}

/// Secrets for such a folder that name the files of another one, as the kubelet mounts a Secret of type `kubernetes.io/tls`.
pub(crate) fn secrets_of_mounted(mount: &Path) -> [(&'static str, Value); 2] {
    let file = |name: &str| json!({"filename": mount.join(name)});
    let secret = |name: &str, kind: &str, content: Value| json!({"resources": [{"@type": format!("{TLS}.Secret"), "name": name, kind: content}]});
    let watched = json!({"path": mount});
    let certificate = json!({
        "certificate_chain": file("tls.crt"), "private_key": file("tls.key"), "watched_directory": watched.clone(),
    });
    let context = json!({"trusted_ca": file("ca.crt"), "watched_directory": watched});
    [
        ("sds-default.yaml", secret("default", "tls_certificate", certificate)),
        ("sds-rootca.yaml", secret("ROOTCA", "validation_context", context)),
    ]
}

fn gateway_with(secrets: Secrets<'_>, resource: &str, mut clusters: Value, backend: u16, backend_id: &str) -> Value {
    let to_backend = json!({
        "name": "backend", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": endpoint("backend", json!({"socket_address": loopback(backend)})),
        "typed_extension_protocol_options": http_options(
            json!({"http_protocol_options": {}}), json!({"max_requests_per_connection": 1})
        ),
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"),
            // a resumed session looks at no certificate
            "max_session_keys": 0,
            "common_tls_context": tls_context(secrets, resource, &[json!({"exact": backend_id})]),
        }},
    });
    let routes = json!([
        {"match": {"path": "/local"}, "direct_response": {"status": 200, "body": {"inline_string": "local"}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "10s"}},
    ]);
    clusters.as_array_mut().unwrap().push(to_backend);
    bootstrap(json!({"filters": [http_filter(&routes, &Value::Null)]}), clusters)
}

/// A gateway that shows its certificate to whoever is at the other end.
pub(crate) fn gateway_of_all(socket: &Path, sds: Sds, backend: u16) -> Value {
    let mut gateway = gateway(socket, sds, backend, "");
    let context = gateway.pointer_mut("/static_resources/clusters/1/transport_socket/typed_config/common_tls_context");
    context.unwrap().as_object_mut().unwrap().remove("combined_validation_context").expect("what it is verified by");
    gateway
}

/// Demands a client certificate of a name that starts with `clients`, and logs what it was shown.
pub(crate) fn backend(socket: &Path, clients: &str, access_log: &Path) -> Value {
    backend_by(OWN, socket, clients, access_log)
}

/// The same with its clients verified by that resource of the socket.
pub(crate) fn backend_by(resource: &str, socket: &Path, clients: &str, access_log: &Path) -> Value {
    backend_with(socket, resource, &[json!({"prefix": clients})], access_log)
}

/// The same for these clients alone.
pub(crate) fn backend_of(socket: &Path, resource: &str, clients: &[&str], access_log: &Path) -> Value {
    let clients: Vec<Value> = clients.iter().map(|id| json!({"exact": id})).collect();
    backend_with(socket, resource, &clients, access_log)
}

fn backend_with(socket: &Path, resource: &str, clients: &[Value], access_log: &Path) -> Value {
    let log = json!([{"name": "file", "typed_config": {
        "@type": format!("{TYPES}/envoy.extensions.access_loggers.file.v3.FileAccessLog"),
        "path": access_log,
        "log_format": {"json_format": {
            "uri": "%DOWNSTREAM_PEER_URI_SAN%",
            "path": "%REQ(:PATH)%",
            "serial": "%DOWNSTREAM_PEER_SERIAL%",
            "not_after": "%DOWNSTREAM_PEER_CERT_V_END(%s)%",
            "start": "%START_TIME(%s.%3f)%",
        }},
    }}]);
    let routes = json!([
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "backend"}}},
    ]);
    let chain = json!({
        "filters": [http_filter(&routes, &log)],
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": format!("{TLS}.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": tls_context(Secrets::Socket(Sds::StateOfTheWorld), resource, clients),
        }},
    });
    bootstrap(chain, json!([sds_cluster(socket)]))
}

fn bootstrap(filter_chain: Value, clusters: Value) -> Value {
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": {"socket_address": loopback(0)}},
        "static_resources": {
            "listeners": [{
                "name": LISTENER,
                "address": {"socket_address": loopback(0)},
                "filter_chains": [filter_chain],
            }],
            "clusters": clusters,
        },
    })
}

fn tls_context(secrets: Secrets<'_>, resource: &str, peers: &[Value]) -> Value {
    let names: Vec<Value> = peers.iter().map(|peer| json!({"san_type": "URI", "matcher": peer})).collect();
    json!({
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": sds_config(secrets, "sds-default.yaml")}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": resource, "sds_config": sds_config(secrets, "sds-rootca.yaml")},
        },
    })
}

fn sds_config(secrets: Secrets<'_>, file: &str) -> Value {
    let api_type = match secrets {
        Secrets::Socket(Sds::StateOfTheWorld) => "GRPC",
        Secrets::Socket(Sds::Delta) => "DELTA_GRPC",
        Secrets::Folder(folder) => {
            let source = json!({"path": folder.join(file), "watched_directory": {"path": folder}});
            return json!({"resource_api_version": "V3", "path_config_source": source});
        }
    };
    json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": api_type, "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}],
    }})
}

fn sds_cluster(socket: &Path) -> Value {
    json!({
        "name": "sds", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": endpoint("sds", json!({"pipe": {"path": socket}})),
        "typed_extension_protocol_options": http_options(json!({"http2_protocol_options": {}}), json!({})),
    })
}

fn http_options(protocol: Value, common: Value) -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": format!("{TYPES}/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": protocol,
        "common_http_protocol_options": common,
    }})
}

/// Whatever fails is answered with the reason that TLS gave, if it was that.
fn http_filter(routes: &Value, access_log: &Value) -> Value {
    let reason = json!({
        "filter": {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "none"}}}},
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%: %UPSTREAM_TRANSPORT_FAILURE_REASON%"},
        },
    });
    json!({"name": "http", "typed_config": {
        "@type": format!("{TYPES}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "access_log": access_log,
        "local_reply_config": {"mappers": [reason]},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": format!("{TYPES}/envoy.extensions.filters.http.router.v3.Router"),
        }}],
    }})
}

fn endpoint(cluster: &str, address: Value) -> Value {
    let endpoint = json!({"endpoint": {"address": address}});
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]})
}

fn loopback(port: u16) -> Value {
    json!({"address": "127.0.0.1", "port_value": port})
}
