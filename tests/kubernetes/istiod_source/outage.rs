//! istiod hangs, is killed, comes back; a replica of the pair is killed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tonic::Code;

use super::{
    client::{Asked, ask, to_pair},
    stage::Stage,
};
use crate::{
    cluster::block_on,
    support::{observe::readiness, observe::wait_for, wait::wait_until},
};

/// A request is held so long at the most.
const BOUND: Duration = Duration::from_secs(11);
/// Callers have answers again within this.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn while_istiod_is_away_callers_hear_why_and_need_nobody_when_it_is_back() {
    let mut stage = Stage::set();
    let (_, token) = stage.caller("gateway");
    let ids = stage.replicas.each_ref().map(|replica| replica.process.id());
    let port = stage.replicas[0].port;
    let ask_once = |roots: &str| {
        let began = Instant::now();
        let answer = block_on(async { ask(&to_pair(port, roots), &Asked::by(&token)).await });
        (answer, began.elapsed())
    };
    let recovers = |roots: &str| {
        let began = Instant::now();
        wait_until(SOON, "a certificate again", || ask_once(roots).0.map_err(|error| format!("{error:?}")));
        println!("a certificate {:?} after istiod is back", began.elapsed());
    };
    ask_once(&stage.roots).0.unwrap();

    stage.istiod().pause();
    let (answer, took) = ask_once(&stage.roots);
    let (code, text) = answer.unwrap_err();
    println!("hangs: {code:?} after {took:?}: {text}");
    assert_eq!(code, Code::Unavailable);
    assert!(text.starts_with("istiod can't be reached: 127.0.0.1:"), "{text}");
    assert!(took <= BOUND, "{took:?}");
    stage.istiod().resume();
    recovers(&stage.roots);

    stage.istiod = None;
    let (left_alone, took) = wait_until(BOUND, "an answer at once", || match ask_once(&stage.roots) {
        (Err(said), took) if took < Duration::from_millis(200) => Ok((said, took)),
        other => Err(format!("{other:?}")),
    });
    println!("gone: {left_alone:?} after {took:?}");
    assert_eq!(left_alone.0, Code::Unavailable);
    for _ in 0..8 {
        assert_eq!(ask_once(&stage.roots).0.unwrap_err().0, Code::Unavailable);
    }
    wait_for("a replica that is not ready", "istiod: not ready (127.0.0.1:", || readiness(&stage.replicas[0]));

    stage.start_istiod();
    recovers(&stage.roots);
    stage.wait_until_ready();
    assert_eq!(stage.replicas.each_ref().map(|replica| replica.process.id()), ids, "no restart");
    a_replica_leaves(stage, &token);
}

/// Whoever asks the other one as well never fails.
fn a_replica_leaves(mut stage: Stage, token: &str) {
    let active = wait_until(BOUND, "one of the two active", || {
        let pages = stage.replicas.each_ref().map(readiness);
        pages.iter().position(|page| page.contains("term: ready (active in term ")).ok_or_else(|| pages.concat())
    });
    for number in 0..2 {
        let channels = stage.replicas.each_ref().map(|replica| (replica.port, stage.roots.clone()));
        let ask_either = || {
            block_on(async {
                let mut failures = Vec::new();
                for (port, roots) in &channels {
                    match ask(&to_pair(*port, roots), &Asked::by(token)).await {
                        Ok(_) => return,
                        Err(error) => failures.push(error),
                    }
                }
                panic!("{failures:?}");
            });
        };
        ask_either();
        if number == 0 {
            stage.replicas[active].process.kill();
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(2) {
                ask_either();
            }
            let other = &stage.replicas[1 - active];
            wait_for("the other one active", "term: ready (active in term ", || readiness(other));
            assert!(readiness(other).contains("istiod: ready"));
        } else {
            // one that leaves answers what it has begun
            stage.replicas[1 - active].process.signal(Signal::TERM);
            ask_either();
        }
    }
}
