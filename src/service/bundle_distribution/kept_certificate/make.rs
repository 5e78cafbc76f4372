//! Makes a certificate that may be written: signed, judged like one that is stored, and tried in a handshake.

use std::time::Duration;

use tokio::time::timeout;

use super::{KeptCertificate, Known, Made};
use crate::{
    domain::{
        bundle::{FoundRoots, Judgement},
        clock::Timestamp,
        x509::{PrivateKey, PrivateKeyError, SvidError, X509Svid},
    },
    service::{
        bundle_distribution::{
            places::{ServingFiles, StoredSecret, TLS_TYPE},
            trusted::Trust,
        },
        ports::SignError,
    },
};

/// Why none was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("it could not be signed: {0}")]
    Key(#[from] PrivateKeyError),
    #[error("it could not be signed: {0}")]
    Sign(#[from] SignError),
    #[error("it could not be signed: no answer within {} s", SIGN_LIMIT.as_secs())]
    Unanswered,
    #[error("ClockSkew: the new one is valid only from {0} on; it is not written")]
    NotYetValid(Timestamp),
    #[error("the new one does not lead to the roots of now, or is another identity's; it is not written")]
    Unusable,
    #[error("the new one can't be used: {0}; it is not written")]
    Svid(#[from] SvidError),
    #[error("the new one failed in a handshake with itself, {0}; it is not written")]
    SelfCheck(String),
}

const SIGN_LIMIT: Duration = Duration::from_secs(30);

impl KeptCertificate {
    pub(super) fn is_good(&self, files: &ServingFiles, trust: &Trust, made: Option<&Made>) -> bool {
        let stored = StoredSecret {
            version: String::new(),
            certificate: files.certificate.clone().into_bytes(),
            key: files.key.as_bytes().to_vec().into(),
            roots: FoundRoots::read(Some(&files.roots), None),
            publisher: Some(self.publisher.clone()),
            kind: TLS_TYPE.to_owned(),
        };
        matches!(self.judge(&stored, trust, made), Judgement::GoodUntil(_))
    }

    /// Has one signed; what is given out may be written.
    pub(super) async fn make(&self, known: &mut Known, trust: &Trust) -> Result<ServingFiles, MakeError> {
        let key = PrivateKey::generate_p256()?;
        let request = key.certificate_request(&self.id)?;
        let signing = self.authority.sign(&request, i64::try_from(self.ttl.as_secs()).unwrap_or(0));
        let signed = timeout(SIGN_LIMIT, signing).await.map_err(|_elapsed| MakeError::Unanswered)??;
        let (leaf, now) = (signed.chain.leaf(), self.clock.now());
        if leaf.not_before() > now {
            return Err(MakeError::NotYetValid(leaf.not_before()));
        }
        let svid = X509Svid::new(signed.chain, key)?;
        let files = ServingFiles {
            certificate: svid.chain().to_pem(),
            key: svid.key().to_pem(),
            roots: trust.roots_pem.clone(),
            publisher: self.publisher.clone(),
        };
        let made = Made { certificate: files.certificate.clone(), at: now };
        if !self.is_good(&files, trust, Some(&made)) {
            return Err(MakeError::Unusable);
        }
        self.check.check(&svid, &trust.bundle).map_err(MakeError::SelfCheck)?;
        known.made = Some(made);
        Ok(files)
    }
}
