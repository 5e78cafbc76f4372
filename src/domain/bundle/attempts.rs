//! How soon something may be written again.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// The writes of one object within a short time. The second follows the first at once if that came to something; from then on,
/// and after each write in vain, they come ever more slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    count: u32,
    last: Option<BootInstant>,
    in_vain: bool,
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// What was left alone for this long is written at once again.
const MEMORY: Duration = Duration::from_secs(600);

impl Attempts {
    /// One begins.
    pub fn begin(&mut self, now: BootInstant) {
        if self.last.is_none_or(|last| now.since(last) > MEMORY) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// It ended; `in_vain` if nothing was written.
    pub const fn end(&mut self, in_vain: bool) {
        self.in_vain = in_vain;
    }

    /// From when on the next may begin; `None`: at once.
    pub fn due(&self) -> Option<BootInstant> {
        let slowing = if self.in_vain { self.count } else { self.count.saturating_sub(1) };
        let doublings = slowing.checked_sub(1)?;
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
        self.last.map(|last| last.plus(pause))
    }
}
