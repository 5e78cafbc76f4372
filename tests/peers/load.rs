//! A steady, bounded load of GETs on kept connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::http::Connection;

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
const MAX_REQUESTS: u64 = 200_000;
const MAX_TIME: Duration = Duration::from_secs(1800);

/// A load that runs until it is stopped or dropped, or at its bounds.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts to ask `address` for `path`.
    pub(crate) fn start(address: SocketAddr, path: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(address, path))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { shared, workers }
    }

    /// Requests that were answered with 200 so far; every failure in words as soon as there is one.
    pub(crate) fn check(&self) -> u64 {
        let failures = self.shared.failures.lock().unwrap();
        let requests = self.shared.requests.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} failures beside {requests} good requests: {failures:#?}", failures.len());
        requests
    }

    /// Stops it and gives the number of requests, none of which failed.
    pub(crate) fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
        self.check()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn work(&self, address: SocketAddr, path: &str) {
        let begin = Instant::now();
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            if self.requests.load(Ordering::Relaxed) >= MAX_REQUESTS || begin.elapsed() > MAX_TIME {
                self.fail(format!("the load reached its own bound after {:?}", begin.elapsed()));
                return;
            }
            match ask(&mut connection, address, path) {
                Ok(()) => _ = self.requests.fetch_add(1, Ordering::Relaxed),
                Err(failure) => {
                    self.fail(format!("after {:?}: {failure}", begin.elapsed()));
                    connection = None;
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }
}

fn ask(connection: &mut Option<Connection>, address: SocketAddr, path: &str) -> Result<(), String> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(address).map_err(|error| error.to_string())?),
    };
    open.get(path).map_err(|error| error.to_string())?.ok().map(drop)
}
