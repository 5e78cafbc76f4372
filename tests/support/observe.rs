//! What replicas say of themselves: readiness, metrics, log lines.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::{
    countersign::Serve,
    http::{self, loopback},
    peer::peers_folder,
    wait::wait_until,
};

const SOON: Duration = Duration::from_secs(10);

/// The page of `/readyz`, also of one that is not ready.
pub(crate) fn readiness(serve: &Serve) -> String {
    http::get(loopback(serve.admin_port), "/readyz").unwrap_or_else(|other| other)
}

/// The metric whose line begins with `start`.
pub(crate) fn metric(serve: &Serve, start: &str) -> u64 {
    let page = http::get(loopback(serve.admin_port), "/metrics").unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {start} in\n{page}"))
}

/// Changes of a plugged-in authority that were refused.
pub(crate) fn refused(serve: &Serve) -> u64 {
    metric(serve, "countersign_authority_reloads_total{outcome=\"refused\"}")
}

/// Waits until a replica says in its log, or its readiness, what `text` is.
pub(crate) fn wait_for(what: &str, text: &str, mut source: impl FnMut() -> String) {
    wait_until(SOON, what, || {
        let seen = source();
        if seen.contains(text) { Ok(()) } else { Err(seen) }
    });
}

/// How often a replica has said an event.
pub(crate) fn said(serve: &Serve, event: &str) -> usize {
    serve.process.errors().matches(&format!("event=\"{event}\"")).count()
}

/// Leaves pages of metrics, before a fault and under it, for `tests/alerts.py`.
pub(crate) fn leave_for_alerts(name: &str, before: &str, fault: &str) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let recording = json!({ "at": at, "before": { "pod": before }, "fault": { "pod": fault } });
    let folder = peers_folder().join("scrapes/faults");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.json")), recording.to_string()).unwrap();
}
