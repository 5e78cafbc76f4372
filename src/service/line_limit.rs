//! Log lines that others can cause as often as they like: the first ones in full, then one a second for each reason. What is
//! counted in metrics is not limited.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The lines of one kind of event. `R` tells the reasons apart; there are few of them, whatever others send.
#[derive(Debug)]
pub struct LineLimit<R> {
    reasons: Mutex<HashMap<R, Spent>>,
}

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many were left out since the last one for the same reason; `None` if none was.
    pub left_out: Option<u64>,
}

/// What was written for one reason.
#[derive(Debug)]
struct Spent {
    /// Lines that may be written at once.
    spare: u32,
    /// When the last one of them was earned.
    earned: Instant,
    left_out: u64,
}

/// After a quiet time.
const AT_ONCE: u32 = 10;
/// From one line to the next after these.
const EACH: Duration = Duration::from_secs(1);

impl<R> Default for LineLimit<R> {
    fn default() -> Self {
        Self { reasons: Mutex::default() }
    }
}

impl<R: Eq + Hash> LineLimit<R> {
    /// Whether a line may be written now.
    pub fn line(&self, reason: R) -> Option<Line> {
        self.line_at(reason, Instant::now())
    }

    fn line_at(&self, reason: R, now: Instant) -> Option<Line> {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Spent { spare: AT_ONCE, earned: now, left_out: 0 };
        reasons.entry(reason).or_insert(new).line_at(now)
    }
}

impl Spent {
    fn line_at(&mut self, now: Instant) -> Option<Line> {
        while self.spare < AT_ONCE && now.saturating_duration_since(self.earned) >= EACH {
            self.spare += 1;
            self.earned += EACH;
        }
        if self.spare == AT_ONCE {
            self.earned = now;
        }
        let Some(spare) = self.spare.checked_sub(1) else {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        };
        self.spare = spare;
        let left_out = std::mem::take(&mut self.left_out);
        Some(Line { left_out: (left_out > 0).then_some(left_out) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines written out of `tries` that come `every` so often, and what they say was left out.
    fn written(limit: &LineLimit<&str>, from: Instant, tries: u32, every: Duration) -> Vec<Option<u64>> {
        (0..tries).filter_map(|n| limit.line_at("refused", from + every * n)).map(|line| line.left_out).collect()
    }

    #[test]
    fn the_first_lines_are_written_and_then_one_a_second_that_counts_the_others() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let lines = written(&limit, start, 5_000, Duration::from_millis(1));
        assert_eq!(lines[..10], [None; 10]);
        // 989 until the first second is over, then 999 in each
        assert_eq!(lines[10..], [Some(990), Some(999), Some(999), Some(999)]);
    }

    #[test]
    fn no_line_is_lost_uncounted_and_reasons_do_not_hide_each_other() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let lines = written(&limit, start, 1_000, Duration::from_millis(7));
        let counted: u64 = lines.iter().map(|left_out| 1 + left_out.unwrap_or(0)).sum();
        let pending = limit.reasons.lock().unwrap()["refused"].left_out;
        assert_eq!(counted + pending, 1_000);
        assert_eq!(limit.line_at("other", start), Some(Line { left_out: None }));
    }

    #[test]
    fn a_quiet_time_makes_room_for_as_many_as_at_first_and_no_more() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        written(&limit, start, 11, Duration::ZERO);
        let later = start + Duration::from_secs(3600);
        let lines = written(&limit, later, 100, Duration::from_millis(1));
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], Some(1));
    }

    #[test]
    fn what_comes_more_rarely_than_once_a_second_is_written_each_time() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        assert_eq!(written(&limit, start, 100, EACH), [None; 100]);
    }
}
