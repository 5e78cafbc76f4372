//! Answers that are believed for a while: so many at most, the oldest go first.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{domain::clock::BootInstant, service::flights::Key};

/// Answers that all live equally long.
pub(super) struct Kept<V> {
    by_key: HashMap<Key, (V, BootInstant)>,
    /// In the order in which they end. One that was replaced stands here twice, with its former end.
    ends: VecDeque<(Key, BootInstant)>,
    capacity: usize,
}

impl<V> Kept<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { by_key: HashMap::new(), ends: VecDeque::new(), capacity }
    }

    /// The answer, if its time is not over.
    pub(super) fn get(&self, key: &Key, now: BootInstant) -> Option<&V> {
        self.by_key.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value)
    }

    /// Keeps an answer for `lifetime`, which is the same each time.
    pub(super) fn keep(&mut self, key: Key, value: V, now: BootInstant, lifetime: Duration) {
        while self.ends.front().is_some_and(|(_, until)| *until <= now || self.ends.len() >= self.capacity) {
            self.forget_oldest();
        }
        let until = now.plus(lifetime);
        if until > now {
            self.ends.push_back((key, until));
            self.by_key.insert(key, (value, until));
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, until)) = self.ends.pop_front() else { return };
        if self.by_key.get(&key).is_some_and(|(_, kept_until)| *kept_until == until) {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(0).plus(SECOND * u32::try_from(seconds).unwrap())
    }

    #[test]
    fn an_answer_ends_with_its_time() {
        let mut kept = Kept::new(10);
        kept.keep([1; 32], "a", at(0), SECOND * 2);
        assert_eq!(kept.get(&[1; 32], at(1)), Some(&"a"));
        assert_eq!(kept.get(&[1; 32], at(2)), None);
        assert_eq!(kept.get(&[2; 32], at(1)), None);
        kept.keep([1; 32], "b", at(1), SECOND * 2);
        assert_eq!(kept.get(&[1; 32], at(2)), Some(&"b"));
        // the former end of a replaced answer takes nothing away
        kept.keep([2; 32], "c", at(2), SECOND * 2);
        assert_eq!(kept.get(&[1; 32], at(2)), Some(&"b"));
    }

    #[test]
    fn nothing_is_kept_for_no_time() {
        let mut kept = Kept::new(10);
        kept.keep([1; 32], "a", at(0), Duration::ZERO);
        assert_eq!(kept.get(&[1; 32], at(0)), None);
    }

    proptest! {
        #[test]
        fn never_more_than_the_capacity_and_the_last_ones_stay(keys in prop::collection::vec(0u8..20, 1..200)) {
            let mut kept = Kept::new(5);
            for (at_second, key) in (0u64..).zip(&keys) {
                kept.keep([*key; 32], *key, at(at_second), SECOND * 1000);
                prop_assert!(kept.by_key.len() <= 5 && kept.ends.len() <= 5);
                prop_assert_eq!(kept.get(&[*key; 32], at(at_second)), Some(key));
            }
        }
    }
}
