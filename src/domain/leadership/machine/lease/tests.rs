use std::time::Duration;

use super::*;

fn after(millis: u64) -> BootInstant {
    BootInstant::from_nanos(0).plus(Duration::from_millis(millis))
}

fn me() -> HolderId {
    HolderId::parse("me").unwrap()
}

fn step(election: &mut LeaseElection, event: Event, millis: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    election.handle(event, after(millis), &mut actions);
    actions
}

fn seen(version: &str, term: u64) -> Event {
    let record = LeaseRecord { term: Term::new(term), occupancy: Occupancy::Held(me()) };
    Event::LeaseRead(Some(Observed { version: Version::new(version), record }))
}

/// Has written term 1 into an empty lease at version "1".
fn taken() -> LeaseElection {
    let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
    step(&mut election, Event::Tick, 0);
    step(&mut election, Event::LeaseRead(None), 0);
    step(&mut election, Event::LeaseWritten(Version::new("1")), 0);
    election
}

fn active() -> LeaseElection {
    let mut election = taken();
    step(&mut election, Event::StateClaimed { term: Term::new(1) }, 0);
    step(&mut election, Event::Tick, 1);
    let mut actions = Vec::new();
    for millis in [1_000, 1_001] {
        let event = if millis == 1_000 { Event::Tick } else { Event::LeaseWritten(Version::new("2")) };
        actions.extend(step(&mut election, event, millis));
    }
    assert!(matches!(actions.last(), Some(Action::Grant { .. })), "{actions:?}");
    election
}

/// With a renewal of unknown outcome, then a read that finds `found`.
fn doubting(mut election: LeaseElection, found: Event) -> LeaseElection {
    step(&mut election, Event::Tick, 2_100);
    step(&mut election, Event::LeaseUnknown, 2_200);
    step(&mut election, Event::Tick, 2_500);
    step(&mut election, found, 2_510);
    election
}

#[test]
fn a_lost_answer_is_made_good_only_while_active_and_only_by_the_own_record() {
    assert_eq!(doubting(active(), seen("9", 1)).role(), Role::Active);
    assert_eq!(doubting(active(), seen("9", 2)).role(), Role::Standby, "an edited term");
    assert_eq!(doubting(active(), Event::LeaseRead(None)).role(), Role::Standby, "a deleted lease");
    assert_eq!(doubting(taken(), seen("9", 1)).role(), Role::Standby, "never granted");
}

/// Its term 1 has run out while the server was away, and then it reads `found`.
fn expired(found: Event) -> (LeaseElection, Vec<Action>) {
    let mut election = active();
    step(&mut election, Event::Tick, 2_100);
    step(&mut election, Event::LeaseUnknown, 3_100);
    let revoked = step(&mut election, Event::Tick, 4_600);
    assert!(matches!(revoked.first(), Some(Action::Revoke { reason: Reason::Expired, .. })), "{revoked:?}");
    let actions = step(&mut election, found, 8_000);
    (election, actions)
}

fn take(expected: Option<&str>, term: u64) -> Vec<Action> {
    let record = LeaseRecord { term: Term::new(term), occupancy: Occupancy::Held(me()) };
    vec![Action::WriteLease { expected: expected.map(Version::new), record }]
}

#[test]
fn after_an_outage_the_own_record_is_taken_at_once_for_the_term_after() {
    for (found, expected) in [(seen("9", 1), Some("9")), (Event::LeaseRead(None), None)] {
        let (mut election, actions) = expired(found);
        assert_eq!(actions, take(expected, 2), "a late write, or a deleted lease");
        let claim = step(&mut election, Event::LeaseWritten(Version::new("10")), 8_010);
        assert_eq!(claim, [Action::ClaimState { term: Term::new(2) }]);
        let renewal = step(&mut election, Event::StateClaimed { term: Term::new(2) }, 8_020);
        assert_eq!(renewal, take(Some("10"), 2));
        let granted = step(&mut election, Event::LeaseWritten(Version::new("11")), 8_030);
        assert!(matches!(granted.as_slice(), [Action::Grant { .. }]), "{granted:?}");
    }
    let (election, actions) = expired(seen("9", 2));
    let role = election.role();
    assert_eq!((role, actions), (Role::Standby, vec![Action::ReadLease]), "the own name in a term that it never had");
}

