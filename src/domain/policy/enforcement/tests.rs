use proptest::prelude::*;

use super::*;
use crate::domain::clock::Timestamp;

fn service() -> ObjectName {
    ObjectName::new("test-infra", "backend")
}

fn set(name: &str) -> IdentitySet {
    IdentitySet::of([&format!("spiffe://td/{name}").parse().unwrap()])
}

fn reporter(name: &str) -> Arc<Reporter> {
    Arc::new(Reporter { gateway: format!("spiffe://td/{name}").parse().unwrap(), instance: name.into() })
}

fn holding(streams: u32, accepted: &[(&str, u32)]) -> ContextReport {
    let accepted = accepted.iter().map(|(name, count)| (set(name), *count)).collect();
    ContextReport { streams, accepted, refusal: None }
}

fn says(report: ContextReport) -> ReportChange {
    ReportChange { services: vec![(service(), report)], ..ReportChange::default() }
}

fn sight(uid: &str, generation: i64) -> PolicySight {
    PolicySight { uid: uid.into(), generation, changed_at: Timestamp::from_seconds(0) }
}

/// What is said of the Service when `new` is wanted and gateways hold these.
fn verdict_on(reports: &[ContextReport]) -> String {
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("new")));
    for (number, report) in reports.iter().enumerate() {
        index.report(&reporter(&format!("g{number}")), says(report.clone()));
    }
    let condition = index.settle(Duration::ZERO)[&service()].clone();
    format!("{} {} {condition}", condition.severity().as_str(), condition.reason())
}

