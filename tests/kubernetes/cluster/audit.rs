//! What the API server wrote down about the requests it took.

use std::{collections::HashSet, fs, path::Path};

use serde_json::Value;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct AuditedRequest {
    /// `system:serviceaccount:NAMESPACE:NAME`, or another user.
    pub(crate) user: String,
    pub(crate) verb: String,
    /// `pods`, or `pods/status`; empty for a path that names no resource.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) user_agent: String,
    /// The status of the answer; 0 while there is none.
    pub(crate) code: u64,
    /// Whether RBAC refused it.
    pub(crate) denied: bool,
    /// RFC 3339, by the API server's clock.
    pub(crate) received: String,
}

pub(super) fn read(log: &Path) -> Vec<AuditedRequest> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // a line that is still being written has no end yet
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut seen = HashSet::new();
    let events = complete.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    // a watch has one event for its begin and one for its end
    events.filter(|event| seen.insert(event["auditID"].as_str().map(str::to_owned))).map(|event| one(&event)).collect()
}

fn one(event: &Value) -> AuditedRequest {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut resource, part) = (text("/objectRef/resource"), text("/objectRef/subresource"));
    if !part.is_empty() {
        resource = format!("{resource}/{part}");
    }
    AuditedRequest {
        user: text("/user/username"),
        verb: text("/verb"),
        resource,
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        user_agent: text("/userAgent"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
        denied: text("/annotations/authorization.k8s.io~1decision") == "forbid",
        received: text("/requestReceivedTimestamp"),
    }
}
