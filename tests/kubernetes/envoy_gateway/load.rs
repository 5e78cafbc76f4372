//! A steady load, each request on a connection of its own, and what became of each.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::{http, wait::wait_until};

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(30);

/// Requests one after the other, until it is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// With the instants at which they began.
    answers: Mutex<Vec<(Instant, Result<String, String>)>>,
}

impl Load {
    /// For a host by the name of the gateway's listener.
    pub(super) fn start(address: SocketAddr, host: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = |_| {
            let (shared, host) = (Arc::clone(&shared), host.to_owned());
            thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let (begin, answer) = (Instant::now(), http::get_of(address, &host, "/"));
                    shared.answers.lock().unwrap().push((begin, answer));
                    thread::sleep(PAUSE);
                }
            })
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { shared, workers }
    }

    /// How often each answer, or reason of a failure, came to requests that began after `begin`.
    pub(super) fn since(&self, begin: Instant) -> BTreeMap<Result<String, String>, usize> {
        let mut counts = BTreeMap::new();
        for (_, answer) in self.shared.answers.lock().unwrap().iter().filter(|(at, _)| *at >= begin) {
            *counts.entry(answer.clone()).or_default() += 1;
        }
        counts
    }

    /// Waits for `count` further requests that begin from now on: what became of them.
    pub(super) fn next(&self, count: usize) -> BTreeMap<Result<String, String>, usize> {
        let begin = Instant::now();
        wait_until(SOON, "further requests", || {
            let counts = self.since(begin);
            if counts.values().sum::<usize>() >= count { Ok(counts) } else { Err(format!("{counts:?}")) }
        })
    }

    /// How long after `begin` the first request began that had such an answer.
    pub(super) fn first_since(
        &self,
        begin: Instant,
        is_such: impl Fn(&Result<String, String>) -> bool,
    ) -> Option<Duration> {
        let answers = self.shared.answers.lock().unwrap();
        let found = answers.iter().filter(|(at, answer)| *at >= begin && is_such(answer)).map(|(at, _)| *at - begin);
        found.min()
    }

    /// How long after `begin` the last request began that had such an answer.
    pub(super) fn last_since(
        &self,
        begin: Instant,
        is_such: impl Fn(&Result<String, String>) -> bool,
    ) -> Option<Duration> {
        let answers = self.shared.answers.lock().unwrap();
        let found = answers.iter().filter(|(at, answer)| *at >= begin && is_such(answer)).map(|(at, _)| *at - begin);
        found.max()
    }

    /// Fails when a request has that began after `begin`: how many there were.
    pub(super) fn check_since(&self, begin: Instant, what: &str) -> usize {
        let counts = self.since(begin);
        let failed: Vec<_> = counts.iter().filter(|(answer, _)| answer.is_err()).collect();
        assert!(failed.is_empty(), "{what}: {failed:?}");
        counts.values().sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _its_panic_is_shown = worker.join();
        }
    }
}
