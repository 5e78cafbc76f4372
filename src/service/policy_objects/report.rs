//! What is said of the objects: one line for each that was written, and for each that stops being right, not for each attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use tracing::{debug, info, warn};

use super::{
    ledger::{Ledger, Outcome, Trouble},
    ports::{ObjectKey, Removed, WriteError},
};
use crate::{
    domain::{clock::BootInstant, policy::ObjectKind},
    service::metrics::{Metrics, PolicyObjectState},
};

/// What was said already.
#[derive(Default)]
pub(super) struct Report {
    /// Objects that are not right, with what was said of them.
    troubles: BTreeMap<ObjectKey, &'static str>,
    closed: BTreeMap<ObjectKind, String>,
    /// Since when something waits.
    waits_since: Option<BootInstant>,
    status: String,
    revision: Option<u64>,
}

/// Of one status.
const NAMED: usize = 5;
/// A log line for each of more objects would be none.
const LINES_AT_ONCE: usize = 20;
/// Until it is said, an object may be on its way.
const PATIENCE: Duration = Duration::from_secs(2);

impl Report {
    /// Shows how it stands: the status, if it is another one.
    pub(super) fn tell(&mut self, ledger: &Ledger, metrics: &Metrics, now: BootInstant) -> Option<String> {
        if self.revision.replace(ledger.revision()) == Some(ledger.revision()) && self.waits_since.is_none() {
            return None;
        }
        let mut of_troubles: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let (mut current, mut lines) = (BTreeMap::new(), 0);
        for (key, trouble) in ledger.troubles() {
            let reason = reason(trouble);
            of_troubles.entry(reason).or_default().push(key.to_string());
            if self.troubles.get(key) != Some(&reason) {
                lines += 1;
                if lines <= LINES_AT_ONCE {
                    log_trouble(key, trouble);
                }
            }
            current.insert(key.clone(), reason);
        }
        if lines > LINES_AT_ONCE {
            warn!(event = "policy_objects_not_right", more = lines - LINES_AT_ONCE);
        }
        self.troubles = current;
        self.tell_closed(ledger);
        let (mut wanted, mut right, mut pending) = (0, 0, 0);
        for kind in ObjectKind::ALL {
            let counts = ledger.counts(kind);
            metrics.set_policy_objects(kind, |state| match state {
                PolicyObjectState::Wanted => counts.wanted,
                PolicyObjectState::Right => counts.right,
                PolicyObjectState::Pending => counts.pending,
            });
            wanted += counts.wanted;
            right += counts.right;
            pending += counts.pending;
        }
        let status = self.status(wanted, right, pending, &of_troubles, now);
        (status != self.status).then(|| {
            self.status.clone_from(&status);
            status
        })
    }

    fn tell_closed(&mut self, ledger: &Ledger) {
        let closed: BTreeMap<ObjectKind, String> = ledger.closed().map(|(kind, why)| (kind, why.to_owned())).collect();
        for (kind, why) in closed.iter().filter(|(kind, why)| self.closed.get(kind) != Some(*why)) {
            warn!(event = "policy_objects_not_taken", kind = kind.as_str(), error = why, "tried again");
        }
        let open: BTreeSet<_> = self.closed.keys().filter(|kind| !closed.contains_key(kind)).collect();
        for kind in open {
            info!(event = "policy_objects_taken_again", kind = kind.as_str());
        }
        self.closed = closed;
    }

    fn status(
        &mut self,
        wanted: usize,
        right: usize,
        pending: usize,
        troubles: &BTreeMap<&'static str, Vec<String>>,
        now: BootInstant,
    ) -> String {
        let mut status = format!("{right} of {wanted} policy objects");
        // a status for each step of a burst says nothing
        let since = *self.waits_since.get_or_insert(now);
        if pending == 0 {
            self.waits_since = None;
        } else if now.since(since) >= PATIENCE {
            let _infallible = write!(status, ", {pending} to be written");
        } else if !self.status.is_empty() {
            return self.status.clone();
        }
        for (reason, objects) in troubles {
            let first = objects.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let _infallible = write!(status, "; {reason}: {first}");
            if objects.len() > NAMED {
                let _infallible = write!(status, " and {} more", objects.len() - NAMED);
            }
        }
        for (kind, why) in &self.closed {
            let _infallible = write!(status, "; {}: {why}", kind.as_str());
        }
        status
    }
}

/// Of one write.
pub(super) fn log(key: &ObjectKey, outcome: &Outcome) {
    let (kind, object) = (key.kind.as_str(), &key.object);
    match outcome {
        Outcome::Applied(_) => info!(event = "policy_object_applied", kind, %object),
        Outcome::Removed(Removed::Gone) => info!(event = "policy_object_removed", kind, %object),
        Outcome::Removed(Removed::Going) => info!(event = "policy_object_removal_begun", kind, %object),
        Outcome::Failed(WriteError::Outdated(why)) => debug!(event = "policy_object_outdated", kind, %object, why),
        // said with the trouble that it is, once
        Outcome::Failed(WriteError::Refused(_) | WriteError::Unavailable { .. }) => {}
    }
}

const fn reason(trouble: Trouble<'_>) -> &'static str {
    match trouble {
        Trouble::Taken => "NameTaken",
        Trouble::Fought => "Fought",
        Trouble::Going(_) => "DeletionPending",
        Trouble::Failing(_) => "Failing",
    }
}

fn log_trouble(key: &ObjectKey, trouble: Trouble<'_>) {
    let (kind, object) = (key.kind.as_str(), &key.object);
    match trouble {
        Trouble::Taken => warn!(
            event = "policy_object_name_taken",
            kind, %object, "somebody else has made it: it is left alone; delete or rename it"
        ),
        Trouble::Fought => warn!(
            event = "policy_object_fought",
            kind, %object, "another writer changes it back: it is put right ever more slowly"
        ),
        Trouble::Going(finalizers) => warn!(
            event = "policy_object_deletion_pending",
            kind, %object, finalizers, "a finalizer keeps it: nothing more is done until it is gone"
        ),
        Trouble::Failing(error) => warn!(event = "policy_object_not_written", kind, %object, error, "tried again"),
    }
}
