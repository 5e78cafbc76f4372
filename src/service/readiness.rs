//! Whether the process can do its work, as named checks that its parts report on.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

/// All checks of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<&'static str, Check>>>);

/// The handle of the part that one check is about. Not ready until it says so.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

/// The state of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Whether that part can do its work.
    pub ready: bool,
    /// Why, or what it waits for; for people.
    pub detail: String,
}

/// All checks at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadinessReport(BTreeMap<&'static str, Check>);

impl Readiness {
    /// Adds a check; one of the same name is replaced.
    pub fn latch(&self, name: &'static str, waits_for: impl Into<String>) -> Latch {
        let latch = Latch { name, readiness: self.clone() };
        latch.not_ready(waits_for);
        latch
    }

    /// The state of all checks.
    pub fn report(&self) -> ReadinessReport {
        ReadinessReport(self.0.borrow().clone())
    }
}

impl Latch {
    /// That part works.
    pub fn ready(&self, detail: impl Into<String>) {
        self.set(true, detail.into());
    }

    /// That part can't work now.
    pub fn not_ready(&self, detail: impl Into<String>) {
        self.set(false, detail.into());
    }

    fn set(&self, ready: bool, detail: String) {
        self.readiness.0.send_modify(|checks| {
            checks.insert(self.name, Check { ready, detail });
        });
    }
}

impl ReadinessReport {
    /// Whether every check is ready. A process that has no check yet is still starting.
    pub fn is_ready(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|check| check.ready)
    }
}

impl fmt::Display for ReadinessReport {
    /// A line for each check: `name: ready (detail)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, check)| {
            let state = if check.ready { "ready" } else { "not ready" };
            if check.detail.is_empty() {
                writeln!(f, "{name}: {state}")
            } else {
                writeln!(f, "{name}: {state} ({})", check.detail)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_every_latch_is() {
        let readiness = Readiness::default();
        assert!(!readiness.report().is_ready());
        let (ca, svid) = (readiness.latch("ca", "starting"), readiness.latch("svid", "no identity yet"));
        ca.ready("");
        assert_eq!(readiness.report().to_string(), "ca: ready\nsvid: not ready (no identity yet)\n");
        assert!(!readiness.report().is_ready());
        svid.ready("until noon");
        assert!(readiness.report().is_ready());
        ca.not_ready("the log can't be written");
        assert!(!readiness.report().is_ready());
        assert_eq!(
            readiness.report().to_string(),
            "ca: not ready (the log can't be written)\nsvid: ready (until noon)\n"
        );
    }
}
