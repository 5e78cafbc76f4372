//! Threads that repeat something until nobody needs them any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// They end when this is dropped.
pub(crate) struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// `count` threads, each with a step of its own by `make`, which is done again after a pause for as long as it says so.
    pub(crate) fn start<Step: FnMut() -> bool + Send + 'static>(
        count: usize,
        pause: Duration,
        make: impl Fn() -> Step,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |_| {
            let (stop, mut step) = (Arc::clone(&stop), make());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && step() {
                    thread::sleep(pause);
                }
            })
        };
        let threads = (0..count).map(thread).collect();
        Self { stop, threads }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _its_panic_is_shown = thread.join();
        }
    }
}
