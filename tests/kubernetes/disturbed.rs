//! An API server that is slow, refuses, hangs or closes connections, to one replica or to both: no two sign, nobody asks in a
//! loop, each replica says what is wrong, and soon after it all is as before.

mod pair;
pub(crate) mod proxy;

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

use self::{
    pair::Pair,
    proxy::Disturbance::{self, Answered, Closing, Hanging, Late, SecretsLate},
};
use crate::{
    cluster::{Cluster, block_on},
    pair::{
        TAKE_OVER,
        load::{Load, longest},
        token_file,
    },
    support::{countersign::Serve, observe::readiness, wait::wait_until},
};

/// Longer than a lease, and than whatever follows from one that ends.
const DISTURBED: Duration = Duration::from_secs(10);
/// Step-down, and what it takes to show.
const STEPPED_DOWN: Duration = Duration::from_millis(4_500);
const BACK: Duration = Duration::from_secs(2);
const REQUESTS_A_SECOND: usize = 20;
/// Pairs on one API server: they wait most of the time.
const AT_ONCE: usize = 4;

/// What is done to requests, whether that ends a term, and a word of the reason that is told.
const CASES: [(Disturbance, bool, &str); 8] = [
    (Late(Duration::from_millis(500)), false, ""),
    (Late(Duration::from_millis(1_500)), true, "did not answer within 1s"),
    (Answered(409), true, "409 Conflict to each write"),
    (Answered(429), true, "429"),
    (Answered(500), true, "500"),
    (Answered(503), true, "503"),
    (Hanging, true, "did not answer within 1s"),
    (Closing, true, "could not be asked"),
];

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// What one disturbance led to.
struct Row {
    /// Until the other one was active; of nobody, if both were disturbed.
    take_over: Option<Duration>,
    /// From its end until a call was answered.
    back: Duration,
    longest_call: Duration,
    /// The most requests of one replica in a second.
    busiest: usize,
}

#[test]
fn no_bad_answer_of_the_api_server_makes_two_signers_or_a_loop() {
    let (cluster, runtime) = (Cluster::start(), runtime());
    let token = block_on(token_file(&cluster, "load"));
    println!(
        "{:<16} {:<10} {:>9} {:>9} {:>12} {:>12}",
        "requests", "of", "take-over", "back", "longest call", "most in 1 s"
    );
    let run = |(number, (disturbance, ends_term, reason)): (usize, (Disturbance, bool, &str))| {
        let pair = Pair::start(&cluster, &runtime, &format!("disturbed-{number}"));
        let load = pair.load(&token);
        let case = Case { pair: &pair, load: &load, disturbance, ends_term, reason };
        let rows = [("the active", case.of_the_active()), ("both", case.of_both())];
        for (of, row) in &rows {
            row.show(disturbance, of);
        }
        rows.iter().for_each(|(_, row)| row.check(disturbance));
        assert_eq!(load.failures(), Vec::<String>::new(), "{disturbance:?}");
        pair.check_records(load);
    };
    let cases: Vec<_> = CASES.into_iter().enumerate().collect();
    for cases in cases.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let started: Vec<_> = cases.iter().map(|case| scope.spawn(|| run(*case))).collect();
            let ended: Vec<_> = started.into_iter().map(|case| case.join()).collect();
            ended.into_iter().for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
    }
}

impl Row {
    fn show(&self, disturbance: Disturbance, of: &str) {
        let take_over = self.take_over.map_or_else(|| "-".to_owned(), |took| format!("{} ms", took.as_millis()));
        println!(
            "{:<16} {of:<10} {take_over:>9} {:>6} ms {:>9} ms {:>12}",
            format!("{disturbance:?}"),
            self.back.as_millis(),
            self.longest_call.as_millis(),
            self.busiest
        );
    }

    fn check(&self, disturbance: Disturbance) {
        // a renewal that is only answered late still counts for others, so the wait begins that much later
        let late = if let Late(time) = disturbance { time } else { Duration::ZERO };
        let (limit, back) = (TAKE_OVER + late, BACK + late);
        assert!(self.take_over.is_none_or(|took| took <= limit), "{disturbance:?}: taken over {:?}", self.take_over);
        // and what was taken before the end is answered as late as before
        assert!(self.back < back, "{disturbance:?}: signing again only after {:?}", self.back);
        assert!(self.busiest < REQUESTS_A_SECOND, "{disturbance:?}: {} requests in a second", self.busiest);
    }
}

struct Case<'a> {
    pair: &'a Pair,
    load: &'a Load,
    disturbance: Disturbance,
    ends_term: bool,
    reason: &'a str,
}

