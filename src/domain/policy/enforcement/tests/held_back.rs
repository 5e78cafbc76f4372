//! What is not in force though proxies have accepted it.

use super::*;
use crate::domain::policy::{PortSight, ProbeFinding, Severity};

#[test]
fn whoever_has_accepted_the_identities_or_shows_them_a_port_goes_by_somebody_elses_policy() {
    let port: Box<str> = "http".into();
    let overruled = Condition::NotEnforced(Shortfall::Overruled { ports: [port.clone()].into() });
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    let refusing = ContextReport { refusal: Some("why".into()), ..holding(1, &[]) };
    for by_agent in [true, false] {
        if !by_agent {
            let uptake = Uptake {
                routed: 1,
                lacking: [].into(),
                written: Some(set("one")),
                ports: [80, 81].into(),
                refuses_plaintext: true,
            };
            index.forget(&reporter("g"));
            index.take_up(service(), Some((set("one"), uptake)), Duration::ZERO);
            let mutual = PortSight { pod: "p".into(), finding: ProbeFinding::Mutual };
            index.see(&service(), set("one"), ProbeSight([(80, Some(mutual.clone())), (81, Some(mutual))].into()));
        }
        assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced");
        index.overrule(service(), std::slice::from_ref(&port));
        let said = index.settle(Duration::ZERO)[&service()].clone();
        assert_eq!((said.severity(), &said), (Severity::Warning, &overruled));
        assert!(said.to_string().contains("its port http, to which a Route leads"), "{said}");
        index.overrule(service(), &[]);
        assert!(index.overruled.is_empty());
    }
    // what else may be wrong is not known of that port
    index.overrule(service(), &[port]);
    index.report(&reporter("g"), says(refusing));
    assert_eq!(index.settle(Duration::ZERO)[&service()], overruled);
}

#[test]
fn where_a_proxy_has_several_clusters_a_new_policy_is_in_force_only_once_each_can_have_followed_it() {
    let at = Duration::from_secs;
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.carry(service(), [(reporter("g").gateway.clone(), 1)].into());
    index.split(service(), true);
    index.see_object(service(), Some(&sight("1", 1)), at(0));
    index.report(&reporter("g"), says(holding(1, &[])));
    let said = |index: &mut EnforcementIndex, now: u64| {
        let said = index.settle(at(now))[&service()].clone();
        if matches!(said, Condition::NotEnforced(Shortfall::Warming)) {
            return "warming";
        }
        if matches!(said, Condition::NotEnforced(Shortfall::Outdated { .. })) {
            return "outdated";
        }
        assert!(matches!(said, Condition::Enforced { .. }), "{said}");
        "enforced"
    };
    assert_eq!(said(&mut index, 5), "outdated");
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    // from when one of them is heard, and not from when the policy came
    for (now, expected) in [(10, "warming"), (26, "warming"), (27, "enforced"), (28, "enforced")] {
        assert_eq!(said(&mut index, now), expected, "{now}");
    }
    // the subscription is one, and all of them hear of other identities
    index.require(service(), Some(set("two")));
    assert_eq!(said(&mut index, 30), "outdated");
    index.report(&reporter("g"), says(holding(1, &[("two", 1)])));
    assert_eq!(said(&mut index, 31), "enforced");
    // a cluster that comes begins with the policy
    index.split(service(), false);
    assert_eq!(said(&mut index, 32), "enforced");
    index.split(service(), true);
    assert_eq!(said(&mut index, 33), "enforced");
    // also where the first word comes late
    for heard in [55, 120] {
        let mut index = EnforcementIndex::default();
        index.require(service(), Some(set("one")));
        index.split(service(), true);
        index.see_object(service(), Some(&sight("1", 1)), at(0));
        index.settle(at(1));
        index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
        for (after, expected) in [(0, "warming"), (16, "warming"), (17, "enforced")] {
            assert_eq!(said(&mut index, heard + after), expected, "heard at {heard}, {after} s ago");
        }
    }
    // without several, the first word counts
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.see_object(service(), Some(&sight("1", 1)), at(0));
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    assert_eq!(said(&mut index, 1), "enforced");
    // and where nobody writes objects, none is new
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.split(service(), true);
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    assert_eq!(said(&mut index, 1), "enforced");
}
