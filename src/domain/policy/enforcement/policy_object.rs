//! Of a Service's BackendTLSPolicy: whether it took the place of another one, or of another content, a moment ago. A proxy that follows
//! the end of the one before sends plaintext until it follows the new one as well, and goes on asking for identities meanwhile.

use std::{sync::Arc, time::Duration};

use super::PROXIES_FOLLOW_WITHIN;
use crate::domain::clock::Timestamp;

/// A BackendTLSPolicy of ours as it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySight {
    /// Of two of one name, one after the other, each has its own.
    pub uid: Arc<str>,
    /// Grows when somebody changes what it says.
    pub generation: i64,
    /// When it was made, or changed last, by the API server's clock.
    pub changed_at: Timestamp,
}

/// The one that is there, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyObject {
    /// With its UID, its generation. `None`: it is gone.
    content: Option<(Arc<str>, i64)>,
    /// Until then proxies may still follow what was before.
    young_until: Duration,
    /// Whether there was another one shortly before, or it said something else.
    is_another: bool,
    /// Whether requests came by way of pods that go by it.
    is_carried: bool,
}

impl PolicyObject {
    /// What is known once this is seen, or none.
    pub(super) fn seen(
        known: Option<&Self>,
        sight: Option<&PolicySight>,
        is_carried: bool,
        now: Duration,
    ) -> Option<Self> {
        let content = sight.map(|sight| (Arc::clone(&sight.uid), sight.generation));
        let young_until = now.saturating_add(PROXIES_FOLLOW_WITHIN);
        let Some(known) = known else {
            return content.map(|content| Self { content: Some(content), young_until, is_another: false, is_carried });
        };
        if known.content == content {
            return Some(known.clone());
        }
        let is_another = known.content.is_some() || known.is_young(now);
        // by when one goes, its Service may require nothing, and nobody be known to lead there
        Some(Self { content, young_until, is_another, is_carried: is_carried || known.is_carried })
    }

    /// One that was there, and has been as it is for so long, when this replica began to look. What was before is not known: it may have
    /// been another one.
    pub(super) fn found(sight: &PolicySight, age: Duration, is_carried: bool, now: Duration) -> Self {
        let young_until = now.saturating_add(PROXIES_FOLLOW_WITHIN.saturating_sub(age));
        Self { content: Some((Arc::clone(&sight.uid), sight.generation)), young_until, is_another: true, is_carried }
    }

    /// Requests come by way of pods that go by it.
    pub(super) const fn carry(&mut self) {
        self.is_carried = true;
    }

    /// Whether there is one.
    pub(super) const fn is_there(&self) -> bool {
        self.content.is_some()
    }

    /// Whether proxies may still follow the end of one.
    pub(super) fn is_unsettled(&self, now: Duration) -> bool {
        self.is_carried && self.may_settle(now)
    }

    /// Whether it will count for something that time has passed.
    pub(super) fn may_settle(&self, now: Duration) -> bool {
        (self.is_another || !self.is_there()) && self.is_young(now)
    }

    /// Whether nothing is to be remembered.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        !self.is_there() && !self.is_young(now)
    }

    /// Whether proxies' controllers may not have followed it yet.
    pub(super) fn is_young(&self, now: Duration) -> bool {
        now < self.young_until
    }
}
