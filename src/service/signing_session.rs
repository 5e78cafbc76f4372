//! The proof that this replica may sign: an authority, the term it signs under, and the instant at which that ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    ports::StateError,
    published_trust::TrustReceiver,
    signing_state::{AuthorityReceiver, ClaimedState, JwtSignerReceiver, TermState},
};
use crate::domain::{
    attestation::Denied,
    authority::SigningAuthority,
    clock::{BootInstant, Timestamp},
    jwt::JwtSigner,
    leadership::Term,
};

/// One term's permission to sign. Held by whoever signs, for as long as that takes.
#[derive(Debug)]
pub struct SigningSession {
    term: Term,
    authority: Option<AuthorityReceiver>,
    denied: ArcSwap<Denied>,
    trust: TrustReceiver,
    jwt_signer: JwtSignerReceiver,
    state: Option<Arc<TermState>>,
    /// Nanoseconds of the boot clock; `u64::MAX` when the term has no deadline of its own.
    until: AtomicU64,
    ended: watch::Sender<bool>,
    /// One at a time writes what is on record: the others find it there.
    recording: Semaphore,
    in_flight: Arc<Semaphore>,
}

/// More than the requests that one replica holds, so that signing itself is never what waits.
const IN_FLIGHT: u32 = 8192;

impl SigningSession {
    /// A session of `term`, until `until` if the term has a deadline.
    pub fn new(term: Term, state: ClaimedState, until: Option<BootInstant>) -> Self {
        Self {
            term,
            authority: state.authority,
            denied: ArcSwap::from_pointee(state.denied),
            trust: state.trust,
            jwt_signer: state.jwt_signer,
            state: state.state,
            until: AtomicU64::new(until.map_or(u64::MAX, BootInstant::nanos)),
            ended: watch::Sender::new(false),
            recording: Semaphore::new(1),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
        }
    }

    /// The term.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// What signs certificates at this instant; `None` where istiod does. Whoever makes a response takes it once: the next call may
    /// answer with another one.
    pub fn authority(&self) -> Option<Arc<SigningAuthority>> {
        Some(Arc::clone(&self.authority.as_ref()?.borrow()))
    }

    /// Tells of each later change of [`Self::authority`].
    pub fn authority_changes(&self) -> Option<AuthorityReceiver> {
        let mut changes = self.authority.clone()?;
        changes.mark_unchanged();
        Some(changes)
    }

    /// What others verify by, with each later change.
    pub fn trust(&self) -> TrustReceiver {
        self.trust.clone()
    }

    /// The sequence of the bundle that answers carry at this instant, or later. Whoever makes one takes it before the authority.
    pub fn sequence(&self) -> u64 {
        self.trust.borrow().as_ref().and_then(|trust| trust.own.sequence).unwrap_or_default()
    }

    /// Puts on record that a leaf of this end, granted at `signed_at`, may be out, unless that is there already, as it nearly
    /// always is.
    ///
    /// # Errors
    ///
    /// When the state can't be written: the leaf must not leave then.
    pub async fn record_handed_out(
        &self,
        authority: &str,
        sequence: u64,
        end: Timestamp,
        signed_at: Timestamp,
    ) -> Result<(), StateError> {
        let Some(state) = self.state.as_ref().filter(|state| !state.has_on_record(authority, sequence, end)) else {
            return Ok(());
        };
        let _turn = self.recording.acquire().await.map_err(|closed| StateError::Io(closed.to_string()))?;
        if state.has_on_record(authority, sequence, end) {
            return Ok(());
        }
        let (state, authority) = (Arc::clone(state), authority.to_owned());
        let recorded = spawn_blocking(move || state.reserve(&authority, sequence, end, end.since(signed_at)));
        recorded.await.map_err(|error| StateError::Io(error.to_string()))?
    }

    /// What signs JWT-SVIDs at this instant; `None` if nothing does. Whoever makes a token takes it once.
    pub fn jwt_signer(&self) -> Option<Arc<JwtSigner>> {
        self.jwt_signer.borrow().clone()
    }

    /// Where what is in effect is changed; `None` if it isn't kept anywhere.
    pub const fn state(&self) -> Option<&Arc<TermState>> {
        self.state.as_ref()
    }

    /// What is denied now.
    pub fn denied(&self) -> Arc<Denied> {
        self.denied.load_full()
    }

    /// Puts what is denied from now on into effect. It must be durable.
    pub fn set_denied(&self, denied: Denied) {
        self.denied.store(Arc::new(denied));
    }

    /// Whether a signature made at `now` lies inside the term.
    pub fn covers(&self, now: BootInstant) -> bool {
        !*self.ended.borrow() && now.nanos() < self.until.load(Ordering::Acquire)
    }

    /// Moves the deadline after a renewal.
    pub fn extend(&self, until: BootInstant) {
        self.until.store(until.nanos(), Ordering::Release);
    }

    /// Enters the session for one signature; `None` once it has ended.
    pub fn enter(self: &Arc<Self>, now: BootInstant) -> Option<InSession> {
        let permit = Arc::clone(&self.in_flight).try_acquire_owned().ok()?;
        self.covers(now).then(|| InSession { session: Arc::clone(self), _permit: permit })
    }

    /// Ends the session: nothing enters it any more.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Waits, after [`end`](Self::end), until those who had entered have left, at most for `limit`.
    pub async fn drained(&self, limit: Duration) {
        // a time-out is no error here: what is still being signed then is withheld, because its term has ended
        let _left_in_time = timeout(limit, self.in_flight.acquire_many(IN_FLIGHT)).await.is_ok();
    }
}

/// One signature in the making.
#[derive(Debug)]
pub struct InSession {
    session: Arc<SigningSession>,
    _permit: OwnedSemaphorePermit,
}

impl std::ops::Deref for InSession {
    type Target = SigningSession;

    fn deref(&self) -> &SigningSession {
        &self.session
    }
}
