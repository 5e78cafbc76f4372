//! Writes the roots into all places of one kind, at a pace that the API server doesn't feel.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::{
    places::{Followed, PlacesError, RootPlaces, WriteError},
    status::{SpreadStatus, named},
};
use crate::{
    domain::{
        authority::SigningAuthority,
        bundle::{Distribution, Outcome, OwnRoots, PlacedObject, Summary, Write},
        clock::{BootInstant, Clock},
        pace::Pace,
    },
    service::{
        metrics::{Metrics, RootPlaceState, RootWriteOutcome},
        signing_session::SigningSession,
        waiting::pause,
    },
};

/// One kind of place.
pub(super) struct Spread {
    pub(super) places: Arc<dyn RootPlaces>,
    pub(super) text: RootsText,
    pub(super) publisher: String,
    pub(super) adopt: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

/// In which form the roots are written.
#[derive(Clone, Copy, Debug)]
pub(super) enum RootsText {
    /// As every response ends: the bytes that an operator wrote, if one did.
    AsWritten,
    /// Nothing but certificates, each once.
    CertificatesOnly,
}

/// 40 writes a second. With what follows the objects and what the Lease needs this stays below 50, and a thousand places take
/// 25 s.
const INTERVAL: Duration = Duration::from_millis(25);
/// A busy machine that comes late to its turn has not lost it.
const BURST: u32 = 3;
/// What lists and follows the objects at the beginning takes the turns of this time; if both replicas have just started, so does
/// what each of them asks for once.
const LISTING: Duration = Duration::from_secs(1);
/// A server that answers slowly must not make it slower than that.
const AT_ONCE: usize = 8;
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Status, metrics and log lines about places come at most as often as this.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// A failure that goes on is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl Spread {
    /// Writes the roots of `session` wherever they are missing. Gives each change of how it stands to `publish`.
    pub(super) async fn run(&self, session: &SigningSession, publish: impl Fn(SpreadStatus)) -> Infallible {
        let (Some(mut authority), Some(now)) = (session.authority_changes(), session.authority()) else {
            return std::future::pending().await;
        };
        let mut distribution = Distribution::new(self.roots(&now), self.adopt);
        let mut pace = Pace::new(INTERVAL, BURST, self.clock.boot().plus(LISTING));
        let mut seen = self.places.follow();
        let mut writes = FuturesUnordered::new();
        let mut report = Report::new(self.places.title());
        let mut look = interval(REPORT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = self.clock.boot();
            let due = distribution.next_wake(now).filter(|_| writes.len() < AT_ONCE);
            let turn = due.map(|due| due.max(pace.free_at()).since(now));
            tokio::select! {
                Some(item) = seen.next() => match item {
                    Ok(seen) => {
                        report.follows(Followed::by(&seen));
                        distribution.see(seen, self.clock.boot());
                    }
                    Err(error) => report.cannot_follow(error),
                },
                Some((write, written)) = writes.next(), if !writes.is_empty() => {
                    let outcome = self.outcome(&write, written, &mut report);
                    distribution.wrote(&write.place, outcome, self.clock.boot());
                }
                Ok(()) = authority.changed() => {
                    let roots = self.roots(&authority.borrow_and_update());
                    if roots != *distribution.roots() {
                        info!(event = "roots_changed", objects = self.places.title(), roots = ?roots);
                        distribution.set_roots(roots, self.clock.boot());
                    }
                }
                () = pause(turn) => {
                    let now = self.clock.boot();
                    if pace.free_at() <= now && let Some(write) = distribution.next(now) {
                        pace.take(now);
                        writes.push(self.write(write, distribution.roots().clone()));
                    }
                }
                _ = look.tick() => self.publish(&mut report, &distribution, &publish),
            }
        }
    }

    fn roots(&self, authority: &SigningAuthority) -> OwnRoots {
        let text = match self.text {
            RootsText::AsWritten => authority.roots_pem().to_owned(),
            RootsText::CertificatesOnly => authority.bundle().to_pem(),
        };
        OwnRoots::new(&text, authority.bundle(), &self.publisher)
    }

