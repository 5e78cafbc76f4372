//! Log lines that others can cause as often as they like: of each reason and subject the first ones in full, then one a second; and
//! of each reason, whoever the subjects are, a bounded number. What is counted in metrics is not limited.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The lines of one kind of event. `R` tells the reasons apart; there are few of them, whatever others send. `S` is whom a line is
/// about, of whom there may be any number: who floods the log hides nobody else's lines.
#[derive(Debug)]
pub struct LineLimit<R, S = ()> {
    reasons: Mutex<HashMap<R, Reason<S>>>,
}

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many were left out since the last one for the same reason and subject, and of subjects that are forgotten since;
    /// `None` if none was.
    pub left_out: Option<u64>,
}

/// What was written for one reason.
#[derive(Debug)]
struct Reason<S> {
    all: Spare,
    subjects: HashMap<S, Subject>,
    /// Left out of those who have no place in `subjects`.
    left_out: u64,
}

/// What was written of one subject.
#[derive(Debug)]
struct Subject {
    own: Spare,
    left_out: u64,
}

/// Lines that may be written at once.
#[derive(Clone, Copy, Debug)]
struct Spare {
    count: u32,
    /// When the last one of them was earned.
    earned: Instant,
}

/// How many lines there may be.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// After a quiet time.
    at_once: u32,
    /// From one line to the next after these.
    each: Duration,
}

/// Of one subject.
const OF_ONE: Bound = Bound { at_once: 10, each: Duration::from_secs(1) };
/// Of all subjects together.
const OF_ALL: Bound = Bound { at_once: 100, each: Duration::from_millis(100) };
/// As many subjects of a reason are told apart; what others are about shares the bound of all.
const SUBJECTS: usize = 256;

impl<R, S> Default for LineLimit<R, S> {
    fn default() -> Self {
        Self { reasons: Mutex::default() }
    }
}

impl<R: Eq + Hash, S: Eq + Hash> LineLimit<R, S> {
    /// Whether a line may be written now.
    pub fn line(&self, reason: R, subject: S) -> Option<Line> {
        self.line_at(reason, subject, Instant::now())
    }

    fn line_at(&self, reason: R, subject: S, now: Instant) -> Option<Line> {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Reason { all: Spare::full(OF_ALL, now), subjects: HashMap::new(), left_out: 0 };
        reasons.entry(reason).or_insert_with(new).line_at(subject, now)
    }
}

impl<S: Eq + Hash> Reason<S> {
    fn line_at(&mut self, subject: S, now: Instant) -> Option<Line> {
        let (is_known, has_spare) = match self.subjects.get_mut(&subject) {
            Some(known) => (true, known.own.earn(OF_ONE, now) > 0),
            None => (false, true),
        };
        let may_be = has_spare && self.all.earn(OF_ALL, now) > 0;
        if may_be && !is_known {
            self.make_room(now);
        }
        let has_place = is_known || (may_be && self.subjects.len() < SUBJECTS);
        let left_out = if has_place {
            let new = || Subject { own: Spare::full(OF_ONE, now), left_out: 0 };
            let of_subject = self.subjects.entry(subject).or_insert_with(new);
            if may_be {
                of_subject.own.count -= 1;
            }
            &mut of_subject.left_out
        } else {
            &mut self.left_out
        };
        if !may_be {
            *left_out = left_out.saturating_add(1);
            return None;
        }
        self.all.count -= 1;
        let left_out = std::mem::take(left_out).saturating_add(std::mem::take(&mut self.left_out));
        Some(Line { left_out: (left_out > 0).then_some(left_out) })
    }

    /// Forgets who has been quiet, if there is no place for another one.
    fn make_room(&mut self, now: Instant) {
        if self.subjects.len() < SUBJECTS {
            return;
        }
        let forgotten = &mut self.left_out;
        self.subjects.retain(|_, subject| {
            let is_quiet = subject.own.earn(OF_ONE, now) == OF_ONE.at_once;
            if is_quiet {
                *forgotten = forgotten.saturating_add(subject.left_out);
            }
            !is_quiet
        });
    }
}

