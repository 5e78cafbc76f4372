//! Something done again and again on a thread of its own, and how it went.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// A loop that goes on until it is stopped.
pub(crate) struct Repeated {
    outcomes: Arc<Outcomes>,
    thread: Option<JoinHandle<()>>,
}

/// What its work looks at, and notes.
#[derive(Default)]
pub(crate) struct Outcomes {
    stop: AtomicBool,
    good: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Outcomes {
    pub(crate) fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn note<T>(&self, outcome: Result<T, String>) {
        match outcome {
            Ok(_) => _ = self.good.fetch_add(1, Ordering::Relaxed),
            Err(error) => self.wrong.lock().unwrap().push(error),
        }
    }
}

impl Repeated {
    /// Begins; `work` ends when it may not go on.
    pub(crate) fn start(work: impl FnOnce(&Outcomes) + Send + 'static) -> Self {
        let outcomes = Arc::<Outcomes>::default();
        let noted = Arc::clone(&outcomes);
        Self { outcomes, thread: Some(thread::spawn(move || work(&noted))) }
    }

    /// Fails if it ever went wrong. How often it did not.
    pub(crate) fn check(&self) -> u64 {
        let wrong = self.outcomes.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
        self.outcomes.good.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> u64 {
        self.outcomes.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.check()
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.outcomes.stop.store(true, Ordering::Relaxed);
    }
}
