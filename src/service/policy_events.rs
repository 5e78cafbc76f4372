//! Says on the objects themselves, as Events, when something begins to stand in the way of their policy, and when it is in force. The
//! active writes; the others follow, so that who takes over does not say again what was said.
//!
//! They are for people: few, and never worth a retry. Programs read conditions.

mod tracker;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::warn;

use self::tracker::Tracker;
use super::{
    metrics::{EventOutcome, Metrics},
    policy_enforcement::PolicyEnforcement,
    ports::BoxFuture,
};
use crate::domain::{
    clock::Clock,
    pace::Pace,
    policy::{ObjectName, Severity},
};

/// What holds at two looks in a row is said: not what comes and goes within a roll-out.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A label may bring a condition to hundreds of Services: so many are said at once, then one a second. The others are not said.
const BURST: u32 = 50;
const INTERVAL: Duration = Duration::from_secs(1);
const WRITE_LIMIT: Duration = Duration::from_secs(3);

/// The port: where Events are written.
pub trait PolicyEventLog: Send + Sync {
    /// Writes one; the same of one object is one that came again.
    ///
    /// # Errors
    ///
    /// With the reason, when it is not written.
    fn write<'a>(&'a self, event: &'a PolicyEvent) -> BoxFuture<'a, Result<(), String>>;
}

/// Something that has begun to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyEvent {
    /// Of what.
    pub subject: EventSubject,
    /// The condition's: stable.
    pub reason: &'static str,
    /// The condition's. A notice is as it should be.
    pub severity: Severity,
    /// The condition's text.
    pub message: String,
}

/// An object that something is said of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventSubject {
    /// What it is.
    pub kind: SubjectKind,
    /// Which; a namespace lies in itself.
    pub object: ObjectName,
    /// Its UID; empty if that is not known.
    pub uid: Box<str>,
}

/// What something is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectKind {
    /// A namespace.
    Namespace,
    /// A Service.
    Service,
    /// A Gateway of the Gateway API.
    Gateway,
}

/// The use case.
pub struct PolicyEvents {
    enforcement: Arc<PolicyEnforcement>,
    log: Arc<dyn PolicyEventLog>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl PolicyEvents {
    /// Of what `enforcement` has judged.
    pub fn new(
        enforcement: Arc<PolicyEnforcement>,
        log: Arc<dyn PolicyEventLog>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { enforcement, log, clock, metrics }
    }

    /// Writes while this replica is active, which it is while there is something in `held`. Never returns.
    pub async fn run<T: Send + Sync>(self, held: watch::Receiver<Option<T>>) -> Infallible {
        let judged = self.enforcement.follow();
        let mut pace = Pace::new(INTERVAL, BURST, self.clock.boot());
        let (mut tracker, mut said) = (Tracker::default(), String::new());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Some(seen) = judged.borrow().clone() else { continue };
            let begun = tracker.look(seen);
            let is_active = held.borrow().is_some();
            if is_active {
                self.write(begun, &mut pace, &mut said).await;
            }
        }
    }

    async fn write(&self, mut begun: Vec<PolicyEvent>, pace: &mut Pace, said: &mut String) {
        begun.sort_by_key(|event| std::cmp::Reverse(event.severity));
        let mut dropped = 0;
        for event in begun {
            let now = self.clock.boot();
            if dropped > 0 || pace.free_at() > now {
                dropped += 1;
                self.metrics.policy_event(EventOutcome::Dropped);
                continue;
            }
            pace.take(now);
            let written = timeout(WRITE_LIMIT, self.log.write(&event)).await;
            match written.unwrap_or_else(|_elapsed| Err(format!("no answer within {WRITE_LIMIT:?}"))) {
                Ok(()) => self.metrics.policy_event(EventOutcome::Written),
                Err(error) => {
                    self.metrics.policy_event(EventOutcome::Failed);
                    if *said != error {
                        warn!(event = "policy_event_not_written", error, "it is not tried again");
                        *said = error;
                    }
                }
            }
        }
        if dropped > 0 {
            warn!(event = "policy_events_dropped", dropped, "countersign policy list says everything");
        }
    }
}
