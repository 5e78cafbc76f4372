//! Callers in loops, each on a connection of its own that is kept.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tonic::Status;

use crate::{
    caller::{Caller, was_never_sent},
    support::wait::wait_until,
};

/// Between the calls of one loop, so that two cores are loaded but not starved.
const PAUSE: Duration = Duration::from_millis(5);
const PROGRESS: Duration = Duration::from_secs(20);
const SHOWN_FAILURES: usize = 10;

/// A call that was answered with a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) serial: String,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
}

impl Call {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.begun
    }
}

/// A load that runs until it is stopped or dropped.
pub(crate) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    loops: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    calls: Mutex<Vec<Call>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts one loop for each of `loops`: the ports that it may use, in order of preference. It goes on to the next one
    /// only when a call could not be sent.
    pub(crate) fn start(caller: &Arc<Caller>, loops: &[Vec<u16>]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let start = |ports: &Vec<u16>| {
            let (caller, shared, ports) = (Arc::clone(caller), Arc::clone(&shared), ports.clone());
            runtime.spawn(async move { shared.work(&caller, &ports).await })
        };
        let loops = loops.iter().map(start).collect();
        Self { runtime, shared, loops }
    }

    /// Waits for `count` further certificates.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let wanted = self.shared.calls.lock().unwrap().len() + count;
        wait_until(PROGRESS, &format!("{count} further certificates"), || {
            let (got, failures) = (self.shared.calls.lock().unwrap().len(), self.failures());
            if got >= wanted { Ok(()) } else { Err(format!("{got} of {wanted}; failures: {failures:#?}")) }
        });
    }

    /// How many certificates there are by now.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }

    /// Ends it once the calls in progress are answered: all calls, and what failed.
    pub(crate) fn stop(mut self) -> (Vec<Call>, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.loops.drain(..) {
            self.runtime.block_on(task).unwrap();
        }
        (std::mem::take(&mut self.shared.calls.lock().unwrap()), self.failures())
    }

    /// The same, when nothing may have failed.
    pub(crate) fn stop_without_failure(self) -> Vec<Call> {
        let (calls, failures) = self.stop();
        assert!(failures.is_empty(), "{} certificates, and failures: {failures:#?}", calls.len());
        calls
    }

    fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    async fn work(&self, caller: &Caller, ports: &[u16]) {
        let connections: Vec<_> = ports.iter().map(|port| (*port, caller.connection(*port))).collect();
        let mut current = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let mut last: Option<(u16, Status)> = None;
            for _ in 0..connections.len() {
                let (port, connection) = &connections[current];
                match caller.sign(connection).await {
                    Ok(serial) => {
                        self.calls.lock().unwrap().push(Call { serial, begun, ended: Instant::now() });
                        last = None;
                        break;
                    }
                    Err(status) => {
                        let next = was_never_sent(&status);
                        last = Some((*port, status));
                        if !next {
                            break;
                        }
                        current = (current + 1) % connections.len();
                    }
                }
            }
            if let Some((port, status)) = last {
                self.fail(format!("port {port} after {:?}: {status:?}", begun.elapsed()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn fail(&self, what: String) {
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < SHOWN_FAILURES {
            failures.push(what);
        }
    }
}

/// The longest time in which no call ended with success.
pub(crate) fn longest_gap(calls: &[Call]) -> Duration {
    let mut ends: Vec<Instant> = calls.iter().map(|call| call.ended).collect();
    ends.sort();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The longest call.
pub(crate) fn longest(calls: &[Call]) -> Duration {
    calls.iter().map(Call::took).max().unwrap_or_default()
}
