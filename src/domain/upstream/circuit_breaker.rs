//! When an authority that can't be reached is left alone.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// Opens after a few failures in a row; from then on one attempt at a time finds out whether things are well again.
#[derive(Debug)]
pub struct CircuitBreaker(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All may ask. So many attempts in a row have failed.
    Closed { failures: u32 },
    /// Nobody may ask for a while.
    Open { since: BootInstant },
    /// One attempt is under way.
    Probing { since: BootInstant },
}

/// One lost connection fails every call on it, so a few must not be enough to keep all others away for long.
const FAILURES: u32 = 5;
/// Callers that have nothing to live on ask each second.
const PAUSE: Duration = Duration::from_secs(1);
/// An attempt of which nothing is heard is given up: whoever made it may be gone.
const PROBE_LIMIT: Duration = Duration::from_secs(12);

impl CircuitBreaker {
    /// Closed.
    pub const fn new() -> Self {
        Self(State::Closed { failures: 0 })
    }

    /// Whether somebody may ask at `now`. Whoever may is expected to say what came of it.
    pub fn admit(&mut self, now: BootInstant) -> bool {
        let admits = self.would_admit(now);
        if admits && self.is_open() {
            self.0 = State::Probing { since: now };
        }
        admits
    }

    /// Whether somebody who came at `now` could ask.
    pub fn would_admit(&self, now: BootInstant) -> bool {
        match self.0 {
            State::Closed { .. } => true,
            State::Open { since } => now.since(since) >= PAUSE,
            State::Probing { since } => now.since(since) >= PROBE_LIMIT,
        }
    }

    /// There was an answer, whatever it said.
    pub const fn answered(&mut self) {
        self.0 = State::Closed { failures: 0 };
    }

    /// There was none.
    pub const fn failed(&mut self, now: BootInstant) {
        self.0 = match self.0 {
            State::Closed { failures } if failures + 1 < FAILURES => State::Closed { failures: failures + 1 },
            State::Closed { .. } | State::Probing { .. } => State::Open { since: now },
            // of an attempt that began before: no reason to wait longer
            open @ State::Open { .. } => open,
        };
    }

    /// Whether only single attempts are made.
    pub const fn is_open(&self) -> bool {
        !matches!(self.0, State::Closed { .. })
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_with_the_first_answer() {
        let mut breaker = CircuitBreaker::new();
        for failures in 1..FAILURES {
            breaker.failed(at(0));
            assert!(!breaker.is_open() && breaker.admit(at(0)), "after {failures}");
        }
        breaker.answered();
        (0..FAILURES).for_each(|_| breaker.failed(at(0)));
        assert!(breaker.is_open() && !breaker.would_admit(at(999)) && !breaker.admit(at(999)));
        assert!(breaker.would_admit(at(1000)) && breaker.would_admit(at(1000)), "to look takes nothing");
        assert!(breaker.admit(at(1000)), "one attempt");
        assert!(!breaker.would_admit(at(1001)) && !breaker.admit(at(1001)), "and no other beside it");
        breaker.failed(at(1100));
        assert!(!breaker.admit(at(2099)) && breaker.admit(at(2100)));
        breaker.answered();
        assert!(!breaker.is_open() && breaker.admit(at(2101)) && breaker.admit(at(2101)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Answered,
        Failed,
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![4 => Just(Step::Ask), 1 => Just(Step::Answered), 4 => Just(Step::Failed)];
        prop::collection::vec((0_u64..800, step), 0..200)
    }

    proptest! {
        #[test]
        fn an_open_one_admits_at_most_one_attempt_in_each_pause(steps in steps()) {
            let (mut breaker, mut now, mut last) = (CircuitBreaker::new(), 0, None);
            for (later, step) in steps {
                now += later;
                match step {
                    Step::Answered => {
                        breaker.answered();
                        last = None;
                    }
                    Step::Failed => breaker.failed(at(now)),
                    Step::Ask => {
                        let was_open = breaker.is_open();
                        let is_single = breaker.admit(at(now)) && was_open;
                        if let Some(last) = is_single.then(|| last.replace(now)).flatten() {
                            prop_assert!(now - last >= 1000, "{last} and {now}");
                        }
                    }
                }
            }
        }

        #[test]
        fn nothing_keeps_it_shut_for_ever(steps in steps()) {
            let (mut breaker, mut now) = (CircuitBreaker::new(), 0);
            for (later, step) in steps {
                now += later;
                match step {
                    Step::Answered => breaker.answered(),
                    Step::Failed => breaker.failed(at(now)),
                    Step::Ask => drop(breaker.admit(at(now))),
                }
            }
            prop_assert!(breaker.admit(at(now + 12_000)));
        }

        #[test]
        fn failures_that_no_answer_comes_between_open_it(steps in steps()) {
            let (mut breaker, mut now, mut in_a_row) = (CircuitBreaker::new(), 0, 0);
            for (later, step) in steps {
                now += later;
                match step {
                    Step::Answered => {
                        breaker.answered();
                        in_a_row = 0;
                    }
                    Step::Failed => {
                        breaker.failed(at(now));
                        in_a_row += 1;
                    }
                    Step::Ask => drop(breaker.admit(at(now))),
                }
                prop_assert_eq!(breaker.is_open(), in_a_row >= FAILURES);
            }
        }
    }
}
