//! How soon something may be written again.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// The writes of one object within a short time. The second follows the first at once if that came to something; from then on,
/// and after each write in vain, they come ever more slowly, but those in vain not more slowly than is bearable for whoever waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    count: u32,
    last: Option<BootInstant>,
    in_vain: bool,
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// After writes that came to something: whoever changes the object back is given time.
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

    /// It ended; `in_vain` if nothing was written. Those in vain before one that wasn't were no repetitions.
    pub const fn end(&mut self, in_vain: bool) {
        if self.in_vain && !in_vain {
            self.count = 1;
        }
        self.in_vain = in_vain;
    }

    /// The last one that began says nothing: it counts as if it had not.
    pub const fn take_back(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// What kept them from coming to something may be over: the next may begin at once.
    pub const fn forget_if_in_vain(&mut self) {
        if self.in_vain {
            self.count = 0;
        }
    }

    /// From when on the next may begin, at most `longest_in_vain` after one that was in vain; `None`: at once.
    pub fn due(&self, longest_in_vain: Duration) -> Option<BootInstant> {
        let slowing = if self.in_vain { self.count } else { self.count.saturating_sub(1) };
        let doublings = slowing.checked_sub(1)?;
        let longest = if self.in_vain { longest_in_vain } else { LONGEST_PAUSE };
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(longest);
        self.last.map(|last| last.plus(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The pauses after each of some attempts, in seconds.
    fn pauses(attempts: &mut Attempts, in_vain: bool, longest_in_vain: Duration, tries: usize) -> Vec<u64> {
        let mut now = BootInstant::from_nanos(0);
        let mut next = || {
            attempts.begin(now);
            attempts.end(in_vain);
            let pause = attempts.due(longest_in_vain).map_or(Duration::ZERO, |due| due.since(now));
            now = now.plus(pause);
            pause.as_secs()
        };
        (0..tries).map(|_| next()).collect()
    }

    #[test]
    fn those_in_vain_come_no_more_slowly_than_is_wanted_and_repetitions_ever_more_slowly() {
        assert_eq!(pauses(&mut Attempts::default(), true, SECOND * 4, 6), [1, 2, 4, 4, 4, 4]);
        assert_eq!(pauses(&mut Attempts::default(), true, SECOND * 64, 9), [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(pauses(&mut Attempts::default(), false, SECOND * 4, 9), [0, 1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn those_in_vain_count_no_more_after_one_that_was_not() {
        let mut attempts = Attempts::default();
        pauses(&mut attempts, true, SECOND * 4, 150);
        assert_eq!(pauses(&mut attempts, false, SECOND * 4, 4), [0, 1, 2, 4]);
    }

    #[test]
    fn one_that_is_taken_back_changes_no_pause() {
        let mut attempts = Attempts::default();
        pauses(&mut attempts, true, SECOND * 64, 3);
        let later = BootInstant::from_nanos(20_000_000_000);
        attempts.begin(later);
        attempts.take_back();
        assert_eq!(attempts.due(SECOND * 64), Some(later.plus(SECOND * 4)));
        let mut first = Attempts::default();
        first.begin(later);
        first.take_back();
        assert_eq!(first.due(SECOND * 64), None);
    }

    #[test]
    fn what_may_be_over_is_tried_at_once_but_a_fight_goes_on_as_slowly() {
        let mut in_vain = Attempts::default();
        pauses(&mut in_vain, true, SECOND * 4, 5);
        in_vain.forget_if_in_vain();
        assert_eq!(in_vain.due(SECOND * 4), None);
        let mut fight = Attempts::default();
        pauses(&mut fight, false, SECOND * 4, 5);
        let before = fight;
        fight.forget_if_in_vain();
        assert_eq!(fight, before);
    }
}
