//! Drives the election: does what the state machine says, and feeds back what came of it.

mod claiming;
mod hints;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{info, warn};

use self::claiming::Claiming;
pub use self::hints::Hints;
use super::{
    ports::{BoxFuture, StateError},
    signing_session::SigningSession,
    signing_state::{Claim, ClaimedState, SigningState},
};
use crate::domain::{
    clock::{BootInstant, Clock},
    leadership::{Action, Event, Machine, Reason, Role, Tenure, Term},
};

/// What holds the pair's lock or lease.
pub trait Election: Send + Sync {
    /// Does a request of the machine ([`Action::TryLock`], [`Action::ReadLease`], [`Action::WriteLease`]) and answers with
    /// its event.
    fn request(&self, action: Action) -> BoxFuture<'_, Event>;
    /// Lets go of the lock, if it is held.
    fn release(&self);
    /// Why requests are not answered now, in words; `None` while they are.
    fn trouble(&self) -> Option<Arc<str>> {
        None
    }
}

/// Where this replica stands, for status and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its role.
    pub role: Role,
    /// The term it may sign in.
    pub term: Option<Term>,
    /// What keeps it from becoming active, or would: the state can't be used, or the keeper of the lease doesn't answer.
    pub trouble: Option<Arc<str>>,
}

/// The driver. Owns the machine.
pub struct Leadership {
    machine: Machine,
    election: Arc<dyn Election>,
    state: Arc<SigningState>,
    claiming: Claiming,
    /// The state of the term that was claimed last, until it is granted.
    claimed: Option<(Term, ClaimedState)>,
    /// Why the last claim failed.
    claim_error: Option<StateError>,
    /// Whether the lock was somebody else's when it was tried last.
    another_has_lock: bool,
    session: watch::Sender<Option<Arc<SigningSession>>>,
    /// The session of the term that ended last, until the stores are closed.
    ended: Option<Arc<SigningSession>>,
    standing: watch::Sender<Standing>,
    hints: Hints,
    clock: Arc<dyn Clock>,
    under_way: JoinSet<Outcome>,
}

/// What comes back from a task of the driver.
enum Outcome {
    Event(Event),
    Claim(Term, Result<Claim, StateError>),
}

/// Why the election ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipError {
    /// The state can't be used: nothing may be signed from it, and nothing new is made in its place. Only of an embedded
    /// pair, whose state nobody mends while it runs.
    #[error(transparent)]
    State(StateError),
    /// A task of the driver panicked.
    #[error("the election failed: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// How long what is being signed may still take when a term ends on purpose.
const DRAIN: Duration = Duration::from_millis(100);

impl Leadership {
    /// A driver for `machine`, with the channels that it will publish to, and the hints that it listens to.
    pub fn new(
        machine: Machine,
        election: Arc<dyn Election>,
        state: Arc<SigningState>,
        session: watch::Sender<Option<Arc<SigningSession>>>,
        hints: Hints,
        clock: Arc<dyn Clock>,
    ) -> (Self, watch::Receiver<Standing>) {
        let (standing, follow) = watch::channel(Standing { role: machine.role(), term: None, trouble: None });
        let leadership = Self {
            claiming: Claiming::new(Arc::clone(&state), machine.tenure()),
            machine,
            election,
            state,
            claimed: None,
            claim_error: None,
            another_has_lock: false,
            session,
            ended: None,
            standing,
            hints,
            clock,
            under_way: JoinSet::new(),
        };
        (leadership, follow)
    }

