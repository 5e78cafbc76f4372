//! A steady, bounded load of GETs on kept connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{http::Connection, workers::Workers};

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
const MAX_REQUESTS: u64 = 200_000;
const MAX_TIME: Duration = Duration::from_secs(1800);

/// A load that runs until it is stopped or dropped, or at its bounds.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: Workers,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts to ask `address` for `path`.
    pub(crate) fn start(address: SocketAddr, path: &str) -> Self {
        Self::start_with(WORKERS, address, path)
    }

    /// The same by so many workers, where several such loads run side by side.
    pub(crate) fn start_with(workers: usize, address: SocketAddr, path: &str) -> Self {
        let (shared, path) = (Arc::new(Shared::default()), Arc::<str>::from(path));
        let workers = Workers::start(workers, PAUSE, || {
            let (shared, path) = (Arc::clone(&shared), Arc::clone(&path));
            let (begin, mut connection) = (Instant::now(), None);
            move || shared.work(begin, &mut connection, address, &path)
        });
        Self { shared, workers }
    }

    /// Requests that were answered with 200 so far; every failure in words as soon as there is one.
    pub(crate) fn check(&self) -> u64 {
        self.shared.check()
    }

    /// Stops it and gives the number of requests, none of which failed.
    pub(crate) fn stop(self) -> u64 {
        let Self { shared, workers } = self;
        drop(workers);
        shared.check()
    }
}

impl Shared {
    /// One request. Whether there may be more.
    fn work(&self, begin: Instant, connection: &mut Option<Connection>, address: SocketAddr, path: &str) -> bool {
        if self.requests.load(Ordering::Relaxed) >= MAX_REQUESTS || begin.elapsed() > MAX_TIME {
            self.fail(format!("the load reached its own bound after {:?}", begin.elapsed()));
            return false;
        }
        match ask(connection, address, path) {
            Ok(()) => _ = self.requests.fetch_add(1, Ordering::Relaxed),
            Err(failure) => {
                self.fail(format!("{path} after {:?}: {failure}", begin.elapsed()));
                *connection = None;
            }
        }
        true
    }

    fn check(&self) -> u64 {
        let failures = self.failures.lock().unwrap();
        let requests = self.requests.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} failures beside {requests} good requests: {failures:#?}", failures.len());
        requests
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
