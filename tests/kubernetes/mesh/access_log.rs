//! What an Envoy writes down about each request, in JSON lines.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// The file and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(PathBuf);

/// The fields of a sidecar's log: its caller's certificate, and its own.
pub(crate) fn sidecar_fields() -> Value {
    json!({
        "peer": "%DOWNSTREAM_PEER_URI_SAN%",
        "own": "%DOWNSTREAM_LOCAL_URI_SAN%",
        "serial": "%DOWNSTREAM_PEER_SERIAL%",
        "issuer": "%DOWNSTREAM_PEER_ISSUER%",
        "not_after": "%DOWNSTREAM_PEER_CERT_V_END(%s)%",
        "tls": "%DOWNSTREAM_TLS_VERSION%",
        "host": "%REQ(:AUTHORITY)%",
        "start": "%START_TIME(%s.%3f)%",
        "status": "%RESPONSE_CODE%",
    })
}

/// The same of a gateway: the service's certificate, and its own.
pub(crate) fn gateway_fields() -> Value {
    json!({
        "peer": "%UPSTREAM_PEER_URI_SAN%",
        "own": "%UPSTREAM_LOCAL_URI_SAN%",
        "issuer": "%UPSTREAM_PEER_ISSUER%",
        "tls": "%UPSTREAM_TLS_VERSION%",
        "start": "%START_TIME(%s.%3f)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "why": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    })
}

/// What the service itself is told of its caller.
pub(crate) fn service_fields() -> Value {
    json!({"client": "%REQ(X-FORWARDED-CLIENT-CERT)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%"})
}

/// A log of such fields, as part of an Envoy's configuration.
pub(crate) fn to_file(path: &Path, fields: &Value) -> Value {
    json!([{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": fields},
    }}])
}

impl AccessLog {
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        // what stands behind the last line end is still being written
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// The distinct values of a field among the requests of `peer`.
    pub(crate) fn distinct(&self, peer: &str, field: &str) -> BTreeSet<String> {
        let requests = self.requests();
        requests.iter().filter(|request| request["peer"] == peer).map(|request| request[field].to_string()).collect()
    }
}
