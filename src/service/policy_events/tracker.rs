//! What holds, and what of that has begun to.

use std::{collections::BTreeMap, sync::Arc};

use super::{EventSubject, PolicyEvent, SubjectKind};
use crate::{
    domain::policy::{Condition, ObjectName, Severity},
    service::policy_enforcement::Judged,
};

/// What was seen at the last look, and what was given out.
#[derive(Default)]
pub(super) struct Tracker {
    last: Option<Judged>,
    seen: BTreeMap<Key, Severity>,
    told: BTreeMap<Key, Severity>,
}

type Key = (EventSubject, &'static str);

impl Tracker {
    /// Those that hold with this severity at this look and at the one before, and were not given out before.
    pub(super) fn look(&mut self, seen: Judged) -> Vec<PolicyEvent> {
        let is_settled = self.seen == self.told;
        if is_settled && self.last.as_ref().is_some_and(|last| last.is(&seen)) {
            return Vec::new();
        }
        let (mut now, mut begun, mut told) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        each(&seen, |subject, condition| {
            let (reason, severity) = (condition.reason(), condition.severity());
            let key = (subject.clone(), reason);
            if now.get(&key).is_some_and(|known| *known >= severity) {
                return;
            }
            let was_told = self.told.get(&key) == Some(&severity);
            if was_told || self.seen.get(&key) == Some(&severity) {
                told.insert(key.clone(), severity);
            }
            if !was_told && self.seen.get(&key) == Some(&severity) {
                begun.push(PolicyEvent { subject, reason, severity, message: condition.to_string() });
            }
            now.insert(key, severity);
        });
        (self.seen, self.told, self.last) = (now, told, Some(seen));
        begun
    }
}

/// Each condition that is worth an Event.
fn each(seen: &Judged, mut tell: impl FnMut(EventSubject, &Condition)) {
    let mut all = |kind, object: &ObjectName, uid: &str, conditions: &[Condition]| {
        for condition in conditions.iter().filter(|condition| is_worth_it(condition)) {
            tell(EventSubject { kind, object: object.clone(), uid: uid.into() }, condition);
        }
    };
    for namespace in seen.snapshot.namespaces.values() {
        let object = ObjectName { namespace: Arc::clone(&namespace.name), name: Arc::clone(&namespace.name) };
        all(SubjectKind::Namespace, &object, "", &namespace.membership.conditions);
        for policy in namespace.services.values() {
            all(SubjectKind::Service, &policy.service, &policy.uid, &policy.conditions);
        }
    }
    let uid =
        |service: &ObjectName| -> Option<&str> { Some(&seen.snapshot.service(&service.namespace, &service.name)?.uid) };
    for (service, condition) in seen.enforcement.iter() {
        if let Some(uid) = uid(service) {
            all(SubjectKind::Service, service, uid, std::slice::from_ref(condition));
        }
    }
    let Some(plan) = &seen.plan else { return };
    for plan in plan.namespaces.values().flat_map(|namespace| namespace.services.values()) {
        if let Some(uid) = uid(&plan.service) {
            all(SubjectKind::Service, &plan.service, uid, &plan.conditions);
        }
    }
    for state in plan.gateways.values() {
        all(SubjectKind::Gateway, &state.gateway, &state.uid, &state.conditions);
    }
}

fn is_worth_it(condition: &Condition) -> bool {
    condition.severity() > Severity::Notice || matches!(condition, Condition::Enforced { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{
        Backing, Change, ClusterChange, Labels, MeshLabels, NamespaceFacts, PolicyIndex, PolicySnapshot, ServiceFacts,
        Shortfall,
    };

    /// A namespace labelled so, with a Service that stands for a name outside, which is an error in a mesh.
    fn snapshot(injection: &str) -> Arc<PolicySnapshot> {
        let mut index = PolicyIndex::default();
        let labels = MeshLabels { injection: Some(injection.into()), ..MeshLabels::default() };
        let (name, all_labels) = ("n".into(), Labels::default());
        index.apply(ClusterChange::Namespaces(Change::Reset(vec![NamespaceFacts { name, labels, all_labels }])));
        index.apply(ClusterChange::Services(Change::Reset(vec![ServiceFacts {
            object: service(),
            uid: "u1".into(),
            created: 0,
            backing: Backing::ExternalName,
            ports: [].into(),
            opt_out: None,
            tag: None,
        }])));
        index.apply(ClusterChange::Pods(Change::Reset(Vec::new())));
        index.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        index.snapshot().unwrap()
    }

    fn service() -> ObjectName {
        ObjectName::new("n", "s")
    }

    fn seen(snapshot: &Arc<PolicySnapshot>, enforced: Option<Condition>) -> Judged {
        let enforcement = enforced.map(|condition| (service(), condition)).into_iter().collect();
        Judged { snapshot: Arc::clone(snapshot), plan: None, enforcement: Arc::new(enforcement) }
    }

    fn told(events: &[PolicyEvent]) -> Vec<String> {
        events
            .iter()
            .map(|event| format!("{:?} {} {}", event.subject.kind, event.reason, event.severity.as_str()))
            .collect()
    }

    #[test]
    fn what_holds_at_two_looks_is_told_once_and_again_only_when_it_comes_back() {
        let mut tracker = Tracker::default();
        let (odd, off) = (snapshot("odd"), snapshot("disabled"));
        assert_eq!(told(&tracker.look(seen(&odd, None))), [""; 0], "it may be over at once");
        let first = tracker.look(seen(&odd, None));
        for expected in ["Namespace InjectionValueUnknown warning", "Service ExternalName error"] {
            assert!(told(&first).contains(&expected.to_owned()), "{expected}: {first:?}");
        }
        let of_service = first.iter().find(|event| event.reason == "ExternalName").unwrap();
        assert_eq!((of_service.severity, &*of_service.subject.uid), (Severity::Error, "u1"));
        assert!(tracker.look(seen(&odd, None)).is_empty() && tracker.look(seen(&odd, None)).is_empty());
        // what is as it was asked for is none
        assert!(tracker.look(seen(&off, None)).is_empty() && tracker.look(seen(&off, None)).is_empty());
        assert!(tracker.look(seen(&odd, None)).is_empty());
        assert_eq!(told(&tracker.look(seen(&odd, None))), told(&first));
    }

    #[test]
    fn enforced_is_told_and_what_lacks_only_if_it_is_more_than_a_notice() {
        let mut tracker = Tracker::default();
        let on = snapshot("enabled");
        let unasked = || Some(Condition::NotEnforced(Shortfall::Unasked));
        let enforced = || Some(Condition::Enforced { gateways: 1, portable: 0 });
        let outdated = || {
            let gateway = "spiffe://td/g".parse().unwrap();
            Some(Condition::NotEnforced(Shortfall::Outdated { lacking: 1, of: 1, gateway }))
        };
        let mut twice = |condition: fn() -> Option<Condition>| -> Vec<String> {
            let first = tracker.look(seen(&on, condition()));
            assert!(first.is_empty(), "{first:?}");
            told(&tracker.look(seen(&on, condition()))).into_iter().filter(|one| one.contains("Enforced")).collect()
        };
        assert_eq!(twice(unasked), [""; 0]);
        assert_eq!(twice(enforced), ["Service Enforced notice"]);
        assert_eq!(twice(outdated), ["Service NotEnforced warning"]);
        assert_eq!(twice(enforced), ["Service Enforced notice"]);
    }
}
