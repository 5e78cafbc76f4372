//! A steady load on a gateway, and what became of each request.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::{http::Connection, wait::wait_until};

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
const MAX_TIME: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(20);

/// Requests one after the other, until it is dropped.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    requests: Mutex<Vec<Request>>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// When its answer was there, or its failure.
    pub(crate) at: Instant,
    pub(crate) outcome: Result<(), String>,
}

impl Traffic {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(address))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { shared, workers }
    }

    /// Every request from `begin` on.
    pub(crate) fn since(&self, begin: Instant) -> Vec<Request> {
        self.shared.requests.lock().unwrap().iter().filter(|request| request.at >= begin).cloned().collect()
    }

    /// How many failed of those from `begin` on, and of how many.
    pub(crate) fn failed_since(&self, begin: Instant) -> (usize, usize) {
        let requests = self.since(begin);
        (requests.iter().filter(|request| request.outcome.is_err()).count(), requests.len())
    }

    /// Fails when a request has: how many there were.
    pub(crate) fn check(&self) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        let failed: Vec<_> = requests.iter().filter_map(|request| request.outcome.as_ref().err()).collect();
        assert!(
            failed.is_empty(),
            "{} of {} requests failed: {:#?}",
            failed.len(),
            requests.len(),
            &failed[..failed.len().min(5)]
        );
        requests.len()
    }

    /// Waits for `count` further requests.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let begin = Instant::now();
        wait_until(SOON, "further requests", || match self.since(begin).len() {
            seen if seen >= count => Ok(()),
            seen => Err(format!("{seen} of {count}")),
        });
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _its_panic_is_shown = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, address: SocketAddr) {
        let (begin, mut connection) = (Instant::now(), None);
        while !self.stop.load(Ordering::Relaxed) && begin.elapsed() < MAX_TIME {
            let outcome = ask(&mut connection, address);
            if outcome.is_err() {
                connection = None;
            }
            self.requests.lock().unwrap().push(Request { at: Instant::now(), outcome });
            thread::sleep(PAUSE);
        }
    }
}

fn ask(connection: &mut Option<Connection>, address: SocketAddr) -> Result<(), String> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(address).map_err(|error| error.to_string())?),
    };
    open.get("/").map_err(|error| error.to_string())?.ok().map(drop)
}
