//! Certificates as they are shown.

use serde::Serialize;

use super::trust::Trust;
use crate::{
    cli::render,
    domain::{
        clock::Timestamp,
        identity::TrustDomain,
        x509::{Certificate, CertificateChain, TrustBundle, lint},
    },
};

/// A chain and whether it verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainDocument {
    /// To the bundle.
    pub verification: Verification,
    /// Leaf first.
    pub certificates: Vec<CertificateDocument>,
}

/// Whether a chain verifies to its bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Verification {
    /// It does.
    Verified {
        /// Where the roots are from.
        bundle: String,
    },
    /// It does not.
    Failed {
        /// Where the roots are from.
        bundle: String,
        /// Why.
        reason: String,
    },
    /// There is nothing to verify to.
    NoBundle,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDocument {
    /// One line; empty if there is none.
    pub subject: String,
    /// One line.
    pub issuer: String,
    /// The workload's ID, if the certificate is an SVID's.
    pub spiffe_id: Option<String>,
    /// All URI names.
    pub uri_names: Vec<String>,
    /// All DNS names.
    pub dns_names: Vec<String>,
    /// Whether it may sign certificates.
    pub authority: bool,
    /// RFC 3339, UTC.
    pub not_before: String,
    /// RFC 3339, UTC: the last second of validity.
    pub not_after: String,
    /// At the time of the look.
    pub validity: ValidityState,
    /// Until `notAfter`; below zero once it has passed.
    pub seconds_left: i64,
    /// `notAfter` minus `notBefore`.
    pub seconds_total: i64,
    /// Algorithm and size.
    pub key: String,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the DER bytes, hex with colons.
    pub fingerprint: String,
    /// Broken rules of SPIFFE's X509-SVID standard.
    pub findings: Vec<FindingDocument>,
}

/// Where a certificate stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ValidityState {
    /// `notBefore` lies ahead.
    NotYetValid,
    /// Within its validity.
    Valid,
    /// `notAfter` has passed.
    Expired,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingDocument {
    /// Stable name.
    pub rule: String,
    /// What was seen.
    pub detail: String,
}

impl ChainDocument {
    pub(super) fn new(certificates: &[Certificate], trust: Option<&Trust>, now: Timestamp) -> Self {
        let documents = certificates.iter().map(|certificate| CertificateDocument::new(certificate, now));
        Self { verification: Verification::of(certificates, trust, now), certificates: documents.collect() }
    }

    pub(super) fn is_sound(&self) -> bool {
        let is_sound = |certificate: &CertificateDocument| {
            certificate.validity == ValidityState::Valid && certificate.findings.is_empty()
        };
        !matches!(self.verification, Verification::Failed { .. }) && self.certificates.iter().all(is_sound)
    }
}

impl Verification {
    fn of(certificates: &[Certificate], trust: Option<&Trust>, now: Timestamp) -> Self {
        let Some(trust) = trust else { return Self::NoBundle };
        let bundle = trust.origin.clone();
        match verify(certificates, trust, now) {
            Ok(()) => Self::Verified { bundle },
            Err(reason) => Self::Failed { bundle, reason },
        }
    }
}

/// A leaf by its path to a root. An authority at the head of a chain is as good as the bundle says: a root of it or not.
fn verify(certificates: &[Certificate], trust: &Trust, now: Timestamp) -> Result<(), String> {
    let chain = CertificateChain::new(certificates.to_vec()).map_err(|error| error.to_string())?;
    let own_domain = chain.leaf().spiffe_id().map(|id| id.trust_domain().clone());
    let roots = trust.roots(own_domain.as_ref())?;
    if chain.leaf().is_ca() {
        let is_root = roots.contains(chain.leaf());
        return if is_root { Ok(()) } else { Err("an authority that is no root of the bundle".to_owned()) };
    }
    // Only names the bundle; a path is verified to its roots alone.
    let domain: TrustDomain = own_domain
        .map_or_else(|| "unnamed".parse(), Ok)
        .map_err(|error: crate::domain::identity::TrustDomainError| error.to_string())?;
    let bundle = TrustBundle::new(domain, roots).map_err(|error| error.to_string())?;
    chain.verify(&bundle, now).map_err(|error| error.to_string())
}

impl CertificateDocument {
    fn new(certificate: &Certificate, now: Timestamp) -> Self {
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        let lint = if certificate.is_ca() { lint::check_authority } else { lint::check_leaf };
        let findings = lint(certificate.der());
        Self {
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer().to_owned(),
            spiffe_id: certificate.spiffe_id().map(|id| id.to_string()),
            uri_names: certificate.uri_names().to_vec(),
            dns_names: certificate.dns_names().to_vec(),
            authority: certificate.is_ca(),
            not_before: not_before.to_string(),
            not_after: not_after.to_string(),
            validity: ValidityState::at(now.seconds(), not_before.seconds(), not_after.seconds()),
            seconds_left: not_after.seconds().saturating_sub(now.seconds()),
            seconds_total: not_after.seconds().saturating_sub(not_before.seconds()),
            key: certificate.key_algorithm().to_owned(),
            serial: certificate.serial().to_string(),
            fingerprint: render::colon_hex(&certificate.fingerprint()),
            findings: findings
                .into_iter()
                .map(|finding| FindingDocument { rule: finding.rule.to_owned(), detail: finding.detail })
                .collect(),
        }
    }
}

impl ValidityState {
    /// In seconds since the epoch; the last second still counts.
    const fn at(now: i64, not_before: i64, not_after: i64) -> Self {
        if now < not_before {
            Self::NotYetValid
        } else if now > not_after {
            Self::Expired
        } else {
            Self::Valid
        }
    }
}