#[test]
fn only_what_every_gateway_that_asks_has_accepted_is_enforced() {
    let refused = |message: &str| ContextReport { refusal: Some(message.into()), ..holding(1, &[("old", 1)]) };
    let rows: &[(&[ContextReport], &str)] = &[
        (&[], "notice NotEnforced no gateway is known to ask"),
        (&[holding(0, &[])], "notice NotEnforced no gateway is known to ask"),
        (&[holding(1, &[("new", 1)])], "notice Enforced "),
        (&[holding(2, &[("new", 2)]), holding(1, &[("new", 1)])], "notice Enforced "),
        (&[holding(1, &[("new", 1)]), holding(0, &[])], "notice Enforced "),
        (&[holding(1, &[])], "warning NotEnforced 1 of 1 gateways"),
        (&[holding(1, &[("old", 1)])], "warning NotEnforced 1 of 1 gateways"),
        (&[holding(2, &[("new", 1)])], "warning NotEnforced 1 of 1 gateways"),
        (&[holding(2, &[("new", 1), ("old", 1)])], "warning NotEnforced 1 of 1 gateways"),
        (&[holding(1, &[("new", 1)]), holding(1, &[("old", 1)])], "warning NotEnforced 1 of 2 gateways"),
        (&[holding(1, &[("old", 1)]), holding(1, &[])], "warning NotEnforced 2 of 2 gateways"),
        (&[refused("a\nb"), holding(1, &[("new", 1)])], "error NotEnforced the proxy of spiffe://td/g0 refuses"),
    ];
    for (reports, expected) in rows {
        let said = verdict_on(reports);
        assert!(said.starts_with(expected), "{reports:?}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn a_policy_is_used_once_all_who_ask_have_accepted_something_and_no_more_once_nobody_asks() {
    /// Subscriptions, and how many of them have accepted something.
    type Held = (u32, u32);
    let mut index = EnforcementIndex::default();
    assert_eq!(index.is_used(&service()), Some(false));
    let rows: &[(&[Held], Option<bool>)] = &[
        (&[(0, 0)], Some(false)),
        (&[(1, 0)], None),
        (&[(1, 1)], Some(true)),
        (&[(2, 1)], None),
        (&[(1, 1), (1, 0)], None),
        (&[(1, 1), (2, 2)], Some(true)),
        (&[(0, 0), (0, 0)], Some(false)),
    ];
    for (reports, expected) in rows {
        for (number, (streams, accepted)) in reports.iter().enumerate() {
            let report = if *accepted > 0 { holding(*streams, &[("any", *accepted)]) } else { holding(*streams, &[]) };
            index.report(&reporter(&format!("g{number}")), says(report));
        }
        assert_eq!(index.is_used(&service()), *expected, "{reports:?}");
    }
}

#[test]
fn a_policy_that_was_made_anew_is_not_in_force_before_proxies_can_have_followed_the_end_of_the_one_before() {
    let at = Duration::from_secs;
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    index.carry(service(), [(reporter("g").gateway.clone(), 1)].into());
    let mut look = |seen: Option<Option<&str>>, now: u64| {
        if let Some(uid) = seen {
            index.see_object(service(), uid.map(|uid| sight(uid, 1)).as_ref(), at(now));
        }
        let condition = index.settle(at(now))[&service()].clone();
        (condition == Condition::NotEnforced(Shortfall::Remade), index.objects().count())
    };
    assert_eq!(look(None, 0), (false, 0), "nobody writes objects");
    assert_eq!(look(Some(Some("1")), 0), (false, 1), "the first one");
    assert_eq!(look(Some(None), 10), (true, 1));
    assert_eq!(look(Some(Some("2")), 10), (true, 1));
    assert_eq!(look(Some(Some("2")), 69), (true, 1));
    assert_eq!(look(None, 70), (false, 1));
    assert_eq!(look(Some(Some("3")), 80), (true, 1), "its end was not seen");
    assert_eq!((look(None, 139), look(None, 140)), ((true, 1), (false, 1)));
    assert_eq!(look(Some(None), 150), (true, 1));
    assert_eq!(look(Some(Some("4")), 209), (true, 1));
    assert_eq!(look(Some(None), 300), (true, 1));
    assert_eq!(look(None, 360), (false, 0), "gone for long");
    assert_eq!(look(Some(None), 361), (false, 0));
    assert_eq!(look(Some(Some("5")), 361), (false, 1), "as the first one");
    // no Route leads there when the policy goes, nor yet when the label is back: as one did before, proxies may follow late
    index.require(service(), None);
    index.carry(service(), Carriers::new());
    index.see_object(service(), None, at(400));
    assert!(index.settle(at(400)).is_empty() && index.objects().count() == 1);
    index.require(service(), Some(set("one")));
    assert_eq!(index.settle(at(401))[&service()], Condition::NotEnforced(Shortfall::Remade));
    index.require(service(), None);
    assert!(index.settle(at(460)).is_empty() && index.objects().count() == 0);
    // nobody's requests go by this one: who asks was told by its agent alone
    index.require(service(), Some(set("one")));
    for uid in [Some("6"), None, Some("7")] {
        index.see_object(service(), uid.map(|uid| sight(uid, 1)).as_ref(), at(500));
        assert_eq!(index.settle(at(500))[&service()].reason(), "Enforced");
    }
}

/// One whose requests come by way of a pod that has accepted what is wanted.
fn carried() -> EnforcementIndex {
    let mut index = EnforcementIndex::default();
    index.require(service(), Some(set("one")));
    index.report(&reporter("g"), says(holding(1, &[("one", 1)])));
    index.carry(service(), [(reporter("g").gateway.clone(), 1)].into());
    index
}

#[test]
fn a_policy_that_somebody_changes_is_not_in_force_before_proxies_can_have_followed_that_it_was_put_right() {
    let (mut index, at) = (carried(), Duration::from_secs);
    let rows = [(0, 1, "Enforced"), (5, 1, "Enforced"), (100, 2, "NotEnforced"), (110, 3, "NotEnforced")];
    for (now, generation, expected) in rows {
        index.see_object(service(), Some(&sight("1", generation)), at(now));
        assert_eq!(index.settle(at(now))[&service()].reason(), expected, "{now}");
    }
    assert_eq!(index.settle(at(169))[&service()], Condition::NotEnforced(Shortfall::Remade));
    assert_eq!(index.settle(at(170))[&service()].reason(), "Enforced");
}

#[test]
fn of_a_policy_that_is_found_it_is_not_known_what_was_before_until_it_is_a_minute_old() {
    let at = Duration::from_secs;
    for (age, until) in [(0, 60), (20, 40), (59, 1), (60, 0), (4000, 0)] {
        let mut index = carried();
        index.find_object(service(), &sight("1", 1), at(age), at(7));
        index.see_object(service(), Some(&sight("1", 1)), at(7));
        if until > 0 {
            assert_eq!(index.settle(at(7 + until - 1))[&service()], Condition::NotEnforced(Shortfall::Remade), "{age}");
        }
        assert_eq!(index.settle(at(7 + until))[&service()].reason(), "Enforced", "{age}");
    }
}

#[test]
fn nothing_is_in_force_while_the_policy_that_is_to_be_there_is_not() {
    let (mut index, edge) = (carried(), ObjectName::new("edge", "public"));
    let lacking = Condition::NotEnforced(Shortfall::Unwritten { gateways: [edge.clone()].into() });
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced", "no Gateway is known to go by one");
    index.bind(service(), std::slice::from_ref(&edge));
    assert_eq!(index.settle(Duration::ZERO)[&service()], lacking);
    index.see_object(service(), Some(&sight("1", 1)), Duration::ZERO);
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced");
    index.see_object(service(), None, Duration::ZERO);
    assert_eq!(index.settle(Duration::from_secs(4000))[&service()], lacking);
    index.bind(service(), &[]);
    assert_eq!(index.settle(Duration::from_secs(4000))[&service()].reason(), "Enforced");
}

#[test]
fn nobody_is_a_set_like_any_other() {
    let mut index = EnforcementIndex::default();
    let nobody = IdentitySet::of([]);
    index.require(service(), Some(nobody));
    index.report(&reporter("g"), says(holding(1, &[("old", 1)])));
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "NotEnforced");
    let report = ContextReport { streams: 1, accepted: [(nobody, 1)].into(), refusal: None };
    index.report(&reporter("g"), says(report));
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced");
}

#[test]
fn every_pod_that_requests_come_by_is_to_ask() {
    let (mut index, two) = (EnforcementIndex::default(), Reporter { instance: "2".into(), ..(*reporter("g")).clone() });
    let two = Arc::new(two);
    index.require(service(), Some(set("new")));
    index.carry(service(), [(reporter("g").gateway.clone(), 2)].into());
    index.report(&reporter("g"), says(holding(1, &[("new", 1)])));
    // another gateway's is none of them
    index.report(&reporter("other"), says(holding(1, &[("new", 1)])));
    let gateway = reporter("g").gateway.clone();
    let unheard = Condition::NotEnforced(Shortfall::Unheard { gateway, asking: 1, pods: 2 });
    assert_eq!(index.settle(Duration::ZERO)[&service()], unheard);
    index.report(&two, says(holding(0, &[])));
    assert_eq!(index.settle(Duration::ZERO)[&service()], unheard, "an agent whose proxy does not ask");
    index.report(&two, says(holding(1, &[("new", 1)])));
    assert_eq!(index.settle(Duration::ZERO)[&service()], Condition::Enforced { gateways: 3, portable: 0 });
    index.forget(&two);
    assert_eq!(index.settle(Duration::ZERO)[&service()], unheard);
    index.carry(service(), [(reporter("g").gateway.clone(), 1)].into());
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced");
    index.carry(service(), Carriers::new());
    assert!(index.carriers.is_empty());
}

#[test]
fn a_new_set_is_not_in_force_before_it_is_accepted_and_nothing_is_said_without_a_policy() {
    let (mut index, gateway) = (EnforcementIndex::default(), reporter("g"));
    index.report(&gateway, says(holding(1, &[("one", 1)])));
    assert!(index.settle(Duration::ZERO).is_empty());
    index.require(service(), Some(set("one")));
    let first = index.settle(Duration::ZERO);
    assert_eq!(first[&service()], Condition::Enforced { gateways: 1, portable: 0 });
    assert!(Arc::ptr_eq(&first, &index.settle(Duration::ZERO)), "nothing has changed");
    index.require(service(), Some(set("two")));
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "NotEnforced");
    index.report(&gateway, says(holding(1, &[("two", 1)])));
    assert_eq!(index.settle(Duration::ZERO)[&service()].reason(), "Enforced");
    index.forget(&gateway);
    assert_eq!(index.settle(Duration::ZERO)[&service()], Condition::NotEnforced(Shortfall::Unasked));
    index.require(service(), None);
    assert!(index.settle(Duration::ZERO).is_empty());
    assert!(index.reports.is_empty() && index.reporters.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Require(u8, Option<u8>),
    Says(u8, u8, Option<(u32, u8)>),
    Anew(u8),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let held = proptest::option::of((1_u32..3, 0_u8..3));
    prop_oneof![
        (0_u8..3, proptest::option::of(0_u8..3)).prop_map(|(service, set)| Step::Require(service, set)),
        (0_u8..3, 0_u8..3, held).prop_map(|(reporter, service, held)| Step::Says(reporter, service, held)),
        (0_u8..3).prop_map(Step::Anew),
        (0_u8..3).prop_map(Step::Forget),
    ]
}

fn numbered(number: u8) -> ObjectName {
    ObjectName::new("n", &format!("s{number}"))
}

proptest! {
    /// Whatever came in whatever order, what is said depends on what is wanted and held in the end alone; and a reader who
    /// is told changes holds what is held.
    #[test]
    fn only_the_end_counts(steps in prop::collection::vec(step(), 1..60)) {
        let mut index = EnforcementIndex::default();
        let mut required = BTreeMap::new();
        let mut held: BTreeMap<u8, Report> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Require(service, identities) => {
                    let identities = identities.map(|number| set(&number.to_string()));
                    index.require(numbered(service), identities);
                    required.insert(numbered(service), identities);
                }
                Step::Says(of, service, report) => {
                    let before = held.get(&of).cloned();
                    let now = held.entry(of).or_default();
                    match report {
                        Some((streams, number)) => {
                            now.insert(numbered(service), holding(streams, &[(&number.to_string(), streams)]));
                        }
                        None => _ = now.remove(&numbered(service)),
                    }
                    if let Some(change) = ReportChange::between(before.as_ref(), now) {
                        index.report(&reporter(&of.to_string()), change);
                    }
                }
                Step::Anew(of) => {
                    let now = held.entry(of).or_default();
                    index.report(&reporter(&of.to_string()), ReportChange::between(None, now).unwrap());
                }
                Step::Forget(of) => {
                    held.remove(&of);
                    index.forget(&reporter(&of.to_string()));
                }
            }
            index.settle(Duration::ZERO);
        }
        let mut fresh = EnforcementIndex::default();
        for (of, report) in &held {
            prop_assert_eq!(&index.report_of(&reporter(&of.to_string())), report);
            fresh.report(&reporter(&of.to_string()), ReportChange::between(None, report).unwrap());
        }
        required.into_iter().for_each(|(service, identities)| fresh.require(service, identities));
        prop_assert_eq!(index.settle(Duration::ZERO), fresh.settle(Duration::ZERO));
    }
}
