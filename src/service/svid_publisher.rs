//! Keeps the gateway's identity current and publishes it to every subscriber.
//!
//! A new key and request at each rotation; the answer is checked before anybody sees it; the last good SVID stays until it
//! expires. Where the signature comes from is [`CertificateAuthority`]'s, how subscribers are served is `grpc`'s.

mod answer;
mod schedule;
mod stats;

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tracing::{
    Instrument as _, debug,
    field::{Empty, display},
    info, warn,
};

use self::{answer::CheckedAnswer, schedule::retry_after};
pub use self::{
    answer::{Expectation, RenewalError},
    stats::RenewalStats,
};
use super::{
    ca_roots::FollowedRoots,
    ports::{CertificateAuthority, SelfCheck, SignError, SignedChain},
    spans::{noted, step},
};
use crate::domain::{
    authority::renewal::{due_after_receipt, life_at_receipt},
    clock::{BootInstant, Clock},
    identity::SpiffeId,
    random::{SecureRandom, jitter},
    x509::{PrivateKey, TrustBundle, X509Svid},
};

/// What the socket serves: replaced as a whole, never changed in place. `None` in the channel until there is a first one.
#[derive(Debug)]
pub struct WorkloadIdentity {
    /// The workload's ID; it stays known when the SVID expires.
    pub id: SpiffeId,
    /// The SVID with its key; `None` after it expired without a successor.
    pub svid: Option<Arc<X509Svid>>,
    /// The own trust domain's bundle: the roots of the last answer, or of the source that was named the authoritative one.
    pub bundle: Arc<TrustBundle>,
    /// Grows with each publication.
    pub revision: u64,
}

/// What subscribers hold.
pub type IdentityReceiver = watch::Receiver<Option<Arc<WorkloadIdentity>>>;

/// The task that renews and publishes one workload's SVID.
pub struct SvidPublisher {
    authority: Arc<dyn CertificateAuthority>,
    expected: Expectation,
    ttl_seconds: i64,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    self_check: Option<Arc<dyn SelfCheck>>,
    /// Where the trust bundle is from, instead of the answers.
    bundle: Option<FollowedRoots>,
    published: watch::Sender<Option<Arc<WorkloadIdentity>>>,
    renew_now: Arc<Notify>,
    stats: Arc<RenewalStats>,
    /// No authority is there yet, which was said.
    is_waiting: bool,
    /// The last SVID was not one that the trust bundle of then verifies.
    is_at_odds: bool,
}

/// An answer that may be published.
struct Obtained {
    svid: X509Svid,
    /// What it was verified by, and is published with.
    bundle: TrustBundle,
    received: BootInstant,
    /// From then on.
    life: Duration,
}

/// The longest that a request may stay unanswered. The signing side holds one for 10 s at most.
const SIGN_LIMIT: Duration = Duration::from_secs(30);

/// The longest that an SVID which is not valid yet is kept for later publication.
const SKEW_LIMIT: Duration = Duration::from_secs(600);

const HELD_BACK: &str =
    "ClockSkew: the new SVID is not valid yet by the clock of this host; it is held back until it is";

/// How often the wall clock is looked at while waiting for NotBefore: it may be set right meanwhile.
const SKEW_LOOK: Duration = Duration::from_secs(1);

/// How late a deadline that passed during a suspension may be noticed.
const SUSPENSION_LOOK: Duration = Duration::from_secs(5);

/// An authority that hands out certificates with hardly any life left is not asked more often than this.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

