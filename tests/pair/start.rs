//! How fast the first identity is there, and how much memory the processes hold.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    pair::{Pair, Place},
    socket::{fetch, fetch_first},
    support::{
        countersign::{Serve, is_released},
        http::free_port,
        process::Process,
    },
    turn,
};

const STARTS: usize = 5;
/// How many times the bound the slowest start may take.
const OUTLIER: u32 = 3;

struct Bounds {
    first_identity: Duration,
    serve_kib: u64,
    agent_kib: u64,
}

/// Those of what is shipped; an unoptimized build gets a wide one for time, and one that shows a leak for memory.
fn bounds() -> Bounds {
    if is_released() {
        Bounds { first_identity: Duration::from_millis(100), serve_kib: 20 << 10, agent_kib: 10 << 10 }
    } else {
        Bounds { first_identity: Duration::from_secs(1), serve_kib: 200 << 10, agent_kib: 100 << 10 }
    }
}

#[test]
fn the_first_identity_is_there_at_once() {
    let _turn = turn::alone();
    let mut took: Vec<Duration> = (0..STARTS)
        .map(|_| {
            let place = Place::new();
            let begun = Instant::now();
            let _serve = Serve::spawn("serve", place.logs(), &place.data(), free_port(), &[]);
            let identity = fetch_first(&place.data().join("workload.sock"));
            let took = begun.elapsed();
            assert_eq!(identity.spiffe_id, "spiffe://cluster.local/ns/default/sa/gateway");
            took
        })
        .collect();
    took.sort();
    println!("first identity on an empty directory: {took:?}");
    // a start may wait for the disk, which syncs for others as well: the middle one has to hold the bound, and none may be far
    // above it
    assert!(took[STARTS / 2] < bounds().first_identity, "{took:?}");
    assert!(took[STARTS - 1] < bounds().first_identity * OUTLIER, "{took:?}");
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
    assert!(active.max(standby) < bounds().serve_kib, "serve: {active} and {standby} KiB");
    assert!(agent < bounds().agent_kib, "agent: {agent} KiB");
}

fn resident_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
