//! Policies of Services that Routes lead to change one after the other.
//!
//! Envoy takes no further clusters until those that it was given are in use. Endpoints that change meanwhile overtake the cluster
//! that they belong to, which then waits 15 s for them in vain: in plaintext where a policy is new, refused where one has gone.

use std::time::Duration;

use crate::domain::{clock::BootInstant, policy::ObjectName};

/// Until a change has come by way of a gateway's controller to its proxies, where nobody says when it has.
const INTERVAL: Duration = Duration::from_millis(150);
/// So long at the most a policy waits for those that come by.
const PASSED_AT_MOST: Duration = Duration::from_secs(2);
/// Until the other proxies have it as well, once one is heard to have it, and until its controller knows so too: as long as it took to
/// be heard, which is longer where all are busy, within these.
const MARGINS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Who has not said by then that it has the change does not have it: longer than a proxy waits for endpoints in vain, for one that
/// began to when the change came.
const PATIENCE: Duration = Duration::from_secs(20);
/// So often. A Service that proxies are not told of, for whatever reason, must not hold up all others.
const PATIENT: u32 = 3;
/// The same after that, until many are heard in a row again.
const LITTLE_PATIENCE: Duration = Duration::from_secs(1);
const MANY: u32 = 50;
/// After so many of these there is a long one again: who waits and is given something to wait for each second is never heard.
const REST_EVERY: u32 = 32;
/// Of two waits, as one may have begun while the other one was on.
const REST: Duration = Duration::from_secs(35);
/// Of more than these it is sooner done with all if they come at once.
const CROWD: usize = 200;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(in crate::service::policy_objects) struct Turns {
    free_at: Option<BootInstant>,
    /// Since when and until when those come by that wait for nobody.
    passed: Option<(BootInstant, BootInstant)>,
    /// Of whom it is to be heard that proxies use its policy, or use it no more.
    awaited: Option<(ObjectName, bool)>,
    /// When that began.
    begun_at: Option<BootInstant>,
    /// How often nobody said so, since many did in a row.
    silences: u32,
    /// How often somebody did since.
    heard: u32,
}

impl Turns {
    /// When the next one may begin, if so many wait.
    pub(super) fn next(&self, waiting: usize, now: BootInstant) -> BootInstant {
        let free_at = self.free_at.max(self.passed.map(|(_, until)| until));
        free_at.filter(|free_at| *free_at > now && waiting <= CROWD).unwrap_or(now)
    }

    /// One begins, of a Service; with what proxies are expected to do, if they can be heard to do it.
    pub(super) fn begin(&mut self, service: ObjectName, expected: Option<bool>, now: BootInstant) {
        if self.awaited.is_some() {
            self.silences = self.silences.saturating_add(1);
            self.heard = 0;
        }
        self.awaited = expected.map(|is_used| (service, is_used));
        self.begun_at = Some(now);
        self.free_at = Some(now.plus(INTERVAL));
    }

    /// It is written, or was not taken.
    pub(super) fn end(&mut self, is_written: bool, now: BootInstant) {
        if !is_written {
            self.awaited = None;
        }
        let pause = match (&self.awaited, self.silences) {
            (None, _) => MARGINS.0,
            (Some(_), silences) if silences < PATIENT => PATIENCE,
            (Some(_), silences) if silences % REST_EVERY == 0 => REST,
            (Some(_), _) => LITTLE_PATIENCE,
        };
        self.free_at = self.free_at.max(Some(now.plus(pause)));
    }

    /// One begins or ends that waits for nobody. Who comes next waits for it as for any other, but not for ever where there are many.
    pub(super) fn passed_by(&mut self, now: BootInstant) {
        let since = self.passed.filter(|(_, until)| *until > now).map_or(now, |(since, _)| since);
        self.passed = Some((since, now.plus(INTERVAL).min(since.plus(PASSED_AT_MOST))));
    }

    /// What is to be heard.
    pub(in crate::service::policy_objects) const fn awaited(&self) -> Option<&(ObjectName, bool)> {
        self.awaited.as_ref()
    }

    /// There is nobody who could be heard.
    pub(in crate::service::policy_objects) fn expect_nobody(&mut self, now: BootInstant) {
        self.awaited = None;
        self.free_at = self.free_at.map(|free_at| free_at.min(now.plus(INTERVAL)));
    }

    /// It was heard.
    pub(in crate::service::policy_objects) fn heard(&mut self, now: BootInstant) {
        self.awaited = None;
        self.heard = self.heard.saturating_add(1);
        if self.heard >= MANY {
            self.silences = 0;
        }
        let took = self.begun_at.map_or(Duration::ZERO, |begun_at| now.since(begun_at));
        self.free_at = Some(now.plus(took.clamp(MARGINS.0, MARGINS.1)));
    }
}
