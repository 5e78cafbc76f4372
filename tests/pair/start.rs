//! How fast the first identity is there, and how much memory the processes hold.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    pair::{Pair, Place, stable_port},
    socket::{fetch, fetch_first},
    support::{countersign::Serve, process::Process},
    turn,
};

const STARTS: usize = 5;
/// The bounds are those of what is shipped; an unoptimized build gets a wide one for time, and none for memory.
const FIRST_IDENTITY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 100 });
const SERVE_KIB: u64 = if cfg!(debug_assertions) { u64::MAX } else { 20 << 10 };
const AGENT_KIB: u64 = if cfg!(debug_assertions) { u64::MAX } else { 10 << 10 };

#[test]
fn the_first_identity_is_there_at_once() {
    let _turn = turn::alone();
    let mut took: Vec<Duration> = (0..STARTS)
        .map(|_| {
            let place = Place::new();
            let begun = Instant::now();
            let _serve = Serve::spawn("serve", place.logs(), &place.data(), stable_port(), &[]);
            let identity = fetch_first(&place.data().join("workload.sock"));
            let took = begun.elapsed();
            assert_eq!(identity.spiffe_id, "spiffe://cluster.local/ns/default/sa/gateway");
            took
        })
        .collect();
    took.sort();
    println!("first identity on an empty directory: {took:?}");
    assert!(took[STARTS / 2] < FIRST_IDENTITY, "{took:?}");
}

#[test]
fn idle_processes_are_small() {
    let _turn = turn::alone();
    let pair = Pair::start();
    let agent = pair.agent("agent", "1h");
    fetch(&agent.socket);
    let (active, _) = pair.active();
    let [active, standby] = [active, 1 - active].map(|index| resident_kib(&pair.replicas[index].process));
    let agent = resident_kib(&agent.process);
    println!("resident: active {active} KiB, standby {standby} KiB, agent {agent} KiB");
    assert!(active.max(standby) < SERVE_KIB, "serve: {active} and {standby} KiB");
    assert!(agent < AGENT_KIB, "agent: {agent} KiB");
}

fn resident_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
