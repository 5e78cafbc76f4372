//! A steady load on a gateway, and what became of each request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{http::Connection, wait::wait_until, workers::Workers};

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
const MAX_TIME: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(20);

/// Requests one after the other, until it is dropped.
pub(crate) struct Traffic {
    requests: Arc<Mutex<Vec<Request>>>,
    _workers: Workers,
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
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let workers = Workers::start(WORKERS, PAUSE, || {
            let (requests, begin, mut connection) = (Arc::clone(&requests), Instant::now(), None);
            move || {
                let outcome = ask(&mut connection, address);
                if outcome.is_err() {
                    connection = None;
                }
                requests.lock().unwrap().push(Request { at: Instant::now(), outcome });
                begin.elapsed() < MAX_TIME
            }
        });
        Self { requests, _workers: workers }
    }

    /// Every request from `begin` on.
    pub(crate) fn since(&self, begin: Instant) -> Vec<Request> {
        self.requests.lock().unwrap().iter().filter(|request| request.at >= begin).cloned().collect()
    }

    /// How many failed of those from `begin` on, and of how many.
    pub(crate) fn failed_since(&self, begin: Instant) -> (usize, usize) {
        let requests = self.since(begin);
        (requests.iter().filter(|request| request.outcome.is_err()).count(), requests.len())
    }

    /// Fails when a request has: how many there were.
    pub(crate) fn check(&self) -> usize {
        let requests = self.requests.lock().unwrap();
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

fn ask(connection: &mut Option<Connection>, address: SocketAddr) -> Result<(), String> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(address).map_err(|error| error.to_string())?),
    };
    open.get("/").map_err(|error| error.to_string())?.ok().map(drop)
}
