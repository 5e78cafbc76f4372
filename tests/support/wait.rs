//! Waiting for a condition instead of for a time.

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
