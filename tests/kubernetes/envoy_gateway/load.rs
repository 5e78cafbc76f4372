//! A steady load, each request on a connection of its own, and what became of each.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{http, wait::wait_until, workers::Workers};

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(30);

/// Requests one after the other, until it is dropped.
pub(super) struct Load {
    answers: Answers,
    _workers: Workers,
}

/// With the instants at which their requests began.
type Answers = Arc<Mutex<Vec<(Instant, Result<String, String>)>>>;

impl Load {
    /// For a host by the name of the gateway's listener.
    pub(super) fn start(address: SocketAddr, host: &str) -> Self {
        Self::start_with(address, host, vec!["/".to_owned()], PAUSE)
    }

    /// For one path after the other, with a pause after each.
    pub(super) fn start_with(address: SocketAddr, host: &str, paths: Vec<String>, pause: Duration) -> Self {
        let (answers, turn, paths) = (Answers::default(), Arc::<AtomicUsize>::default(), Arc::new(paths));
        let workers = Workers::start(WORKERS, pause, || {
            let (answers, turn, paths) = (Arc::clone(&answers), Arc::clone(&turn), Arc::clone(&paths));
            let host = host.to_owned();
            move || {
                let path = &paths[turn.fetch_add(1, Ordering::Relaxed) % paths.len()];
                let (begin, answer) = (Instant::now(), http::get_of(address, &host, path));
                answers.lock().unwrap().push((begin, answer));
                true
            }
        });
        Self { answers, _workers: workers }
    }

    /// How often each answer, or reason of a failure, came to requests that began after `begin`.
    pub(super) fn since(&self, begin: Instant) -> BTreeMap<Result<String, String>, usize> {
        let mut counts = BTreeMap::new();
        for (_, answer) in self.answers.lock().unwrap().iter().filter(|(at, _)| *at >= begin) {
            *counts.entry(answer.clone()).or_default() += 1;
        }
        counts
    }

    /// Answers of this kind to requests that began after `begin`, with the instants at which these did.
    pub(super) fn answers_since(&self, begin: Instant, is_such: impl Fn(&str) -> bool) -> Vec<(Instant, String)> {
        let answers = self.answers.lock().unwrap();
        let answered = answers.iter().filter_map(|(at, answer)| Some((*at, answer.as_ref().ok()?)));
        answered
            .filter(|(at, answer)| *at >= begin && is_such(answer))
            .map(|(at, answer)| (at, answer.clone()))
            .collect()
    }

    /// Waits for `count` further requests that begin from now on: what became of them.
    pub(super) fn next(&self, count: usize) -> BTreeMap<Result<String, String>, usize> {
        let begin = Instant::now();
        wait_until(SOON, "further requests", || {
            let counts = self.since(begin);
            if counts.values().sum::<usize>() >= count { Ok(counts) } else { Err(format!("{counts:?}")) }
        })
    }

    /// How long after `begin` the first and the last request began that had such an answer.
    pub(super) fn ends_since(
        &self,
        begin: Instant,
        is_such: impl Fn(&Result<String, String>) -> bool,
    ) -> Option<(Duration, Duration)> {
        let answers = self.answers.lock().unwrap();
        let found = answers.iter().filter(|(at, answer)| *at >= begin && is_such(answer)).map(|(at, _)| *at - begin);
        found.clone().min().zip(found.max())
    }

    /// Fails when a request has that began after `begin`: how many there were.
    pub(super) fn check_since(&self, begin: Instant, what: &str) -> usize {
        let counts = self.since(begin);
        let failed: Vec<_> = counts.iter().filter(|(answer, _)| answer.is_err()).collect();
        assert!(failed.is_empty(), "{what}: {failed:?}");
        counts.values().sum()
    }
}