    async fn write(&self, write: Write, roots: OwnRoots) -> (Write, Result<PlacedObject, WriteError>) {
        let written = timeout(WRITE_LIMIT, self.places.write(&write, &roots)).await;
        let no_answer = |_elapsed| Err(WriteError::Failed(format!("no answer within {WRITE_LIMIT:?}")));
        let written = written.unwrap_or_else(no_answer);
        (write, written)
    }

    fn outcome(&self, write: &Write, written: Result<PlacedObject, WriteError>, report: &mut Report) -> Outcome {
        let (outcome, counted) = match written {
            Ok(object) => (Outcome::Written(object), RootWriteOutcome::Written),
            Err(WriteError::Outdated(_)) => (Outcome::Outdated, RootWriteOutcome::Outdated),
            Err(WriteError::Failed(why)) => {
                report.failed(&write.place, &why, self.clock.boot());
                (Outcome::Failed, RootWriteOutcome::Failed)
            }
        };
        self.metrics.root_written(counted);
        outcome
    }

    fn publish(&self, report: &mut Report, distribution: &Distribution, publish: &impl Fn(SpreadStatus)) {
        if !distribution.is_known() && report.problems.is_empty() {
            return;
        }
        let Some(status) = report.change(distribution.roots(), distribution.summary()) else { return };
        let Summary { wanted, right, conflicts, fights, failing } = &status.summary;
        self.metrics.set_places(self.places.kind(), |state| match state {
            RootPlaceState::Wanted => *wanted,
            RootPlaceState::Right => *right,
            RootPlaceState::Conflict => conflicts.len(),
            RootPlaceState::Fight => fights.len(),
            RootPlaceState::Failing => failing.len(),
        });
        publish(status);
    }
}

/// What was told already.
struct Report {
    last: SpreadStatus,
    is_first: bool,
    problems: BTreeMap<Followed, String>,
    told_failure_at: Option<BootInstant>,
}

impl Report {
    fn new(name: &str) -> Self {
        let (name, roots) = (name.to_owned(), BTreeSet::new());
        let last = SpreadStatus { name, roots, summary: Summary::default(), problem: None };
        Self { last, is_first: true, problems: BTreeMap::new(), told_failure_at: None }
    }

    fn follows(&mut self, followed: Followed) {
        self.problems.remove(&followed);
    }

    fn cannot_follow(&mut self, PlacesError { followed, problem }: PlacesError) {
        self.problems.insert(followed, problem);
    }

    /// A cluster in which everything fails gives one line now and then, not one for each namespace.
    fn failed(&mut self, place: &str, why: &str, now: BootInstant) {
        if self.told_failure_at.is_none_or(|at| now.since(at) >= TELL_AGAIN) {
            warn!(event = "root_write_failed", objects = self.last.name, place, error = why);
            self.told_failure_at = Some(now);
        }
    }

    /// The status, if it is another one; log lines about what is new in it.
    fn change(&mut self, roots: &OwnRoots, summary: Summary) -> Option<SpreadStatus> {
        let (name, problem) = (self.last.name.clone(), self.problems.values().next().cloned());
        let status = SpreadStatus { name, roots: roots.fingerprints().clone(), summary, problem };
        if !std::mem::take(&mut self.is_first) && status == self.last {
            return None;
        }
        let objects = &status.name;
        let (old, new) = (&self.last.summary, &status.summary);
        if let Some(places) = added(&old.conflicts, &new.conflicts) {
            warn!(event = "root_conflict", objects, places, "other roots stand there: remove them, or set adopt");
        }
        if let Some(places) = added(&old.fights, &new.fights) {
            warn!(
                event = "root_fight",
                objects, places, "another writer changed our roots back twice: it is left alone"
            );
        }
        if status.problem != self.last.problem {
            match &status.problem {
                Some(problem) => warn!(event = "places_not_followed", objects, error = problem),
                None => info!(event = "places_followed", objects),
            }
        }
        if new.right == new.wanted && old.right != old.wanted {
            info!(event = "roots_distributed", objects, places = new.wanted);
        }
        self.last = status.clone();
        Some(status)
    }
}

fn added(old: &[String], new: &[String]) -> Option<String> {
    let old: BTreeSet<&String> = old.iter().collect();
    let added: Vec<String> = new.iter().filter(|place| !old.contains(place)).cloned().collect();
    (!added.is_empty()).then(|| named(&added))
}
