//! Of a Service's BackendTLSPolicy: whether it took the place of another one a moment ago. A proxy that follows the end of the one
//! before sends plaintext until it follows the new one as well, and goes on asking for identities meanwhile.

use std::time::Duration;

use super::PROXIES_FOLLOW_WITHIN;

/// The one that is there, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyObject {
    /// `None`: it is gone.
    uid: Option<Box<str>>,
    since: Duration,
    /// Whether there was another one shortly before.
    is_another: bool,
    /// Whether requests came by way of pods that go by it.
    is_carried: bool,
}

impl PolicyObject {
    /// What is known once the one with this UID is seen, or none.
    pub(super) fn seen(known: Option<&Self>, uid: Option<&str>, is_carried: bool, now: Duration) -> Option<Self> {
        let Some(known) = known else {
            return uid.map(|uid| Self { uid: Some(uid.into()), since: now, is_another: false, is_carried });
        };
        if known.uid.as_deref() == uid {
            return Some(known.clone());
        }
        let is_another = known.uid.is_some() || known.is_young(now);
        // by when one goes, its Service may require nothing, and nobody be known to lead there
        Some(Self { uid: uid.map(Into::into), since: now, is_another, is_carried: is_carried || known.is_carried })
    }

    /// Requests come by way of pods that go by it.
    pub(super) const fn carry(&mut self) {
        self.is_carried = true;
    }

    /// Whether proxies may still follow the end of one.
    pub(super) fn is_unsettled(&self, now: Duration) -> bool {
        self.is_carried && self.may_settle(now)
    }

    /// Whether it will count for something that time has passed.
    pub(super) fn may_settle(&self, now: Duration) -> bool {
        (self.is_another || self.uid.is_none()) && self.is_young(now)
    }

    /// Whether nothing is to be remembered.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.uid.is_none() && !self.is_young(now)
    }

    /// Whether proxies' controllers may not have followed it yet.
    pub(super) fn is_young(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) < PROXIES_FOLLOW_WITHIN
    }
}
