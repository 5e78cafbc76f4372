//! The rotation of a pair's root by the real binary, step by step, with the active killed after each step, while agents and a
//! client that renews only at half of its life hold SVIDs and show them to each other.

#![cfg(feature = "server")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]

#[path = "../support/mod.rs"]
mod support;

mod aged;
mod holders;
#[allow(dead_code, reason = "shared with tests/peers, which uses all of it")]
mod pair;

use std::{fs, time::Instant};

use countersign::domain::x509::Certificate;
use rustix::process::Signal;

use self::{
    holders::Holders,
    pair::{GATE, Pair},
};
use crate::support::{countersign::root_file, wait::wait_until};

fn roots(pair: &Pair) -> usize {
    Certificate::all_from_pem(&fs::read(root_file(&pair.data())).unwrap()).unwrap().len()
}

/// A step whose gates can't be open yet is not taken.
fn not_yet(pair: &Pair, step: &[&str]) {
    let early = pair.refused("x509", step);
    assert!(early.contains("--force"), "{early}");
}

/// Waits until the gates of a step are open and it is taken.
fn when_it_may(pair: &Pair, step: &[&str]) {
    wait_until(GATE, &format!("{step:?}"), || pair.run("x509", step));
}

fn kill_active(pair: &mut Pair, holders: &Holders) {
    pair.kill_active();
    holders.verify();
}

#[test]
fn a_root_is_rotated_under_load_with_the_active_killed_after_each_step_and_nobody_is_refused() {
    let begun = Instant::now();
    let mut pair = Pair::start();
    let holders = Holders::start(&pair);
    let first = pair.only("x509", "active");

    let dry = pair.done("x509", &["prepare", "--dry-run"]);
    assert!(dry.contains("nothing was done") && pair.ids("x509", "prepared").is_empty(), "{dry}");
    let said = pair.done("x509", &["prepare", "--reason", "yearly"]);
    let next = pair.only("x509", "prepared");
    assert!(said.contains(&next) && said.contains("activate waits"), "{said}");
    not_yet(&pair, &["activate", &next]);
    kill_active(&mut pair, &holders);
    wait_until(GATE, "both roots published", || if roots(&pair) == 2 { Ok(()) } else { Err(roots(&pair).to_string()) });

    when_it_may(&pair, &["activate", &next]);
    kill_active(&mut pair, &holders);
    assert_eq!((pair.only("x509", "active"), pair.only("x509", "old")), (next.clone(), first.clone()));

    // half way, and back
    pair.done("x509", &["activate", &first]);
    kill_active(&mut pair, &holders);
    assert_eq!(pair.only("x509", "active"), first);
    holders.renew();
    pair.done("x509", &["activate", &next]);
    let told = pair.done("x509", &["taint", &first, "--reason", "yearly"]);
    assert!(told.contains("revoke waits"), "{told}");
    not_yet(&pair, &["revoke", &first]);
    holders.renew();
    kill_active(&mut pair, &holders);

    when_it_may(&pair, &["revoke", &first]);
    kill_active(&mut pair, &holders);
    assert!(pair.ids("x509", "old").is_empty());
    wait_until(GATE, "one root published", || if roots(&pair) == 1 { Ok(()) } else { Err(roots(&pair).to_string()) });
    holders.renew();
    let (handshakes, renewals) = holders.end();
    println!("{handshakes} pairs verified, {renewals} renewals, none failed, in {:?}", begun.elapsed());
}

#[test]
fn a_key_of_jwt_svids_is_rotated_by_the_same_steps() {
    let pair = Pair::start();
    let first = pair.only("jwt", "active");
    pair.done("jwt", &["prepare"]);
    let next = pair.only("jwt", "prepared");
    assert!(pair.refused("jwt", &["prepare"]).contains("prepared already"));
    assert!(pair.refused("jwt", &["revoke", &first]).contains("only an old one can be revoked"));
    wait_until(GATE, "activate", || pair.run("jwt", &["activate", &next]));
    assert!(pair.refused("jwt", &["revoke", &first]).contains("not tainted"));
    pair.done("jwt", &["taint", &first]);
    let waits = pair.refused("jwt", &["revoke", &first]);
    assert!(waits.contains("end at"), "tokens of five minutes may be out: {waits}");
    let forced = pair.done("jwt", &["revoke", &first, "--force"]);
    assert!(forced.contains("by force; this breaks:"), "{forced}");
    assert_eq!(pair.only("jwt", "active"), next);
    let log = pair.active_log();
    let audit: Vec<_> = log.lines().filter(|line| line.contains("authority jwt ")).collect();
    assert_eq!(audit.len(), 4, "{audit:#?}");
    assert!(audit[3].contains("authority jwt revoke") && audit[3].contains("forced=\"SVIDs"), "{}", audit[3]);
}

#[test]
fn an_agent_that_is_killed_before_it_has_a_new_key_of_jwt_svids_is_waited_for_and_one_that_is_told_to_end_is_not() {
    let pair = Pair::start();
    let [mut killed, mut told] = ["killed", "told"].map(|name| pair.agent(name));
    for agent in [&killed, &told] {
        wait_until(GATE, "an agent that follows", || match agent.process.errors() {
            log if log.contains("trust_changed") => Ok(()),
            log => Err(log),
        });
    }
    told.process.signal(Signal::TERM);
    told.process.wait_for_success(GATE);
    killed.process.pause();
    pair.done("jwt", &["prepare"]);
    killed.process.kill();
    let next = pair.only("jwt", "prepared");
    // whoever federates is waited for in any case, and longer
    let others = |line: &&str| !line.contains("others that federate");
    wait_until(GATE, "the killed one, alone", || match pair.run("jwt", &["activate", &next, "--dry-run"])? {
        held if held.contains("sa/killed, lost sight of") && held.lines().filter(others).count() == 2 => Ok(()),
        held => Err(held),
    });
    let forced = pair.done("jwt", &["activate", &next, "--force"]);
    assert!(forced.contains("sa/killed") && !forced.contains("sa/told"), "{forced}");
}