impl Spare {
    const fn full(bound: Bound, now: Instant) -> Self {
        Self { count: bound.at_once, earned: now }
    }

    /// How many there are now.
    fn earn(&mut self, bound: Bound, now: Instant) -> u32 {
        while self.count < bound.at_once && now.saturating_duration_since(self.earned) >= bound.each {
            self.count += 1;
            self.earned += bound.each;
        }
        if self.count == bound.at_once {
            self.earned = now;
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "refused";
    const MS: Duration = Duration::from_millis(1);

    /// Lines written of `subject` out of `tries` that come `every` so often, and what they say was left out.
    fn written(
        limit: &LineLimit<&str, u32>,
        subject: u32,
        from: Instant,
        tries: u32,
        every: Duration,
    ) -> Vec<Option<u64>> {
        let lines = (0..tries).filter_map(|n| limit.line_at(REASON, subject, from + every * n));
        lines.map(|line| line.left_out).collect()
    }

    #[test]
    fn the_first_lines_are_written_and_then_one_a_second_that_counts_the_others() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let lines = written(&limit, 1, start, 5_000, MS);
        assert_eq!(lines[..10], [None; 10]);
        // 989 until the first second is over, then 999 in each
        assert_eq!(lines[10..], [Some(990), Some(999), Some(999), Some(999)]);
    }

    #[test]
    fn no_line_is_lost_uncounted_and_reasons_do_not_hide_each_other() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let lines = written(&limit, 1, start, 1_000, 7 * MS);
        let counted: u64 = lines.iter().map(|left_out| 1 + left_out.unwrap_or(0)).sum();
        let pending = limit.reasons.lock().unwrap()[REASON].subjects[&1].left_out;
        assert_eq!(counted + pending, 1_000);
        assert_eq!(limit.line_at("other", 1, start), Some(Line { left_out: None }));
    }

    #[test]
    fn whoever_floods_the_log_hides_nobody_else() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        written(&limit, 1, start, 10_000, MS);
        let later = start + 10_000 * MS;
        assert_eq!(written(&limit, 2, later, 1, MS), [None], "and what is left out of one is not told of another");
        assert_eq!(written(&limit, 3, later, 10, MS), [None; 10]);
    }

    #[test]
    fn many_subjects_are_bounded_together_in_lines_and_in_memory_and_none_is_lost_uncounted() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let (mut lines, mut counted) = (0, 0);
        for n in 0..10_000 {
            if let Some(Line { left_out }) = limit.line_at(REASON, n, start + MS * n) {
                lines += 1;
                counted += 1 + left_out.unwrap_or(0);
            }
        }
        // 100 at once, and ten in each of ten seconds
        assert_eq!(lines, 199);
        let reasons = limit.reasons.lock().unwrap();
        let reason = &reasons[REASON];
        assert!(reason.subjects.len() <= SUBJECTS);
        let pending: u64 = reason.left_out + reason.subjects.values().map(|subject| subject.left_out).sum::<u64>();
        assert_eq!(counted + pending, 10_000);
    }

    #[test]
    fn one_who_was_quiet_makes_room_and_what_was_left_out_of_him_is_told_with_the_next_line() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        written(&limit, 0, start, 15, Duration::ZERO);
        let second = Duration::from_secs(1);
        for n in 1..u32::try_from(SUBJECTS).unwrap() {
            assert_eq!(written(&limit, n, start + second * n, 1, MS), [None], "{n}");
        }
        let later = start + second * 1_000;
        assert_eq!(written(&limit, 1_000, later, 1, MS), [Some(5)]);
        assert_eq!(limit.reasons.lock().unwrap()[REASON].subjects.len(), 1);
    }

    #[test]
    fn a_quiet_time_makes_room_for_as_many_as_at_first_and_no_more() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        written(&limit, 1, start, 11, Duration::ZERO);
        let later = start + Duration::from_secs(3600);
        let lines = written(&limit, 1, later, 100, MS);
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], Some(1));
    }

    #[test]
    fn what_comes_more_rarely_than_once_a_second_is_written_each_time() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        assert_eq!(written(&limit, 1, start, 100, OF_ONE.each), [None; 100]);
    }
}
