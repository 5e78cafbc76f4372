//! A steady load of calls on the signing API.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{caller::Caller, wait::wait_until};

const SOON: Duration = Duration::from_secs(10);

/// Loops of calls; each trusts for its next connection the roots of its last answer, as clients do.
#[derive(Default)]
pub(crate) struct Load {
    stop: AtomicBool,
    calls: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// One of the loops, on a connection that is kept or on a new one for each call.
    pub(crate) fn run(&self, mut caller: Caller, port: u16, is_kept: bool) {
        let mut connection = caller.connection(port);
        while !self.stop.load(Ordering::Relaxed) {
            match caller.ask(&connection) {
                Ok(answer) => {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    caller.trust(answer.last().unwrap());
                }
                Err(status) => self.failures.lock().unwrap().push(format!("port {port}: {status:?}")),
            }
            if !is_kept {
                connection = caller.connection(port);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Certificates so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Fails when a call has.
    pub(crate) fn check_no_failure(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// Waits for `count` further certificates.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let wanted = self.calls() + count;
        wait_until(SOON, "further calls", || {
            let calls = self.calls();
            if calls >= wanted { Ok(()) } else { Err(format!("{calls} of {wanted}")) }
        });
    }
}

/// Ends a load also when an assertion fails: its threads are waited for.
pub(crate) struct Stop<'a>(pub(crate) &'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}
