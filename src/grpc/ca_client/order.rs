//! Which address is asked first: they go as they were given, but one that has failed lately goes after all others.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So long an address that has failed goes last. The next call after that finds out whether it is well again, and goes on to the
/// others if it is not.
pub(super) const LAST_FOR: Duration = Duration::from_secs(30);

/// What is known of the addresses.
pub(super) struct Order(Mutex<Known>);

struct Known {
    /// For each address, when it failed since its last answer.
    failed: Vec<Option<Instant>>,
    answered_last: Option<usize>,
}

impl Order {
    /// Of `count` addresses.
    pub(super) fn of(count: usize) -> Self {
        Self(Mutex::new(Known { failed: vec![None; count], answered_last: None }))
    }

    /// All of them, in the order in which they are asked now.
    pub(super) fn now(&self) -> Vec<usize> {
        let known = self.known();
        let mut order: Vec<_> = known.failed.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, failed)| failed.is_some_and(|at| at.elapsed() < LAST_FOR));
        order.into_iter().map(|(index, _)| index).collect()
    }

    /// There was no answer at this one, or none that could be accepted.
    pub(super) fn failed(&self, index: usize) {
        if let Some(failed) = self.known().failed.get_mut(index) {
            *failed = Some(Instant::now());
        }
    }

    /// This one has answered.
    pub(super) fn answered(&self, index: usize) {
        let mut known = self.known();
        known.answered_last = Some(index);
        if let Some(failed) = known.failed.get_mut(index) {
            *failed = None;
        }
    }

    /// What was answered last turned out to be of no use.
    pub(super) fn unusable(&self) {
        let answered_last = self.known().answered_last;
        if let Some(index) = answered_last {
            self.failed(index);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_goes_last_for_a_while_and_then_in_its_place_again() {
        let order = Order::of(3);
        assert_eq!(order.now(), [0, 1, 2]);
        order.failed(0);
        order.answered(1);
        assert_eq!(order.now(), [1, 2, 0]);
        advance(LAST_FOR / 2).await;
        order.failed(1);
        assert_eq!(order.now(), [2, 0, 1]);
        advance(LAST_FOR / 2).await;
        assert_eq!(order.now(), [0, 2, 1], "the first is tried again");
        order.answered(0);
        order.answered(1);
        assert_eq!(order.now(), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_of_no_use_is_a_failure() {
        let order = Order::of(2);
        order.unusable();
        assert_eq!(order.now(), [0, 1], "nobody has answered");
        order.answered(0);
        order.unusable();
        assert_eq!(order.now(), [1, 0]);
        order.answered(1);
        order.unusable();
        assert_eq!(order.now(), [0, 1], "all are as good");
    }
}