impl Case<'_> {
    /// The active alone is disturbed: the other one takes over.
    fn of_the_active(&self) -> Row {
        let (active, term) = self.pair.active();
        self.load.wait_for_more(5);
        let begin = self.pair.disturb(&[active], self.disturbance);
        self.says_why(active, begin);
        let take_over = self.ends_term.then(|| {
            wait_until(TAKE_OVER * 2, &format!("{:?}: another active", self.disturbance), || {
                let found = self.pair.term_of(1 - active);
                found.filter(|found| *found > term).ok_or_else(|| readiness(&self.pair.serves[1 - active]))
            });
            begin.elapsed()
        });
        self.rest(begin);
        if !self.ends_term {
            assert_eq!(self.pair.active(), (active, term), "{:?} ended the term", self.disturbance);
        }
        let end = self.pair.disturb(&[active], Disturbance::None);
        self.row(begin, end, take_over)
    }

    /// Both are disturbed: nobody signs, and all wait.
    fn of_both(&self) -> Row {
        let (active, term) = self.pair.active();
        self.load.wait_for_more(5);
        let begin = self.pair.disturb(&[0, 1], self.disturbance);
        if self.ends_term {
            self.says_why(active, begin);
            self.pair.wait_for_nobody(STEPPED_DOWN.saturating_sub(begin.elapsed()));
            self.says_why(1 - active, begin);
        }
        self.rest(begin);
        match self.ends_term {
            true => self.pair.wait_for_nobody(Duration::ZERO),
            false => assert_eq!(self.pair.active(), (active, term), "{:?} ended the term", self.disturbance),
        }
        let end = self.pair.disturb(&[0, 1], Disturbance::None);
        self.row(begin, end, None)
    }

    /// Its readiness tells the reason.
    fn says_why(&self, replica: usize, begin: Instant) {
        let within = DISTURBED.saturating_sub(begin.elapsed());
        wait_until(within, &format!("{:?}: the reason told", self.disturbance), || {
            let standing = self.pair.standing(replica);
            if standing.contains(self.reason) { Ok(()) } else { Err(standing) }
        });
    }

    /// Waits out the time of the disturbance.
    fn rest(&self, begin: Instant) {
        wait_until(DISTURBED + BACK, "the end of the disturbance", || {
            if begin.elapsed() >= DISTURBED { Ok(()) } else { Err("it goes on") }
        });
    }

    fn row(&self, begin: Instant, end: Instant, take_over: Option<Duration>) -> Row {
        let busiest = self.pair.proxies.iter().map(|proxy| proxy.busiest_second(begin, end)).max().unwrap();
        let back = wait_until(BACK * 4, &format!("{:?}: a call answered", self.disturbance), || {
            let after = self.load.calls().into_iter().find(|call| call.ended >= end);
            after.map(|call| call.ended - end).ok_or_else(|| self.pair.serves.each_ref().map(readiness).join("\n"))
        });
        self.pair.serves.iter().for_each(Serve::wait_until_ready);
        for replica in [0, 1] {
            wait_until(BACK, &format!("{:?}: no reason any more", self.disturbance), || {
                let standing = self.pair.standing(replica);
                if standing.contains("; here: ") { Err(standing) } else { Ok(()) }
            });
        }
        Row { take_over, back, longest_call: longest(&self.load.calls(), begin), busiest }
    }
}

/// As long as step-down, which is also the longest that a claim may take.
const CLAIM_LIMIT: Duration = Duration::from_millis(3_500);

#[test]
fn a_claim_that_takes_as_long_as_step_down_is_given_up_and_tried_again() {
    let (cluster, runtime) = (Cluster::start(), runtime());
    let token = block_on(token_file(&cluster, "load"));
    let mut pair = Pair::start(&cluster, &runtime, "late-claims");
    let load = pair.load(&token);
    load.wait_for_more(20);
    let (active, term) = pair.active();
    let heir = 1 - active;
    let begin = pair.disturb(&[0, 1], SecretsLate(CLAIM_LIMIT));
    pair.serves[active].process.kill();
    let killed = Instant::now();
    wait_until(TAKE_OVER * 4, "a second claim", || {
        assert_eq!(pair.term_of(heir), None, "it is active by a claim that came too late");
        match pair.proxies[heir].writes_of_secrets_since(begin) {
            0 | 1 => Err(readiness(&pair.serves[heir])),
            _ => Ok(()),
        }
    });
    wait_until(BACK, "the reason told", || {
        let standing = pair.standing(heir);
        // the state's own limit and the election's are the same: either may be the first
        let told = standing.contains("here: the state store failed: ") && standing.contains("not answer");
        if told { Ok(()) } else { Err(standing) }
    });
    let tried = begin.elapsed();
    let signed = load.calls().into_iter().filter(|call| call.ended > killed + Duration::from_millis(200)).count();
    assert_eq!(signed, 0, "signed while nobody could claim");

    let end = pair.disturb(&[0, 1], Disturbance::None);
    let later = wait_until(CLAIM_LIMIT + BACK * 2, "the heir active", || {
        pair.term_of(heir).ok_or_else(|| readiness(&pair.serves[heir]))
    });
    assert!(later > term, "term {later} after {term}");
    println!("tried for {tried:?}; active {:?} after Secrets were written in time again", end.elapsed());
    load.wait_for_more(20);
    pair.check_records(load);
}
