//! Keeps a certificate in a Secret, for istiod or for a gateway: signed the way of every other one, written whole, and read
//! back.

mod make;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    places::{PlacesError, SecretSeen, ServingFiles, StoredSecret, TLS_TYPE, TlsSecret, WriteError},
    status::{CertificateStatus, Held},
    trusted::{Trust, Trusted},
};
use crate::{
    domain::{
        bundle::{Attempts, Judgement, OwnRoots, Replace, Reversals, StoredCertificate, WantedCertificate},
        clock::{BootInstant, Clock, Timestamp},
        identity::SpiffeId,
        x509::Certificate,
    },
    service::{
        metrics::{ExpiringCertificate, Metrics, OutputOutcome},
        ports::{CertificateAuthority, SelfCheck},
        waiting::pause,
    },
};

/// A certificate and where it is kept.
pub(crate) struct KeptCertificate {
    /// The Secret's name in log lines.
    pub(crate) name: String,
    pub(crate) holder: Holder,
    pub(crate) secret: Arc<dyn TlsSecret>,
    pub(crate) authority: Arc<dyn CertificateAuthority>,
    /// What a new one has to stand before it is written.
    pub(crate) check: Arc<dyn SelfCheck>,
    /// Whose it is.
    pub(crate) id: SpiffeId,
    /// In it, besides.
    pub(crate) server_names: Vec<String>,
    pub(crate) ttl: Duration,
    pub(crate) publisher: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Its certificate may be of before us, if it leads to our roots, or whoever's, if that is `adopt`ed.
    Istiod { adopt: bool },
    /// Only what bears our mark is written over. It is read back.
    Gateway,
}

/// What is known.
#[derive(Default)]
struct Known {
    namespace: Option<bool>,
    secret: Option<Option<StoredSecret>>,
    problem: Option<String>,
    reversals: Reversals,
    attempts: Attempts,
    failure: Option<String>,
    /// Signed, but not written yet: what can't be written is not signed again and again.
    prepared: Option<ServingFiles>,
    /// When what was written last was made.
    made: Option<Made>,
    /// When it was last asked for, answered or not.
    read_at: Option<BootInstant>,
    /// The serial number of what was last found right, and when.
    verified: Option<(String, Timestamp)>,
}

struct Made {
    certificate: String,
    at: Timestamp,
}

/// What to do next.
#[derive(Debug)]
enum Step {
    /// Nothing before something is seen.
    Wait(CertificateStatus),
    /// Nothing before this time.
    Until(Timestamp),
    /// Write a new one.
    Replace(Replace),
}

