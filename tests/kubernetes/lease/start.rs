//! Many at once, and one after the other.

use std::time::Duration;

use countersign::domain::leadership::{LeaseTiming, Role, Term};

use super::replicas::{Replicas, bound};
use crate::{cluster::Cluster, support::wait::wait_until};

#[test]
fn ten_at_once_make_one_active_in_one_term_and_all_know_where_it_is() {
    let replicas = Replicas::start(Cluster::shared(), 10, LeaseTiming::DEFAULT);
    let (active, term) = replicas.wait_for_active(Term::NONE, bound(LeaseTiming::DEFAULT));
    assert_eq!(term, Term::new(1));
    let expected = &replicas.all[active];
    wait_until(Duration::from_secs(10), "all know the holder", || {
        let seen = replicas.all.iter().map(|replica| replica.observed.borrow().clone());
        let wrong: Vec<_> = seen.filter(|seen| seen.as_ref().map(|seen| &seen.replica) != Some(&expected.id)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
    });
    let holder = expected.observed.borrow().clone().unwrap();
    assert_eq!(holder.pair_address, Some(format!("10.0.0.{}:15013", active + 1).parse().unwrap()));
    assert_eq!(holder.term, term);

    let lease = replicas.lease().unwrap();
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_ref(), Some(&expected.id));
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(5), Some(0)));
    // some renewals later it still is that one
    wait_until(Duration::from_secs(20), "four renewals", || {
        let renewed = replicas.lease().and_then(|lease| lease.spec?.renew_time);
        let later = spec
            .renew_time
            .as_ref()
            .zip(renewed.as_ref())
            .is_some_and(|(first, last)| last.0.as_microsecond() - first.0.as_microsecond() > 4_000_000);
        if later { Ok(()) } else { Err(format!("{renewed:?}")) }
    });
    assert_eq!(replicas.wait_for_active(Term::NONE, Duration::ZERO), (active, term));
    assert_eq!(replicas.state.claims(), [Term::new(1)]);
    replicas.assert_terms_do_not_overlap();
}

/// Who only looked each four seconds would need two on the average, and up to four. A hint is heeded once a second here, and
/// it takes up to two of them.
#[test]
fn each_that_leaves_hands_over_at_once() {
    let [renew, step_down, lease] = [4, 9, 12].map(Duration::from_secs);
    let timing = LeaseTiming::new(renew, step_down, lease).unwrap();
    let replicas = Replicas::start(Cluster::shared(), 4, timing);
    let (mut active, mut term) = replicas.wait_for_active(Term::NONE, bound(timing));
    for _ in 0..3 {
        replicas.leave(active);
        let (next, next_term) = replicas.wait_for_active(term, bound(timing));
        assert_eq!(next_term, term.next());
        wait_until(Duration::from_secs(5), "the end of the one that left", || {
            let role = replicas.all[active].standing.borrow().role;
            if role == Role::Stopped { Ok(()) } else { Err(format!("{role:?}")) }
        });
        let first = wait_until(Duration::from_secs(5), "a signature", || {
            replicas.signatures().into_iter().find(|signature| signature.term == next_term).ok_or("none")
        });
        let signatures = replicas.signatures();
        let last = signatures.iter().rfind(|signature| signature.term == term).unwrap();
        let gap = first.at.since(last.at);
        println!("from term {term} to term {next_term}: {gap:?} between two signatures");
        assert!(gap < Duration::from_secs(3), "{gap:?}");
        (active, term) = (next, next_term);
    }
    replicas.assert_terms_do_not_overlap();
}
