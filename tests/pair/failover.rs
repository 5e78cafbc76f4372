//! `kill -9` of the active, over and over, under load.

use std::{collections::HashSet, time::Instant};

use crate::{
    load::{Call, Load, longest, longest_gap},
    pair::Pair,
    socket::Watch,
    support::{countersign::Agent, issuance::Issued},
    turn,
};

const KILLS: usize = 20;
const LOOPS: usize = 3;
const CALLS_BEFORE_AND_AFTER: usize = 40;
const LONGEST_GAP_MS: u128 = 1000;

/// What clients got around one kill.
struct Round {
    calls: Vec<Call>,
    killed_at: Instant,
    killed: String,
    survivor: String,
}

#[test]
fn killing_the_active_fails_no_call_and_loses_no_identity() {
    let _turn = turn::alone();
    let mut pair = Pair::start();
    let agents = [("short", "2s"), ("long", "4s")].map(|(name, ttl)| pair.agent(name, ttl));
    let watches = agents.each_ref().map(|agent| Watch::open(&agent.socket));

    let rounds: Vec<Round> = (0..KILLS).map(|_| kill_the_active(&mut pair, &watches)).collect();

    let issued = Issued::list(&pair.data());
    check_log(&issued, &rounds);
    let by_serial = issued.by_serial();
    for (agent, watch) in agents.iter().zip(&watches) {
        watch.check();
        let serials = published(agent);
        let missing: Vec<&String> = serials.iter().filter(|serial| !by_serial.contains_key(serial.as_str())).collect();
        assert!(missing.is_empty(), "got by an agent and in no log: {missing:?}");
        println!("agent on {}: {} identities, none lost", agent.socket.display(), serials.len());
    }
    show(&rounds);
}

fn kill_the_active(pair: &mut Pair, watches: &[Watch]) -> Round {
    let (active, _) = pair.active();
    let standby = 1 - active;
    let caller = pair.caller("default/client");
    let load = Load::start(&caller, &vec![vec![pair.port(standby)]; LOOPS]);
    load.wait_for_more(CALLS_BEFORE_AND_AFTER);
    let (killed, survivor) = (pair.name(active), pair.name(standby));
    let killed_at = Instant::now();
    pair.replicas[active].process.kill();
    let identities: Vec<usize> = watches.iter().map(Watch::updates).collect();
    load.wait_for_more(CALLS_BEFORE_AND_AFTER);
    pair.wait_until_active(standby);
    // the dead one stays dead until each agent has renewed without it
    for (watch, count) in watches.iter().zip(identities) {
        watch.wait_for_updates(count + 1);
    }
    let calls = load.stop_without_failure();
    pair.restart(active);
    Round { calls, killed_at, killed, survivor }
}

/// Every certificate is in the log of the process that was active when it was asked for, and each term has one holder.
fn check_log(issued: &Issued, rounds: &[Round]) {
    let holders = issued.holders();
    assert!(holders.len() > KILLS, "{KILLS} kills, terms: {holders:?}");
    issued.check_order();
    let by_serial = issued.by_serial();
    let mut seen = HashSet::new();
    for Round { calls, killed_at, killed, survivor } in rounds {
        for call in calls {
            assert!(seen.insert(&call.serial), "two callers got serial {}", call.serial);
            let entry = by_serial.get(call.serial.as_str()).unwrap_or_else(|| panic!("{call:?} is in no log"));
            assert!(entry.replica.starts_with(&entry.log), "{entry:?}");
            if call.begun > *killed_at {
                assert_eq!(&entry.replica, survivor, "{call:?}, {entry:?}");
            } else if call.ended < *killed_at {
                assert_eq!(&entry.replica, killed, "{call:?}, {entry:?}");
            }
        }
    }
}

/// The serials that an agent published, as its log says, which knows of no failure.
fn published(agent: &Agent) -> Vec<String> {
    let log = agent.process.errors();
    let bad: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let serial = |line: &str| Some(line.split_once(" serial=")?.1.split(' ').next()?.to_owned());
    log.lines().filter(|line| line.contains("published a new SVID")).filter_map(serial).collect()
}

fn show(rounds: &[Round]) {
    println!("kill  calls  longest gap  longest call");
    for (number, Round { calls, .. }) in rounds.iter().enumerate() {
        let (gap, call) = (longest_gap(calls).as_millis(), longest(calls).as_millis());
        println!("{:>4}  {:>5}  {gap:>8} ms  {call:>9} ms", number + 1, calls.len());
    }
    let gap = rounds.iter().map(|round| longest_gap(&round.calls).as_millis()).max().unwrap_or_default();
    assert!(gap < LONGEST_GAP_MS, "{gap} ms without a certificate");
}
