//! What the active counts of the objects that it keeps for gateways.

use std::fmt::{self, Write};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Metrics, zeroed};
use crate::domain::policy::ObjectKind;

outcomes! {
    /// What came of writing or removing an object.
    ObjectWriteOutcome {
        /// It is as it is wanted.
        Applied = "applied",
        /// It is gone, or going.
        Removed = "removed",
        /// It had just been changed; it is looked at again.
        Outdated = "outdated",
        /// It was not taken as it is.
        Refused = "refused",
        /// Nothing of its kind is taken now.
        Unavailable = "unavailable",
    }
}

outcomes! {
    /// What became of an Event.
    EventOutcome {
        /// It stands in the cluster.
        Written = "written",
        /// It was not taken, or there was no answer.
        Failed = "failed",
        /// There were too many at once.
        Dropped = "dropped",
    }
}

outcomes! {
    /// How it stands with the objects.
    PolicyObjectState {
        /// Those that are to be there.
        Wanted = "wanted",
        /// They are there, as they are to be.
        Right = "right",
        /// To be written or removed.
        Pending = "pending",
    }
}

/// Families by kind.
#[derive(Debug)]
pub(super) struct PolicyObjectMetrics {
    writes: Family<WriteLabels, Counter>,
    objects: Family<ObjectLabels, Gauge>,
    events: Family<[(&'static str, EventOutcome); 1], Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: ObjectKind,
    outcome: ObjectWriteOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    kind: ObjectKind,
    state: PolicyObjectState,
}

impl EncodeLabelValue for ObjectKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl PolicyObjectMetrics {
    /// Every outcome at zero.
    pub(super) fn new() -> Self {
        let metrics = Self { writes: Family::default(), objects: Family::default(), events: zeroed(EventOutcome::ALL) };
        for kind in ObjectKind::ALL {
            for outcome in ObjectWriteOutcome::ALL {
                drop(metrics.writes.get_or_create(&WriteLabels { kind, outcome: *outcome }));
            }
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "policy_object_writes",
            "Writes and removals of objects for gateways by kind and outcome",
            self.writes.clone(),
        );
        registry.register(
            "policy_objects",
            "Objects for gateways by kind and state; on the active replica",
            self.objects.clone(),
        );
        registry.register("policy_events", "Events about policies by outcome", self.events.clone());
    }
}

impl Metrics {
    /// Counts a write or removal.
    pub fn policy_object_written(&self, kind: ObjectKind, outcome: ObjectWriteOutcome) {
        self.policy_objects.writes.get_or_create(&WriteLabels { kind, outcome }).inc();
    }

    /// Counts an Event about a policy.
    pub fn policy_event(&self, outcome: EventOutcome) {
        self.policy_objects.events.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows how many objects of a kind are in each state.
    pub fn set_policy_objects(&self, kind: ObjectKind, count_in: impl Fn(PolicyObjectState) -> usize) {
        for state in PolicyObjectState::ALL {
            let labels = ObjectLabels { kind, state: *state };
            let count = i64::try_from(count_in(*state)).unwrap_or(i64::MAX);
            self.policy_objects.objects.get_or_create(&labels).set(count);
        }
    }

    /// Shows no objects any more: it is another replica that writes them.
    pub fn forget_policy_objects(&self) {
        self.policy_objects.objects.clear();
    }
}
