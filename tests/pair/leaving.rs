//! SIGTERM of the active under load.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    load::{Call, Load, longest},
    pair::{Pair, Place},
    support::{countersign::Serve, issuance::Issued, wait::wait_until},
    turn,
};

const DEPARTURES: usize = 6;
const WARM_UP: usize = 60;
const QUIET: usize = 300;
const AFTER: usize = 200;
const END: Duration = Duration::from_secs(5);
const LONGER: Duration = Duration::from_millis(200);

#[test]
fn a_replica_that_leaves_fails_no_call_and_delays_none_for_long() {
    let _turn = turn::alone();
    let mut pair = Pair::start();
    let (mut serials, mut said) = (Vec::new(), String::new());
    println!("departure  calls  longest before  longest around it");
    for departure in 1..=DEPARTURES {
        let (active, _) = pair.active();
        let standby = 1 - active;
        let (leaver, stays) = (pair.port(active), pair.port(standby));
        let caller = pair.caller("default/client");
        // whoever talks to the one that leaves knows the other one too, and uses it when a connection is closed
        let load = Load::start(&caller, &[vec![leaver, stays], vec![leaver, stays], vec![stays], vec![stays]]);
        load.wait_for_more(WARM_UP);
        let quiet_from = Instant::now();
        load.wait_for_more(QUIET);
        let asked_at = Instant::now();
        pair.replicas[active].process.signal(Signal::TERM);
        pair.replicas[active].process.wait_for_success(END);
        said += &pair.replicas[active].process.errors();
        load.wait_for_more(AFTER);
        pair.wait_until_active(standby);
        let calls = load.stop_without_failure();

        let (before, around): (Vec<Call>, Vec<Call>) =
            calls.into_iter().filter(|call| call.begun > quiet_from).partition(|call| call.ended < asked_at);
        println!(
            "{departure:>9}  {:>5}  {:>14?}  {:>17?}",
            before.len() + around.len(),
            longest(&before),
            longest(&around)
        );
        assert!(longest(&around) <= longest(&before) + LONGER, "a call waited too long");
        serials.extend(before.into_iter().chain(around).map(|call| call.serial));
        pair.restart(active);
    }
    let issued = Issued::list(&pair.data());
    assert!(issued.holders().len() > DEPARTURES);
    let by_serial = issued.by_serial();
    let missing: Vec<&String> = serials.iter().filter(|serial| !by_serial.contains_key(serial.as_str())).collect();
    assert!(missing.is_empty(), "in no log: {missing:?}");
    said.extend(pair.replicas.iter().map(|replica| replica.process.errors()));
    let audited = audited(&said);
    let unsaid: Vec<_> = by_serial.keys().filter(|serial| !audited.contains(*serial)).collect();
    assert!(unsaid.is_empty(), "without a line of who signed them: {unsaid:?}");
}

/// The serials of which what replicas said tells that they were issued.
fn audited(said: &str) -> HashSet<&str> {
    let issued = said.lines().filter(|line| line.contains(r#"event="certificate_issued""#));
    issued.filter_map(|line| line.split_once(" serial=")?.1.split(' ').next()).collect()
}

#[test]
fn whoever_asks_twice_does_not_wait_for_the_drain() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let mut serve = Serve::start("serve", place.logs(), &place.data(), &["--drain", "60s"]);
    serve.process.signal(Signal::TERM);
    wait_until(END, "it is leaving", || {
        let said = serve.process.errors();
        if said.contains("\"leaving\"") { Ok(()) } else { Err(said) }
    });
    assert!(serve.process.ended().is_none(), "it does not drain");
    serve.process.signal(Signal::INT);
    let status = serve.process.wait_for_end(END);
    assert_eq!(status.code(), Some(1), "{}", serve.process.errors());
}
