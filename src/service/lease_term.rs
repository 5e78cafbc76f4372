//! The election of a replica that signs nothing: the term comes from the lease alone, and gates only what the active writes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::sleep,
};
use tracing::info;

use super::leadership::{Election, Hints, Standing};
use crate::domain::{
    clock::{BootInstant, Clock},
    leadership::{Action, Event, Machine, Role, Term},
};

/// A term that this replica holds: whoever writes in it looks before whether it still does.
#[derive(Debug)]
pub struct HeldTerm {
    term: Term,
    /// Nanoseconds of the boot clock.
    until: AtomicU64,
}

/// The term held now, if one is.
pub type TermReceiver = watch::Receiver<Option<Arc<HeldTerm>>>;

/// The driver. Owns the machine.
pub struct LeaseTerm {
    machine: Machine,
    election: Arc<dyn Election>,
    held: watch::Sender<Option<Arc<HeldTerm>>>,
    standing: watch::Sender<Standing>,
    hints: Hints,
    clock: Arc<dyn Clock>,
    under_way: JoinSet<Event>,
}

impl HeldTerm {
    /// Its number.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Whether `now` lies inside it.
    pub fn covers(&self, now: BootInstant) -> bool {
        now.nanos() < self.until.load(Ordering::Acquire)
    }
}

impl LeaseTerm {
    /// A driver for `machine`, and what it publishes.
    pub fn new(
        machine: Machine,
        election: Arc<dyn Election>,
        hints: Hints,
        clock: Arc<dyn Clock>,
    ) -> (Self, TermReceiver, watch::Receiver<Standing>) {
        let (held, follow) = watch::channel(None);
        let (standing, stand) = watch::channel(Standing { role: machine.role(), term: None, trouble: None });
        (Self { machine, election, held, standing, hints, clock, under_way: JoinSet::new() }, follow, stand)
    }

    /// Runs until `shutdown` has resolved and the term, if one was held, is released.
    ///
    /// # Errors
    ///
    /// When a request to the lease panics.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), JoinError> {
        let mut shutdown = Box::pin(shutdown);
        let mut asked = false;
        let mut events = VecDeque::from([Event::Tick]);
        loop {
            while let Some(event) = events.pop_front() {
                for action in self.machine.handle(event, self.clock.boot()) {
                    events.extend(self.perform(action));
                }
            }
            self.publish_standing();
            if self.machine.role() == Role::Stopped {
                return Ok(());
            }
            let pause = self.machine.next_wake().map(|at| at.since(self.clock.boot()));
            tokio::select! {
                () = &mut shutdown, if !asked => {
                    asked = true;
                    events.push_back(Event::ShutdownAsked);
                }
                Some(event) = self.under_way.join_next() => events.push_back(event?),
                () = self.hints.lease_has_changed() => events.push_back(Event::LeaseChanged),
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => events.push_back(Event::Tick),
            }
        }
    }

    /// There is no state to claim and none to close: both are answered at once.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::TryLock | Action::ReadLease | Action::WriteLease { .. } => {
                let election = Arc::clone(&self.election);
                self.under_way.spawn(async move { election.request(action).await });
                None
            }
            Action::ReleaseLock => {
                self.election.release();
                None
            }
            Action::ClaimState { term } => Some(Event::StateClaimed { term }),
            Action::CloseStores => Some(Event::StoresClosed),
            Action::Grant { term, until } => {
                info!(event = "term_granted", %term);
                let until = AtomicU64::new(until.map_or(u64::MAX, BootInstant::nanos));
                self.held.send_replace(Some(Arc::new(HeldTerm { term, until })));
                None
            }
            Action::Extend { until } => {
                if let Some(held) = self.held.borrow().as_ref() {
                    held.until.store(until.nanos(), Ordering::Release);
                }
                None
            }
            Action::Revoke { term, reason } => {
                info!(event = "term_ended", %term, ?reason);
                if let Some(held) = self.held.send_replace(None) {
                    held.until.store(0, Ordering::Release);
                }
                None
            }
        }
    }

    fn publish_standing(&self) {
        let (role, term) = (self.machine.role(), self.machine.term());
        let standing = Standing { role, term, trouble: self.election.trouble() };
        self.standing.send_if_modified(|published| {
            let modified = *published != standing;
            *published = standing;
            modified
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use tokio::{
        sync::oneshot,
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{
        domain::{
            clock::Timestamp,
            leadership::{HolderId, LeaseRecord, LeaseTiming, Observed, Tenure, Version},
        },
        service::ports::BoxFuture,
    };

    struct TestClock(Instant);

    impl Clock for TestClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(0)
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_nanos(0).plus(self.0.elapsed())
        }
    }

    /// A lease that does what it is asked, as long as it answers.
    #[derive(Default)]
    struct TestLease {
        written: Mutex<(u64, Option<LeaseRecord>)>,
        silent: watch::Sender<bool>,
    }

    impl Election for TestLease {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a driver asks to read or to write")]
        fn request(&self, action: Action) -> BoxFuture<'_, Event> {
            let mut written = self.written.lock().unwrap();
            let event = match action {
                _ if *self.silent.borrow() => Event::LeaseUnknown,
                Action::WriteLease { expected, record } => {
                    let current = (written.0 > 0).then(|| Version::new(&written.0.to_string()));
                    if expected == current {
                        *written = (written.0 + 1, Some(record));
                        Event::LeaseWritten(Version::new(&written.0.to_string()))
                    } else {
                        Event::LeaseConflict
                    }
                }
                _ => Event::LeaseRead(
                    written.1.clone().map(|record| Observed { version: Version::new(&written.0.to_string()), record }),
                ),
            };
            Box::pin(std::future::ready(event))
        }

        fn release(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_is_held_while_the_lease_can_be_renewed_and_released_at_the_end() {
        let second = Duration::from_secs(1);
        let timing = LeaseTiming::new(second, second * 3, second * 5).unwrap();
        let clock = Arc::new(TestClock(Instant::now()));
        let machine = Machine::new(Tenure::Lease(timing), HolderId::parse("a").unwrap(), clock.boot());
        let lease = Arc::new(TestLease::default());
        let (driver, mut held, standing) =
            LeaseTerm::new(machine, Arc::clone(&lease) as _, Hints::new(), Arc::clone(&clock) as _);
        let (leave, left) = oneshot::channel::<()>();
        let running = tokio::spawn(driver.run(async move { left.await.unwrap() }));
        let limit = Duration::from_secs(60);

        let first = timeout(limit, held.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
        assert!(first.covers(clock.boot()));
        sleep(Duration::from_secs(20)).await;
        assert!(first.covers(clock.boot()), "renewed");
        assert_eq!(standing.borrow().term, Some(first.term()));

        lease.silent.send_replace(true);
        timeout(limit, held.wait_for(Option::is_none)).await.unwrap().unwrap();
        assert!(!first.covers(clock.boot()));
        lease.silent.send_replace(false);
        let second = timeout(limit, held.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
        assert!(second.term() > first.term());

        leave.send(()).unwrap();
        timeout(limit, running).await.unwrap().unwrap().unwrap();
        assert!(!second.covers(clock.boot()) && held.borrow().is_none());
    }
}