const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// A gateway waits for what could not be made or written: what was missing may be there at any time.
const LONGEST_IN_VAIN: Duration = Duration::from_secs(4);
/// The wall clock may be set at any time, so that a renewal is looked for at least this often; and what is read back is read
/// this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl KeptCertificate {
    /// Keeps it below what is trusted at any time. Gives each change of how it stands to `publish`.
    pub(crate) async fn run(&self, mut trusted: impl Trusted, publish: impl Fn(CertificateStatus)) -> Infallible {
        let mut seen = self.secret.follow();
        let mut known = Known::default();
        let mut last = None;
        loop {
            let trust = trusted.now();
            let step = self.step(&known, trust.as_ref());
            let status = self.status(&known, &step);
            if last.as_ref() != Some(&status) {
                self.tell(&status, &step);
                publish(status.clone());
                last = Some(status);
            }
            let wait = match &step {
                Step::Wait(_) => None,
                Step::Until(time) => Some(time.since(self.clock.now()).min(LOOK_EVERY)),
                Step::Replace(_) => {
                    let now = self.clock.boot();
                    Some(known.attempts.due(LONGEST_IN_VAIN).map_or(Duration::ZERO, |due| due.since(now)))
                }
            };
            if let (Step::Replace(why), Some(Duration::ZERO), Some(trust)) = (&step, wait, &trust) {
                self.replace(&mut known, trust, *why).await;
                continue;
            }
            tokio::select! {
                Some(item) = seen.next() => self.see(&mut known, item, trust.as_ref()),
                () = trusted.changed() => {
                    // whoever signs is there
                    known.attempts.forget_if_in_vain();
                    let roots = |trust: Option<Trust>| trust.map(|trust| trust.roots_pem);
                    if roots(trusted.now()) != roots(trust) {
                        // what was given up is tried once more with the new roots
                        (known.reversals, known.attempts) = Default::default();
                    }
                }
                () = pause(wait) => {}
                () = pause(self.until_read_back(&known, &step)) => self.read_back(&mut known, trust.as_ref()).await,
            }
        }
    }

    fn step(&self, known: &Known, trust: Option<&Trust>) -> Step {
        let waiting = |what: String| Step::Wait(CertificateStatus::Waiting(what));
        let Some(trust) = trust else { return waiting("the trust bundle is not known yet".into()) };
        let (Some(namespace), Some(secret)) = (known.namespace, &known.secret) else {
            return waiting(known.problem.clone().unwrap_or_else(|| "not read yet".into()));
        };
        if !namespace {
            return waiting("its namespace is not there yet".into());
        }
        let judgement = match secret {
            None => Judgement::Replace(Replace::Missing),
            Some(secret) => self.judge(secret, trust, known.made.as_ref()),
        };
        match judgement {
            Judgement::GoodUntil(time) => Step::Until(time),
            Judgement::OtherType => {
                let kind = secret.as_ref().map(|secret| secret.kind.clone()).unwrap_or_default();
                Step::Wait(CertificateStatus::OtherType(kind))
            }
            Judgement::Conflict if self.holder != (Holder::Istiod { adopt: true }) => {
                Step::Wait(CertificateStatus::Conflict)
            }
            Judgement::Replace(_) | Judgement::Conflict if secret.is_some() && known.reversals.is_a_fight() => {
                Step::Wait(CertificateStatus::Fight)
            }
            Judgement::Conflict => Step::Replace(Replace::OtherRoots),
            Judgement::Replace(why) => Step::Replace(why),
        }
    }

    fn judge(&self, secret: &StoredSecret, trust: &Trust, made: Option<&Made>) -> Judgement {
        let wanted = WantedCertificate {
            id: &self.id,
            server_names: &self.server_names,
            only_marked: self.holder == Holder::Gateway,
            bundle: &trust.bundle,
            roots: &OwnRoots::new(&trust.roots_pem, &trust.bundle, &self.publisher),
        };
        let received = made.filter(|made| made.certificate.as_bytes() == secret.certificate).map(|made| made.at);
        let stored = StoredCertificate {
            certificate: &secret.certificate,
            key: &secret.key,
            roots: &secret.roots,
            is_marked: secret.publisher.as_ref() == Some(&self.publisher),
            // istiod has the files mounted, of whichever type the Secret is
            is_usable: self.holder != Holder::Gateway || secret.kind == TLS_TYPE,
            received,
        };
        wanted.judge(&stored, self.clock.now())
    }

    fn see(&self, known: &mut Known, item: Result<SecretSeen, PlacesError>, trust: Option<&Trust>) {
        match item {
            Err(PlacesError { problem, .. }) => {
                if known.problem.as_ref() != Some(&problem) {
                    warn!(event = "secret_not_followed", secret = self.name, error = problem);
                }
                known.problem = Some(problem);
            }
            Ok(SecretSeen::Namespace(is_there)) => {
                if known.namespace.replace(is_there) != Some(is_there) {
                    known.attempts.forget_if_in_vain();
                }
            }
            Ok(SecretSeen::Secret(secret)) => {
                let version = |secret: &Option<StoredSecret>| secret.as_ref().map(|secret| secret.version.clone());
                if known.problem.take().is_some() || known.secret.as_ref().map(version) != Some(version(&secret)) {
                    known.attempts.forget_if_in_vain();
                }
                self.look_at(known, secret, trust);
            }
        }
    }

    fn look_at(&self, known: &mut Known, secret: Option<StoredSecret>, trust: Option<&Trust>) {
        if let Some(trust) = trust {
            // that it is due is nobody's doing
            let is_sound = |secret: &StoredSecret| {
                let judgement = self.judge(secret, trust, known.made.as_ref());
                matches!(judgement, Judgement::GoodUntil(_) | Judgement::Replace(Replace::HalfLife))
            };
            let was_sound = known.secret.as_ref().and_then(Option::as_ref).is_some_and(is_sound);
            let found = secret.as_ref().map(is_sound);
            if was_sound && found == Some(false) {
                known.reversals.count(self.clock.boot());
            }
            if found == Some(true) {
                self.found_sound(known, secret.as_ref());
            }
        }
        known.secret = Some(secret);
    }

    fn found_sound(&self, known: &mut Known, secret: Option<&StoredSecret>) {
        let leaf = secret.and_then(|secret| Certificate::all_from_pem(&secret.certificate).ok()?.into_iter().next());
        let now = self.clock.now();
        // one that has expired is still ours, and right no more
        let Some(leaf) = leaf.filter(|leaf| now < leaf.not_after()) else { return };
        if self.holder == Holder::Gateway {
            self.metrics.output_verified(&self.name, &leaf, now);
            known.verified = Some((leaf.serial().to_string(), now));
        } else {
            self.metrics.show_certificate(ExpiringCertificate::Istiod, Some(&leaf));
        }
    }

    /// As long as a gateway's Secret is ours to keep, also while no new one can be had.
    fn until_read_back(&self, known: &Known, step: &Step) -> Option<Duration> {
        let is_kept = self.holder == Holder::Gateway && !matches!(step, Step::Wait(_));
        known.secret.as_ref().filter(|_| is_kept)?.as_ref()?;
        let due = known.read_at.map(|at| at.plus(LOOK_EVERY));
        Some(due.map_or(Duration::ZERO, |due| due.since(self.clock.boot())))
    }

    /// Asks for a gateway's Secret, however silent the watch is.
    async fn read_back(&self, known: &mut Known, trust: Option<&Trust>) {
        if self.holder != Holder::Gateway {
            return;
        }
        known.read_at = Some(self.clock.boot());
        let read = timeout(WRITE_LIMIT, self.secret.read()).await;
        let read = read.unwrap_or_else(|_elapsed| Err(format!("no answer within {WRITE_LIMIT:?}")));
        match read {
            Ok(secret) => self.look_at(known, secret, trust),
            // when it was last verified is shown, and grows old
            Err(error) => warn!(event = "secret_not_read", secret = self.name, error),
        }
    }

    /// One attempt at a new certificate.
    async fn replace(&self, known: &mut Known, trust: &Trust, why: Replace) {
        known.attempts.begin(self.clock.boot());
        let written = self.make_and_write(known, trust).await;
        known.attempts.end(written.is_err());
        match written {
            Ok(secret) => {
                known.failure = None;
                if why == Replace::HalfLife {
                    // that was no repetition
                    known.attempts = Attempts::default();
                }
                if let Judgement::GoodUntil(renewed_at) = self.judge(&secret, trust, known.made.as_ref()) {
                    info!(event = "secret_written", secret = self.name, %why, %renewed_at);
                }
                known.secret = Some(Some(secret));
                self.count(OutputOutcome::Written);
                self.read_back(known, Some(trust)).await;
            }
            Err(failure) => {
                if known.failure.as_ref() != Some(&failure) {
                    warn!(event = "secret_failed", secret = self.name, %why, error = failure);
                }
                known.failure = Some(failure);
                self.count(OutputOutcome::Failed);
            }
        }
    }

    fn count(&self, outcome: OutputOutcome) {
        if self.holder == Holder::Gateway {
            self.metrics.output_written(&self.name, outcome);
        }
    }

    async fn make_and_write(&self, known: &mut Known, trust: &Trust) -> Result<StoredSecret, String> {
        let prepared = known.prepared.take().filter(|files| self.is_good(files, trust, known.made.as_ref()));
        let files = match prepared {
            Some(files) => files,
            None => self.make(known, trust).await.map_err(|error| error.to_string())?,
        };
        let version = known.secret.as_ref().and_then(|secret| secret.as_ref()).map(|secret| secret.version.clone());
        let written = timeout(WRITE_LIMIT, self.secret.write(version.as_deref(), &files)).await;
        match written {
            Ok(Ok(secret)) => Ok(secret),
            Ok(Err(WriteError::Outdated(why) | WriteError::Failed(why))) => {
                known.prepared = Some(files);
                Err(format!("it could not be written: {why}"))
            }
            Err(_elapsed) => {
                known.prepared = Some(files);
                Err(format!("it could not be written: no answer within {WRITE_LIMIT:?}"))
            }
        }
    }

    fn status(&self, known: &Known, step: &Step) -> CertificateStatus {
        match (step, &known.failure) {
            (Step::Wait(status), _) => status.clone(),
            (Step::Until(renewed_at), _) => CertificateStatus::Good { renewed_at: *renewed_at, held: self.held(known) },
            (Step::Replace(why), None) => CertificateStatus::Making { why: *why, held: self.held(known) },
            (Step::Replace(_), Some(failure)) => {
                CertificateStatus::Failing { why: failure.clone(), held: self.held(known) }
            }
        }
    }

    /// What a gateway's Secret holds, whatever it is worth.
    fn held(&self, known: &Known) -> Option<Held> {
        let secret = known.secret.as_ref()?.as_ref().filter(|_| self.holder == Holder::Gateway)?;
        let serial = Certificate::all_from_pem(&secret.certificate).ok()?.first()?.serial().to_string();
        let verified = known.verified.as_ref().filter(|(verified, _)| *verified == serial);
        Some(Held { verified_at: verified.map(|(_, at)| *at), serial })
    }

    fn tell(&self, status: &CertificateStatus, step: &Step) {
        let secret = &self.name;
        match status {
            CertificateStatus::Conflict => {
                warn!(
                    event = "secret_conflict",
                    secret, "it is not ours: remove it, or see the documentation of this output"
                );
            }
            CertificateStatus::Fight => {
                warn!(event = "secret_fight", secret, "another writer changed it back twice: it is left alone");
            }
            CertificateStatus::OtherType(kind) => {
                warn!(event = "secret_of_other_type", secret, kind, "delete it: it is made anew as {TLS_TYPE}");
            }
            CertificateStatus::Waiting(what) if matches!(step, Step::Wait(_)) => {
                info!(event = "secret_waits", secret, what);
            }
            CertificateStatus::Waiting(_)
            | CertificateStatus::Good { .. }
            | CertificateStatus::Making { .. }
            | CertificateStatus::Failing { .. } => {}
        }
    }
}
