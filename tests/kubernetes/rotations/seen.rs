//! What the backend saw of each output, and what that says of its rotations.

use std::collections::{BTreeMap, BTreeSet};

use super::{Output, SOON};
use crate::{
    envoy::{AccessLog, Request},
    support::wait::wait_until,
};

/// Beside half of the TTL, on average of a few: NotAfter is in whole seconds, and the machine has other things to do.
const PUNCTUAL: f64 = 0.5;
/// A certificate is not used any more when half of its TTL and this are over.
const LATEST: f64 = 1.7;

/// The log of the backend, by output.
pub(super) struct Seen {
    log: AccessLog,
    read: usize,
    serials: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    pub(super) const fn of(log: AccessLog) -> Self {
        Self { log, read: 0, serials: BTreeMap::new() }
    }

    /// How many certificates came after the first one.
    pub(super) fn rotations(&mut self, output: &Output) -> usize {
        let requests = self.log.requests();
        for request in &requests[self.read..] {
            self.serials.entry(request.path.clone()).or_default().insert(request.serial.clone());
        }
        self.read = requests.len();
        self.serials.get(output.path).map_or(0, BTreeSet::len).saturating_sub(1)
    }

    /// Holds it to what the clients saw, and the last rotations to the first and to the TTL.
    pub(super) fn check(mut self, outputs: &[Output], wanted: usize, asked: &[(&'static str, u64)]) {
        let all = asked.iter().map(|(_, asked)| asked).sum();
        wait_until(SOON, "every request in the log of the backend", || {
            let logged = self.log.requests().iter().filter(|request| request.path != "/warm-up").count();
            if u64::try_from(logged).unwrap() >= all { Ok(()) } else { Err(format!("{logged} of {asked:?}")) }
        });
        for request in self.log.requests() {
            assert!(request.start <= request.not_after, "used after it had expired: {request:?}");
        }
        println!(
            "{:<26}{:>6}{:>10}{:>11}{:>12}{:>12}{:>12}{:>13}",
            "", "TTL", "requests", "rotations", "first ones", "last ones", "longest", "left, least"
        );
        for output in outputs {
            let asked = asked.iter().find(|(path, _)| *path == output.path).unwrap().1;
            let requests: Vec<&Request> =
                self.log.requests().iter().filter(|request| request.path == output.path).collect();
            output.check(&requests, wanted, asked);
        }
    }
}

impl Output {
    fn check(&self, requests: &[&Request], wanted: usize, asked: u64) {
        let kind = self.name;
        let other = requests.iter().find(|request| request.client != self.id);
        assert!(other.is_none(), "{kind}: somebody else: {other:?}");
        let gaps = gaps(requests);
        // the first one was there before the load
        let rotations = gaps.len() + 1;
        let quarter = (gaps.len() / 4).max(1);
        let mean = |gaps: &[f64]| gaps.iter().sum::<f64>() / f64::from(u32::try_from(gaps.len()).unwrap());
        let (first, last) = (mean(&gaps[..quarter]), mean(&gaps[gaps.len() - quarter..]));
        let longest = gaps.iter().copied().fold(0.0, f64::max);
        // how long a certificate still had when it was used last
        let left = requests.iter().map(|request| request.not_after - request.start).fold(f64::MAX, f64::min);
        println!(
            "{kind:<26}{:>4} s{asked:>10}{rotations:>11}{first:>10.2} s{last:>10.2} s{longest:>10.2} s{left:>11.2} s",
            self.ttl
        );
        assert!(rotations >= wanted, "{kind}: {rotations} rotations");
        let half = f64::from(u32::try_from(self.ttl).unwrap()) / 2.0;
        assert!(
            (last - first).abs() < PUNCTUAL && last < half + PUNCTUAL,
            "{kind}: a rotation every {first:.2} s at first, every {last:.2} s at last"
        );
        assert!(left > half - LATEST, "{kind}: one was in use until {left:.2} s before its end");
    }
}

/// The times between the first uses of one serial and the next. What came before the load is left out.
fn gaps(requests: &[&Request]) -> Vec<f64> {
    let mut first: BTreeMap<&str, f64> = BTreeMap::new();
    for request in requests {
        let seen = first.entry(&request.serial).or_insert(request.start);
        *seen = seen.min(request.start);
    }
    let mut starts: Vec<f64> = first.into_values().collect();
    starts.sort_by(f64::total_cmp);
    starts.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect()
}