#[test]
fn the_own_record_is_no_proof_once_a_claim_was_refused() {
    let (mut election, _) = expired(seen("9", 1));
    step(&mut election, Event::LeaseWritten(Version::new("10")), 8_010);
    let (term, highest) = (Term::new(2), Term::new(2));
    let raised = step(&mut election, Event::StateRefused { term, highest }, 8_020);
    assert_eq!(raised, take(Some("10"), 3));
    step(&mut election, Event::LeaseWritten(Version::new("11")), 8_030);
    step(&mut election, Event::StateClaimed { term: Term::new(3) }, 8_040);
    for millis in (9_030..13_000).step_by(1_000) {
        step(&mut election, Event::Tick, millis);
        let actions = step(&mut election, Event::LeaseWritten(Version::new(&millis.to_string())), millis);
        assert!(!actions.iter().any(|action| matches!(action, Action::Grant { .. })), "{millis}: {actions:?}");
    }
}

#[test]
fn a_state_that_can_not_be_used_is_left_to_others_for_the_time_that_they_need() {
    let mut election = taken();
    let given_up = step(&mut election, Event::StateUnusable { term: Term::new(1) }, 10);
    let record = LeaseRecord { term: Term::new(1), occupancy: Occupancy::Vacant };
    assert_eq!(given_up, [Action::WriteLease { expected: Some(Version::new("1")), record: record.clone() }]);
    step(&mut election, Event::LeaseWritten(Version::new("2")), 20);
    assert_eq!(election.role(), Role::Standby);
    let found = Event::LeaseRead(Some(Observed { version: Version::new("2"), record }));
    let mut taken_at = None;
    for millis in (30..10_000).step_by(10) {
        match step(&mut election, Event::Tick, millis).as_slice() {
            [] => {}
            [Action::ReadLease] => drop(step(&mut election, found.clone(), millis)),
            other => {
                assert_eq!(other, take(Some("2"), 2));
                taken_at = taken_at.or(Some(millis));
                break;
            }
        }
    }
    assert_eq!(taken_at, Some(8_010), "a lease and three renewals later");
}

#[test]
fn one_that_leaves_while_it_gives_up_stops_after_its_stores_are_closed() {
    let mut election = taken();
    step(&mut election, Event::StateUnusable { term: Term::new(1) }, 10);
    assert_eq!(step(&mut election, Event::ShutdownAsked, 20), [Action::CloseStores]);
    step(&mut election, Event::LeaseWritten(Version::new("2")), 30);
    assert_eq!(election.role(), Role::Leaving);
    step(&mut election, Event::StoresClosed, 40);
    assert_eq!(election.role(), Role::Stopped);
}

#[test]
fn hints_are_heeded_at_once_and_at_a_distance() {
    let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
    let found = || Event::LeaseRead(Some(Observed { version: Version::new("1"), record: stranger() }));
    step(&mut election, Event::Tick, 0);
    step(&mut election, found(), 10);
    let mut reads = Vec::new();
    for millis in 11..=900 {
        if !step(&mut election, Event::LeaseChanged, millis).is_empty() {
            reads.push(millis);
            step(&mut election, found(), millis);
        }
    }
    assert_eq!(reads, [11, 12, 511, 512], "two at once, and no more than four in a renewal's time");
}

#[test]
fn a_hint_that_comes_while_a_read_is_under_way_is_not_lost() {
    let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
    step(&mut election, Event::Tick, 0);
    step(&mut election, Event::LeaseChanged, 5);
    let before = Event::LeaseRead(Some(Observed { version: Version::new("1"), record: stranger() }));
    assert_eq!(step(&mut election, before, 10), [Action::ReadLease], "what was read may be older than the hint");
}

fn stranger() -> LeaseRecord {
    LeaseRecord { term: Term::new(7), occupancy: Occupancy::Held(HolderId::parse("another").unwrap()) }
}

#[test]
fn only_a_term_that_was_granted_is_marked_as_released() {
    for (mut election, left) in [(active(), Occupancy::Released(me())), (taken(), Occupancy::Vacant)] {
        step(&mut election, Event::ShutdownAsked, 1_500);
        let actions = step(&mut election, Event::StoresClosed, 1_600);
        let record = LeaseRecord { term: Term::new(1), occupancy: left };
        assert!(matches!(actions.as_slice(), [Action::WriteLease { record: it, .. }] if *it == record), "{actions:?}");
    }
}

#[test]
fn failures_are_not_repeated_at_once() {
    let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
    assert_eq!(step(&mut election, Event::Tick, 0), [Action::ReadLease]);
    assert_eq!(step(&mut election, Event::LeaseUnknown, 1), []);
    assert_eq!(election.next_wake(), Some(after(251)));
}
