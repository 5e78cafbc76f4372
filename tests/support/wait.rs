//! Waiting for a condition instead of for a time; and for a time where it is itself what is asked for.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(20);

/// Calls `probe` until it gives a value. Fails once `within` is over, with what `probe` saw last.
pub(crate) fn wait_until<T, E: Display>(within: Duration, what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if begin.elapsed() > within => panic!("{what}: not within {within:?}; last seen: {seen}"),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Waits until it is so `long` since then. For bounds that are a time: a kubelet's 90 s.
pub(crate) fn wait_for_time(since: Instant, long: Duration, what: &str) {
    wait_until(long * 2, what, || match since.elapsed() {
        so_far if so_far >= long => Ok(()),
        so_far => Err(format!("{so_far:?} of {long:?}")),
    });
}
