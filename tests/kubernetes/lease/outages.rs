//! The API server stands still, or is gone.

use std::{thread, time::Duration};

use countersign::{
    domain::{
        clock::{BootInstant, Clock as _},
        leadership::{LeaseTiming, Term},
    },
    runtime::seams::SystemClock,
};

use super::replicas::{Replicas, bound, short};
use crate::{cluster::Cluster, support::wait::wait_until};

/// How soon somebody signs again once the API server answers.
const BACK: Duration = Duration::from_secs(2);

/// Lets time pass while the server is away: until nobody can sign, and then for as long as the outage shall last.
fn outage(replicas: &Replicas, term: Term, begin: BootInstant, length: Duration, timing: LeaseTiming) {
    wait_until(timing.lease() + Duration::from_secs(5), "the end of the outage", || {
        let now = SystemClock.boot();
        if now.since(begin) >= length { Ok(()) } else { Err(format!("{:?}", now.since(begin))) }
    });
    let signatures = replicas.signatures();
    let last = signatures.last().unwrap();
    assert_eq!(last.term, term, "{last:?}");
    let signed_for = last.at.since(begin);
    assert!(signed_for < timing.step_down(), "{signed_for:?} after the last answer");
}

fn back(replicas: &Replicas, term: Term, begin: BootInstant) -> Term {
    let (_, next) = replicas.wait_for_active(term, Duration::from_secs(20));
    let first = wait_until(Duration::from_secs(2), "a signature", || {
        replicas.signatures().into_iter().find(|signature| signature.term == next).ok_or("none in the new term")
    });
    let after = first.at.since(begin);
    println!("signed again {after:?} after the API server was back, in term {next} by {}", first.replica);
    assert!(after < BACK, "signed again only {after:?} after the API server was back");
    next
}

#[test]
fn an_api_server_that_stands_still_ends_the_term_in_time_and_is_used_at_once_when_it_is_back() {
    let mut cluster = Cluster::start();
    let timing = LeaseTiming::DEFAULT;
    let pair = Replicas::start(&cluster, 2, timing);
    let alone = Replicas::start(&cluster, 1, timing);
    let (_, mut of_pair) = pair.wait_for_active(Term::NONE, bound(timing));
    let (_, mut of_alone) = alone.wait_for_active(Term::NONE, bound(timing));
    for _ in 0..2 {
        cluster.pause();
        let begin = SystemClock.boot();
        outage(&pair, of_pair, begin, Duration::from_secs(8), timing);
        outage(&alone, of_alone, begin, Duration::from_secs(8), timing);
        let end = SystemClock.boot();
        cluster.resume();
        (of_pair, of_alone) = thread::scope(|scope| {
            let pair = scope.spawn(|| back(&pair, of_pair, end));
            let alone = scope.spawn(|| back(&alone, of_alone, end));
            (pair.join().unwrap(), alone.join().unwrap())
        });
    }
    pair.assert_terms_do_not_overlap();
    alone.assert_terms_do_not_overlap();
}

#[test]
fn an_api_server_that_is_restarted_is_used_when_it_is_ready() {
    let mut cluster = Cluster::start();
    let pair = Replicas::start(&cluster, 2, short());
    let (_, term) = pair.wait_for_active(Term::NONE, bound(short()));
    cluster.kill();
    wait_until(bound(short()), "the reason told", || {
        let told = pair.all.iter().map(|replica| replica.standing.borrow().trouble.clone());
        let told: Vec<_> = told.flatten().collect();
        if told.len() == 2 { Ok(()) } else { Err(format!("{told:?}")) }
    });
    cluster.restart();
    cluster.wait_until_ready();
    pair.wait_for_active(term, bound(short()));
    wait_until(bound(short()), "no reason any more", || {
        let told = pair.all.iter().find_map(|replica| replica.standing.borrow().trouble.clone());
        told.map_or(Ok(()), Err)
    });
    pair.assert_terms_do_not_overlap();
}
