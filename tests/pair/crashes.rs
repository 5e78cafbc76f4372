//! `kill -9` at random instants, under load, then the same data directory again.

use std::{
    env, fs,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    caller::Caller,
    load::Load,
    pair::Place,
    support::{
        countersign::{Serve, countersign, root_file},
        http::free_port,
        issuance::Issued,
    },
    turn,
};

const KILLS: usize = 200;
const LOOPS: usize = 4;
/// Some kills hit a process that is only starting.
const SHORTEST_LIFE: Duration = Duration::from_millis(10);
const LONGEST_LIFE: Duration = Duration::from_millis(350);
const AT_LEAST_ACKNOWLEDGED: usize = 1_000;
/// On a machine on which few of them get as far as to answer.
const MOST_KILLS: usize = 1_000;

#[test]
fn two_hundred_kills_lose_nothing_that_was_acknowledged() {
    let _turn = turn::alone();
    let mut lives = Lives::seeded();
    let place = Place::new();
    let (data, port) = (place.data(), free_port());
    run_once("first", &place, port);
    let root = fs::read(root_file(&data)).unwrap();
    let caller = Arc::new(Caller::new(&data, "default/client"));

    let begin = Instant::now();
    let load = Load::start(&caller, &vec![vec![port]; LOOPS]);
    let mut kills = 0;
    while kills < KILLS || (load.acknowledged() < AT_LEAST_ACKNOWLEDGED && kills < MOST_KILLS) {
        kills += 1;
        let mut serve = Serve::spawn("serve", place.logs(), &data, port, &[]);
        thread::sleep(lives.next());
        if let Some(status) = serve.process.ended() {
            panic!("it ended by itself with {status}: {}", serve.process.errors());
        }
        serve.process.kill();
    }
    let (calls, _) = load.stop();
    println!("{kills} kills in {:?}, {} certificates acknowledged", begin.elapsed(), calls.len());
    assert!(calls.len() >= AT_LEAST_ACKNOWLEDGED, "{} certificates: too few to show anything", calls.len());

    let issued = Issued::list(&data);
    let by_serial = issued.by_serial();
    let lost: Vec<_> = calls.iter().filter(|call| !by_serial.contains_key(call.serial.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and in no log: {lost:#?}");
    issued.check_order();
    assert!(issued.holders().len() > KILLS / 4, "terms: {:?}", issued.holders());
    let recover = countersign().args(["recover", "--data-dir"]).arg(&data).output().unwrap();
    assert!(recover.status.success(), "{}", String::from_utf8_lossy(&recover.stdout));
    run_once("last", &place, port);
    assert_eq!(fs::read(root_file(&data)).unwrap(), root, "the root has changed");
}

fn run_once(name: &str, place: &Place, port: u16) {
    Serve::spawn(name, place.logs(), &place.data(), port, &[]).wait_until_ready();
}

/// SplitMix64: the same lives for the same seed.
struct Lives(u64);

impl Lives {
    /// From `COUNTERSIGN_TEST_SEED`, or from the time.
    fn seeded() -> Self {
        let now = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
        let seed = env::var("COUNTERSIGN_TEST_SEED").map_or_else(|_| now(), |seed| seed.parse().expect("a number"));
        println!("COUNTERSIGN_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let span = u64::try_from((LONGEST_LIFE - SHORTEST_LIFE).as_micros()).unwrap();
        SHORTEST_LIFE + Duration::from_micros((mixed ^ (mixed >> 31)) % span)
    }
}
