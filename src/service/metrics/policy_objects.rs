//! What the active counts of the objects that it keeps for gateways.

use std::collections::BTreeMap;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::{ByLabel, EventOutcome, Metrics, ObjectWriteOutcome, PolicyObjectState, zeroed};
use crate::domain::policy::ObjectKind;

/// Families by kind.
#[derive(Debug)]
pub(super) struct PolicyObjectMetrics {
    pub(super) writes: Family<WriteLabels, Counter>,
    pub(super) objects: Family<ObjectLabels, Gauge>,
    pub(super) events: Family<ByLabel<EventOutcome>, Counter>,
    /// By reason: each is a condition's own, of which there is a fixed number.
    pub(super) conditions: Family<ByLabel<&'static str>, Gauge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WriteLabels {
    kind: ObjectKind,
    outcome: ObjectWriteOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ObjectLabels {
    kind: ObjectKind,
    state: PolicyObjectState,
}

impl PolicyObjectMetrics {
    /// Every outcome at zero.
    pub(super) fn new() -> Self {
        let (writes, objects, conditions) = <(Family<_, Counter>, _, _)>::default();
        let metrics = Self { writes, objects, events: zeroed(EventOutcome::ALL), conditions };
        for kind in ObjectKind::ALL {
            for outcome in ObjectWriteOutcome::ALL {
                drop(metrics.writes.get_or_create(&WriteLabels { kind, outcome: *outcome }));
            }
        }
        metrics
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

    /// Shows for how many Services and Gateways something holds that is in the way, by its reason.
    pub fn set_gateway_conditions(&self, counts: &BTreeMap<&'static str, usize>) {
        self.policy_objects.conditions.clear();
        for (reason, count) in counts {
            let gauge = self.policy_objects.conditions.get_or_create_owned(&[("reason", *reason)]);
            gauge.set(i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }

    /// Shows no objects any more: it is another replica that writes them.
    pub fn forget_policy_objects(&self) {
        self.policy_objects.objects.clear();
        self.policy_objects.conditions.clear();
    }
}
