//! Reads a set of files again and again.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::support::svid_set::SvidSet;

const PAUSE: Duration = Duration::from_millis(5);

/// A loop of reads.
pub(super) struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    reads: AtomicU64,
    torn: Mutex<Vec<String>>,
}

impl Reader {
    /// Begins.
    pub(super) fn start(directory: &Path) -> Self {
        let (shared, directory) = (Arc::<Shared>::default(), directory.to_owned());
        let work = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !work.stop.load(Ordering::Relaxed) {
                match SvidSet::read(&directory) {
                    Ok(_) => _ = work.reads.fetch_add(1, Ordering::Relaxed),
                    Err(error) => work.torn.lock().unwrap().push(error),
                }
                thread::sleep(PAUSE);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Fails if a set was ever torn. How many were read.
    pub(super) fn check(&self) -> u64 {
        let torn = self.shared.torn.lock().unwrap();
        assert!(torn.is_empty(), "{torn:#?}");
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.check()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
