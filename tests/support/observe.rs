//! What replicas say of themselves: readiness, metrics, log lines.

use std::time::Duration;

use super::{
    countersign::Serve,
    http::{self, loopback},
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
