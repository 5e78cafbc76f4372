//! `kill -9` at random instants while sets are written one after the other, and a reader that never stops.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    agent::{Place, names, next_set},
    support::{svid_set::SvidSet, wait::wait_until},
};

const KILLS: usize = 60;
/// On a machine on which few of them come after a swap.
const MOST_KILLS: usize = 600;
/// From when an agent has its SVID: it writes at once.
const LONGEST_LIFE: u64 = 12_000;

#[test]
fn no_set_is_ever_torn_by_a_kill_and_nothing_is_left_behind() {
    let place = Place::new();
    let mut random = seed();
    let first = place.start("first", "1h", &[]);
    next_set(&place.output(), None);
    drop(first);
    let (stop, output) = (Arc::new(AtomicBool::new(false)), place.output());
    let seen = Arc::new(AtomicUsize::new(0));
    let reader = {
        let (stop, sets) = (Arc::clone(&stop), Arc::clone(&seen));
        thread::spawn(move || {
            let (mut reads, mut serials) = (0_u64, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let set = SvidSet::read(&output).unwrap();
                reads += 1;
                if serials.last() != Some(&set.leaf.serial) {
                    serials.push(set.leaf.serial);
                    sets.store(serials.len(), Ordering::Relaxed);
                }
            }
            (reads, serials)
        })
    };
    let mut kills = 0;
    while kills < KILLS || (seen.load(Ordering::Relaxed) <= KILLS / 10 && kills < MOST_KILLS) {
        kills += 1;
        let mut agent = place.start("agent", "1h", &[]);
        wait_until(Duration::from_secs(20), "an SVID", || agent.published().pop().ok_or("none"));
        // it does not write at once, nor always at the same pace
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros((random >> 33) % LONGEST_LIFE));
        agent.process.kill();
    }
    stop.store(true, Ordering::Relaxed);
    let (reads, serials) = reader.join().unwrap();
    println!("{kills} kills, {reads} reads, {} sets seen", serials.len());
    assert!(serials.len() > KILLS / 10, "few kills came after a swap: {} sets", serials.len());

    let left = next_set(&place.output(), None);
    let last = place.start("last", "1h", &[]);
    let set = next_set(&place.output(), Some(&left));
    last.says(&format!("output files: ready (serial {}", set.leaf.serial));
    let names = names(&place.output());
    assert!(names.iter().filter(|name| name.starts_with("..set-")).count() <= 2, "{names:?}");
    assert!(!names.iter().any(|name| name == "..data_tmp"), "{names:?}");
}

/// `COUNTERSIGN_TEST_SEED`, or the time.
fn seed() -> u64 {
    let now = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let seed = env::var("COUNTERSIGN_TEST_SEED").map_or_else(|_| now(), |seed| seed.parse().expect("a number"));
    println!("COUNTERSIGN_TEST_SEED={seed}");
    seed
}