    /// Runs until `shutdown` has resolved and the term, if one was held, is released.
    ///
    /// # Errors
    ///
    /// When the state of an embedded pair is damaged, or a task panics.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), LeadershipError> {
        let mut shutdown = Box::pin(shutdown);
        let mut asked = false;
        let mut highest = self.hints.highest();
        let mut events = VecDeque::from([Event::Tick]);
        loop {
            while let Some(event) = events.pop_front() {
                for action in self.machine.handle(event, self.clock.boot()) {
                    self.perform(action);
                }
            }
            self.publish_standing();
            if self.machine.role() == Role::Stopped {
                return Ok(());
            }
            let wake = self.until_next_wake();
            tokio::select! {
                () = &mut shutdown, if !asked => {
                    asked = true;
                    events.push_back(Event::ShutdownAsked);
                }
                Some(outcome) = self.under_way.join_next() => events.push_back(self.event_of(outcome?)?),
                // the sender is in `self.hints`
                Ok(()) = highest.changed() => events.push_back(Event::HigherTermSeen(*highest.borrow_and_update())),
                () = self.hints.lease_has_changed() => events.push_back(Event::LeaseChanged),
                () = wake => events.push_back(Event::Tick),
            }
        }
    }

    fn until_next_wake(&self) -> impl Future<Output = ()> + use<> {
        let pause = self.machine.next_wake().map(|at| at.since(self.clock.boot()));
        async move {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::TryLock | Action::ReadLease | Action::WriteLease { .. } => {
                let election = Arc::clone(&self.election);
                self.under_way.spawn(async move { Outcome::Event(election.request(action).await) });
            }
            Action::ReleaseLock => self.election.release(),
            Action::ClaimState { term } => {
                let claim = self.claiming.claim(term);
                self.under_way.spawn(async move { Outcome::Claim(term, claim.await) });
            }
            Action::Grant { term, until } => self.grant(term, until),
            Action::Extend { until } => {
                if let Some(session) = self.session.borrow().as_ref() {
                    session.extend(until);
                }
            }
            Action::Revoke { term, reason } => self.revoke(term, reason),
            Action::CloseStores => self.close_stores(),
        }
    }

    fn grant(&mut self, term: Term, until: Option<BootInstant>) {
        // the machine grants only what was claimed, and a claim brings the state with it
        let Some((_, state)) = self.claimed.take_if(|(claimed, _)| *claimed == term) else { return };
        let authority =
            state.authority.as_ref().map(|authority| authority.borrow().id().to_owned()).unwrap_or_default();
        info!(event = "term_granted", %term, authority);
        self.session.send_replace(Some(Arc::new(SigningSession::new(term, state, until))));
    }

    fn revoke(&mut self, term: Term, reason: Reason) {
        if let Some(session) = self.session.borrow().as_ref() {
            session.end();
        }
        self.ended = self.session.send_replace(None);
        match reason {
            Reason::Shutdown => info!(event = "term_ended", %term, ?reason),
            Reason::Expired | Reason::LeaseLost | Reason::HigherTerm => warn!(event = "term_ended", %term, ?reason),
        }
    }

    fn close_stores(&mut self) {
        let (ended, state) = (self.ended.take(), Arc::clone(&self.state));
        self.under_way.spawn(async move {
            if let Some(session) = ended {
                session.drained(DRAIN).await;
            }
            if spawn_blocking(move || state.close()).await.is_err() {
                warn!(event = "state_close_panicked");
            }
            Outcome::Event(Event::StoresClosed)
        });
    }

    fn event_of(&mut self, outcome: Outcome) -> Result<Event, LeadershipError> {
        match outcome {
            Outcome::Event(event) => {
                self.another_has_lock = event == Event::LockHeld;
                Ok(event)
            }
            Outcome::Claim(term, Ok(Claim::Claimed(state))) => {
                self.claimed = Some((term, state));
                self.claim_error = None;
                Ok(Event::StateClaimed { term })
            }
            Outcome::Claim(term, Ok(Claim::Refused { highest })) => Ok(Event::StateRefused { term, highest }),
            Outcome::Claim(_, Err(error @ (StateError::Damaged(_) | StateError::Unusable(_))))
                if self.machine.tenure() == Tenure::Lock =>
            {
                Err(LeadershipError::State(error))
            }
            Outcome::Claim(term, Err(error)) => Ok(self.claim_failed(term, error)),
        }
    }

    /// Said once for as long as it stays the same: the claim is tried again and again.
    fn claim_failed(&mut self, term: Term, error: StateError) -> Event {
        if self.claim_error.as_ref() != Some(&error) {
            warn!(event = "claim_failed", %term, %error);
        }
        let unusable = matches!(error, StateError::Unusable(_));
        self.claim_error = Some(error);
        if unusable { Event::StateUnusable { term } } else { Event::StateUnknown { term } }
    }

    fn publish_standing(&mut self) {
        let (role, term) = (self.machine.role(), self.machine.term());
        // a lock is let go after each claim that fails, and nobody else may have taken it
        let of_another = role == Role::Standby && (self.machine.tenure() != Tenure::Lock || self.another_has_lock);
        if of_another && !matches!(self.claim_error, Some(StateError::Unusable(_))) {
            // somebody else's to mend by now; but one that could not use the state could not take over either
            self.claim_error = None;
        }
        let trouble = self.claim_error.as_ref().map(|error| error.to_string().into());
        let trouble = trouble.or_else(|| self.election.trouble());
        let standing = Standing { role, term, trouble };
        self.standing.send_if_modified(|published| {
            let modified = *published != standing;
            *published = standing;
            modified
        });
    }
}

#[cfg(test)]
mod tests;
