//! Keeps the certificate that istiod serves with: issued the way of every other one, and written for istiod to read.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    places::{IstiodSecret, PlacesError, SecretSeen, ServingFiles, StoredSecret, WriteError},
    status::CertificateStatus,
};
use crate::{
    domain::{
        authority::{SigningAuthority, TtlBounds},
        bundle::{Attempts, FoundRoots, Judgement, OwnRoots, Replace, Reversals, StoredCertificate, WantedCertificate},
        clock::{Clock, Timestamp},
        x509::{PrivateKey, PrivateKeyError},
    },
    service::{
        create_certificate::IstiodServing,
        metrics::{ExpiringCertificate, Metrics},
        ports::{CertificateAuthority, SignError},
        signing_session::SigningSession,
    },
};

/// istiod's certificate.
pub(super) struct IstiodCertificate {
    pub(super) secret: Arc<dyn IstiodSecret>,
    pub(super) authority: Arc<dyn CertificateAuthority>,
    pub(super) serving: IstiodServing,
    pub(super) ttl: TtlBounds,
    pub(super) publisher: String,
    pub(super) adopt: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
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

/// Why none was made.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("no answer within {} s", SIGN_LIMIT.as_secs())]
    Unanswered,
}

/// A TTL of minutes is for watching rotation. kubelet takes up to 90 s to deliver a Secret.
const TTL_AT_LEAST: Duration = Duration::from_secs(3600);
const SIGN_LIMIT: Duration = Duration::from_secs(30);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// The wall clock may be set at any time, so that a renewal is looked for at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl IstiodCertificate {
    /// Keeps it under `session`. Gives each change of how it stands to `publish`.
    pub(super) async fn run(&self, session: &SigningSession, publish: impl Fn(CertificateStatus)) -> Infallible {
        let mut changes = session.authority_changes();
        let mut seen = self.secret.follow();
        let mut known = Known::default();
        let mut last = None;
        loop {
            let authority = session.authority();
            let step = self.step(&known, &authority);
            let status = self.status(&known, &step);
            if last.as_ref() != Some(&status) {
                self.tell(&status);
                publish(status.clone());
                last = Some(status);
            }
            let wait = match &step {
                Step::Wait(_) => None,
                Step::Until(time) => Some(time.since(self.clock.now()).min(LOOK_EVERY)),
                Step::Replace(_) => {
                    let now = self.clock.boot();
                    Some(known.attempts.due().map_or(Duration::ZERO, |due| due.since(now)))
                }
            };
            if let (Step::Replace(why), Some(Duration::ZERO)) = (&step, wait) {
                self.replace(&mut known, &authority, *why).await;
                continue;
            }
            tokio::select! {
                Some(item) = seen.next() => self.see(&mut known, item, &authority),
                Ok(()) = changes.changed() => {
                    // what was given up is tried once more with the new roots
                    (known.reversals, known.attempts) = Default::default();
                }
                () = async { match wait {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                } } => {}
            }
        }
    }

    fn step(&self, known: &Known, authority: &SigningAuthority) -> Step {
        let waiting = |what: String| Step::Wait(CertificateStatus::Waiting(what));
        let (Some(namespace), Some(secret)) = (known.namespace, &known.secret) else {
            return waiting(known.problem.clone().unwrap_or_else(|| "not read yet".into()));
        };
        if !namespace {
            return waiting("its namespace is not there yet".into());
        }
        let judgement = match secret {
            None => Judgement::Replace(Replace::Missing),
            Some(secret) => self.judge(secret, authority),
        };
        match judgement {
            Judgement::GoodUntil(time) => Step::Until(time),
            Judgement::Conflict if !self.adopt => Step::Wait(CertificateStatus::Conflict),
            Judgement::Replace(_) | Judgement::Conflict if secret.is_some() && known.reversals.is_a_fight() => {
                Step::Wait(CertificateStatus::Fight)
            }
            Judgement::Conflict => Step::Replace(Replace::OtherRoots),
            Judgement::Replace(why) => Step::Replace(why),
        }
    }

    fn judge(&self, secret: &StoredSecret, authority: &SigningAuthority) -> Judgement {
        let wanted = WantedCertificate {
            id: &self.serving.id,
            server_names: &self.serving.server_names,
            bundle: authority.bundle(),
            roots: &OwnRoots::new(authority.roots_pem(), authority.bundle(), &self.publisher),
        };
        let stored = StoredCertificate {
            certificate: &secret.certificate,
            key: &secret.key,
            roots: &secret.roots,
            is_marked: secret.publisher.as_ref() == Some(&self.publisher),
        };
        wanted.judge(&stored, self.clock.now())
    }

    fn see(&self, known: &mut Known, item: Result<SecretSeen, PlacesError>, authority: &SigningAuthority) {
        match item {
            Err(PlacesError { problem, .. }) => {
                if known.problem.as_ref() != Some(&problem) {
                    warn!(event = "istiod_certificate_not_followed", error = problem);
                }
                known.problem = Some(problem);
            }
            Ok(SecretSeen::Namespace(is_there)) => known.namespace = Some(is_there),
            Ok(SecretSeen::Secret(secret)) => {
                known.problem = None;
                let is_good = |secret: &StoredSecret| matches!(self.judge(secret, authority), Judgement::GoodUntil(_));
                let was_good = known.secret.as_ref().and_then(Option::as_ref).is_some_and(is_good);
                if was_good && secret.as_ref().is_some_and(|secret| !is_good(secret)) {
                    known.reversals.count(self.clock.boot());
                }
                known.secret = Some(secret);
            }
        }
    }

    /// One attempt at a new certificate.
    async fn replace(&self, known: &mut Known, authority: &SigningAuthority, why: Replace) {
        known.attempts.begin(self.clock.boot());
        let written = self.make_and_write(known, authority).await;
        known.attempts.end(written.is_err());
        match written {
            Ok(secret) => {
                known.failure = None;
                if let Judgement::GoodUntil(renewed_at) = self.judge(&secret, authority) {
                    info!(event = "istiod_certificate_written", %why, %renewed_at);
                }
                known.secret = Some(Some(secret));
            }
            Err(failure) => {
                if known.failure.as_ref() != Some(&failure) {
                    warn!(event = "istiod_certificate_failed", %why, error = failure);
                }
                known.failure = Some(failure);
            }
        }
    }

    async fn make_and_write(&self, known: &mut Known, authority: &SigningAuthority) -> Result<StoredSecret, String> {
        let prepared = known.prepared.take().filter(|files| self.is_good(files, authority));
        let files = match prepared {
            Some(files) => files,
            None => self.make(authority).await.map_err(|error| format!("it could not be signed: {error}"))?,
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

    fn is_good(&self, files: &ServingFiles, authority: &SigningAuthority) -> bool {
        let stored = StoredSecret {
            version: String::new(),
            certificate: files.certificate.clone().into_bytes(),
            key: files.key.as_bytes().to_vec().into(),
            roots: FoundRoots::read(Some(&files.roots), None),
            publisher: Some(self.publisher.clone()),
        };
        matches!(self.judge(&stored, authority), Judgement::GoodUntil(_))
    }

    async fn make(&self, authority: &SigningAuthority) -> Result<ServingFiles, MakeError> {
        let key = PrivateKey::generate_p256()?;
        let request = key.certificate_request(&self.serving.id)?;
        let ttl = self.ttl.default_ttl().max(TTL_AT_LEAST).min(self.ttl.max_ttl());
        let signing = self.authority.sign(&request, i64::try_from(ttl.as_secs()).unwrap_or(0));
        let signed = timeout(SIGN_LIMIT, signing).await.map_err(|_elapsed| MakeError::Unanswered)??;
        self.metrics.set_expiry(ExpiringCertificate::Istiod, signed.chain.leaf().not_after());
        Ok(ServingFiles {
            certificate: signed.chain.to_pem(),
            key: key.to_pem(),
            roots: authority.roots_pem().to_owned(),
            publisher: self.publisher.clone(),
        })
    }

    fn status(&self, known: &Known, step: &Step) -> CertificateStatus {
        match (step, &known.failure) {
            (Step::Wait(status), _) => status.clone(),
            (Step::Until(renewed_at), _) => CertificateStatus::Good { renewed_at: *renewed_at },
            (Step::Replace(why), None) => CertificateStatus::Waiting(format!("{why}, it is being made")),
            (Step::Replace(_), Some(failure)) => CertificateStatus::Failing(failure.clone()),
        }
    }

    fn tell(&self, status: &CertificateStatus) {
        match status {
            CertificateStatus::Conflict => {
                warn!(
                    event = "root_conflict",
                    objects = "istiod-tls",
                    "it leads to other roots: remove it, or set adopt"
                );
            }
            CertificateStatus::Fight => {
                warn!(
                    event = "root_fight",
                    objects = "istiod-tls",
                    "another writer changed it back twice: it is left alone"
                );
            }
            CertificateStatus::Waiting(what) => info!(event = "istiod_certificate_waits", what),
            CertificateStatus::Good { .. } | CertificateStatus::Failing(_) => {}
        }
    }
}