impl SvidPublisher {
    /// A publisher that asks `authority` for SVIDs of `ttl_seconds` (0: the authority's default), and the channel it will
    /// publish to. Nothing happens before [`SvidPublisher::run`].
    pub fn new(
        authority: Arc<dyn CertificateAuthority>,
        expected: Expectation,
        ttl_seconds: i64,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> (Self, IdentityReceiver) {
        let (published, receiver) = watch::channel(None);
        let publisher = Self {
            authority,
            expected,
            ttl_seconds,
            clock,
            random,
            self_check: None,
            bundle: None,
            published,
            renew_now: Arc::default(),
            stats: Arc::default(),
            is_waiting: false,
            is_at_odds: false,
        };
        (publisher, receiver)
    }

    /// Publishes nothing that `check` refuses, with the trust bundle that it would be published with.
    #[must_use]
    pub fn checked_by(self, check: Arc<dyn SelfCheck>) -> Self {
        Self { self_check: Some(check), ..self }
    }

    /// Publishes these roots as trust bundle, exactly, as soon as they are known, and not those of the authority's answers.
    #[must_use]
    pub fn with_bundle_of(self, roots: FollowedRoots) -> Self {
        Self { bundle: Some(roots), ..self }
    }

    /// `notify_one` on this renews at once.
    pub fn renew_now(&self) -> Arc<Notify> {
        Arc::clone(&self.renew_now)
    }

    /// The counters, for metrics.
    pub fn stats(&self) -> Arc<RenewalStats> {
        Arc::clone(&self.stats)
    }

    /// Renews and publishes until it is dropped. A renewal that fails changes a counter and a log line, never what is
    /// published; only NotAfter withdraws an SVID.
    pub async fn run(mut self) {
        let mut expiry: Option<BootInstant> = None;
        let mut due = self.clock.boot();
        let mut failures = 0;
        let mut bundle = self.bundle.clone();
        loop {
            let outcome = {
                let mut attempt = pin!(self.attempt(due));
                loop {
                    tokio::select! {
                        outcome = &mut attempt => break outcome,
                        () = self.reach(expiry) => {
                            self.withdraw();
                            expiry = None;
                        }
                        () = change_of(&mut bundle) => self.take_bundle(),
                    }
                }
            };
            match outcome {
                Ok(Obtained { svid, bundle, received, life }) => {
                    failures = 0;
                    expiry = Some(received.plus(life));
                    let next = received.plus(due_after_receipt(life, self.jitter()));
                    due = next.max(self.clock.boot().plus(MIN_INTERVAL));
                    self.publish(svid, bundle);
                }
                Err(error) => {
                    failures += 1;
                    let now = self.clock.boot();
                    let remaining = expiry.map(|expiry| expiry.since(now));
                    let pause = retry_after(failures, remaining, self.jitter());
                    self.tell(&error, pause);
                    due = now.plus(pause);
                }
            }
            self.stats.is_due(self.clock.now().plus(due.since(self.clock.boot())));
        }
    }

    /// Counts a failure, and logs it unless it is the same as the one before. That nobody is there is logged once, whatever
    /// is missing first and what then.
    fn tell(&mut self, error: &RenewalError, pause: Duration) {
        self.stats.failed();
        if error.is_rejection() {
            self.stats.rejected();
        }
        if let RenewalError::ClockSkew(skew) = error {
            self.stats.skewed(*skew);
        }
        self.is_at_odds = matches!(error, RenewalError::SelfCheck(_));
        let is_news = self.stats.troubled(&error.to_string());
        let is_waiting = matches!(error, RenewalError::Sign(SignError::NotDetected(_)));
        let was_waiting = std::mem::replace(&mut self.is_waiting, is_waiting);
        let event = if is_waiting { "istio_not_detected" } else { "svid_not_renewed" };
        let retry_in_ms = pause.as_millis();
        if is_news && !(was_waiting && is_waiting) {
            warn!(event, %error, retry_in_ms, "the SVID was not renewed");
        } else {
            debug!(event, %error, retry_in_ms, "the SVID was not renewed");
        }
    }

    /// Waits until `due` or until told, then obtains an SVID that may be published.
    async fn attempt(&self, due: BootInstant) -> Result<Obtained, RenewalError> {
        tokio::select! {
            () = self.reach(Some(due)) => (),
            () = self.renew_now.notified() => (),
        }
        let renewal = step!("renewal", spiffe_id = Empty, serial = Empty);
        let obtained = noted(&renewal, self.obtain().instrument(renewal.clone()).await)?;
        renewal.record("spiffe_id", display(obtained.svid.id()));
        renewal.record("serial", display(obtained.svid.leaf().serial()));
        Ok(obtained)
    }

    async fn obtain(&self) -> Result<Obtained, RenewalError> {
        let key = PrivateKey::generate_p256()?;
        let subject = self.authority.subject().await;
        let request = key.certificate_request(&self.expected.requested_id(subject.as_ref())?)?;
        let signed = timeout(SIGN_LIMIT, self.authority.sign(&request, self.ttl_seconds))
            .await
            .map_err(|_elapsed| RenewalError::Unanswered(SIGN_LIMIT))??;
        let judged = self.judge(signed, key).await;
        if judged.is_err() {
            self.authority.unusable();
        }
        judged
    }

    /// Checks an answer that has just come, and waits until it is valid.
    async fn judge(&self, signed: SignedChain, key: PrivateKey) -> Result<Obtained, RenewalError> {
        let received = self.clock.boot();
        let asked = u64::try_from(self.ttl_seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let answer = CheckedAnswer::new(signed, key, &self.expected)?;
        let life = life_at_receipt(answer.svid.leaf(), self.clock.now(), asked);
        self.wait_until_valid(&answer, received.plus(life)).await?;
        let CheckedAnswer { svid, bundle } = answer;
        let bundle = self.followed_bundle().unwrap_or(bundle);
        if let Some(check) = &self.self_check {
            check.check(&svid, &bundle).map_err(RenewalError::SelfCheck)?;
        }
        Ok(Obtained { svid, bundle, received, life })
    }

    /// Holds an SVID back until the wall clock reaches its NotBefore, but not beyond its `end`.
    async fn wait_until_valid(&self, answer: &CheckedAnswer, end: BootInstant) -> Result<(), RenewalError> {
        loop {
            let skew = answer.verify(self.clock.now())?;
            if skew.is_zero() {
                return Ok(());
            }
            if skew > SKEW_LIMIT {
                return Err(RenewalError::ClockSkew(skew));
            }
            if self.clock.boot() >= end {
                return Err(RenewalError::Outlived);
            }
            self.stats.skewed(skew);
            if self.stats.troubled(HELD_BACK) {
                warn!(event = "clock_skew", reason = "ClockSkew", seconds = skew.as_secs(), "{HELD_BACK}");
            }
            sleep(skew.min(SKEW_LOOK)).await;
        }
    }

    fn publish(&mut self, svid: X509Svid, bundle: TrustBundle) {
        (self.is_waiting, self.is_at_odds) = (false, false);
        let leaf = svid.leaf();
        self.expected.settle(svid.id());
        self.stats.renewed(leaf.not_before(), leaf.not_after());
        let (id, serial, not_after) = (svid.id(), leaf.serial(), leaf.not_after());
        info!(event = "svid_published", %id, %serial, %not_after, "published a new SVID");
        self.replace(|revision| WorkloadIdentity {
            id: svid.id().clone(),
            bundle: Arc::new(bundle),
            svid: Some(Arc::new(svid)),
            revision,
        });
    }

    /// The bundle of the authoritative source, if another one than the authority was named and it has been read.
    fn followed_bundle(&self) -> Option<TrustBundle> {
        let roots = self.bundle.as_ref()?.newest().ok()?;
        match TrustBundle::from_pem(self.expected.trust_domain().clone(), &roots) {
            Ok(bundle) => Some(bundle),
            Err(error) => {
                warn!(event = "trust_bundle_unusable", %error, "the one that is published stays");
                self.published.borrow().as_ref().map(|identity| TrustBundle::clone(&identity.bundle))
            }
        }
    }

    /// The authoritative source holds another one. An SVID that the one before did not verify is asked for again.
    fn take_bundle(&self) {
        if self.is_at_odds {
            self.renew_now.notify_one();
        }
        self.replace_bundle();
    }

    fn replace_bundle(&self) {
        let (Some(bundle), Some(last)) = (self.followed_bundle(), self.published.borrow().clone()) else { return };
        if bundle == *last.bundle {
            return;
        }
        info!(event = "trust_bundle_changed", roots = bundle.roots().len());
        self.replace(|revision| WorkloadIdentity {
            id: last.id.clone(),
            svid: last.svid.clone(),
            bundle: Arc::new(bundle),
            revision,
        });
    }

    fn withdraw(&self) {
        let Some(last) = self.published.borrow().clone() else { return };
        warn!(event = "svid_withdrawn", id = %last.id, "the SVID has expired without a successor and is withdrawn");
        self.stats.withdrawn();
        self.replace(|revision| WorkloadIdentity {
            id: last.id.clone(),
            svid: None,
            bundle: Arc::clone(&last.bundle),
            revision,
        });
    }

    fn replace(&self, next: impl FnOnce(u64) -> WorkloadIdentity) {
        self.published.send_modify(|current| {
            let revision = current.as_ref().map_or(0, |identity| identity.revision) + 1;
            *current = Some(Arc::new(next(revision)));
        });
    }

    /// Waits for an instant of the boot clock; for ever without one. Timers stand still while the machine is suspended, the
    /// boot clock doesn't: so it is looked at now and then.
    async fn reach(&self, instant: Option<BootInstant>) {
        let Some(instant) = instant else { return std::future::pending().await };
        loop {
            let remaining = instant.since(self.clock.boot());
            if remaining.is_zero() {
                return;
            }
            sleep(remaining.min(SUSPENSION_LOOK)).await;
        }
    }

    /// Uniform over `u16`; the middle when there is no randomness, which is no reason to miss a renewal.
    fn jitter(&self) -> u16 {
        jitter(self.random.as_ref()).unwrap_or(u16::MAX / 2)
    }
}

async fn change_of(bundle: &mut Option<FollowedRoots>) {
    match bundle {
        Some(roots) => roots.changed().await,
        None => std::future::pending().await,
    }
}
