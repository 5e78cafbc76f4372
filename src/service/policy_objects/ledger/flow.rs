//! How much of a kind is under way, and whether the API server takes more.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// What is under way of a kind, and whether the API server takes more.
#[derive(Debug, Default)]
pub(super) struct Flow {
    under_way: usize,
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Closed {
    until: BootInstant,
    failures: u32,
    why: String,
}

/// After a first failure that has nothing to do with the object; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// An API server that asks for more does not get it.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

impl Flow {
    pub(super) const fn begin(&mut self) {
        self.under_way += 1;
    }

    /// One has ended, with an answer about the object.
    pub(super) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.closed = None;
    }

    /// One has ended in a way that others of the kind would: they are left for later, for as long as is `asked` at least.
    pub(super) fn close(&mut self, why: &str, asked: Option<Duration>, now: BootInstant) {
        self.under_way = self.under_way.saturating_sub(1);
        let failures = match &self.closed {
            // of those that were under way together the first counts
            Some(closed) if closed.until > now => closed.failures,
            Some(closed) => closed.failures.saturating_add(1),
            None => 0,
        };
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
        let until = now.plus(pause.max(asked.unwrap_or_default().min(LONGEST_ASKED)));
        let until = self.closed.as_ref().map_or(until, |closed| closed.until.max(until));
        self.closed = Some(Closed { until, failures, why: why.to_owned() });
    }

    /// From when on the API server may be asked for another one; `None`: not before it has answered.
    pub(super) fn opens_at(&self, now: BootInstant) -> Option<BootInstant> {
        match &self.closed {
            // one is enough to find out
            Some(_) if self.under_way > 0 => None,
            Some(closed) => Some(closed.until.max(now)),
            None => Some(now),
        }
    }

    /// Why nothing is taken.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_ref().map(|closed| closed.why.as_str())
    }
}
