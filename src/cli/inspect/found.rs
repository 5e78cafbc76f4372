//! What a source held, and what it is to be verified to.

use super::{
    content::{BundleContent, Content},
    trust::Trust,
};
use crate::domain::{jwt::CompactJws, x509::Certificate};

#[derive(Default)]
pub(super) struct Found {
    /// Certificates that belong together, leaf first. Of a bundle document each authority for itself.
    pub(super) chains: Vec<Vec<Certificate>>,
    pub(super) token: Option<CompactJws>,
    pub(super) bundle: Option<BundleContent>,
    pub(super) trust: Option<Trust>,
    /// What could not be shown.
    pub(super) notes: Vec<String>,
}

impl Found {
    pub(super) fn certificates(certificates: Vec<Certificate>) -> Self {
        Self { chains: chains_of(certificates), ..Self::default() }
    }
}

impl From<(Content, Vec<String>)> for Found {
    fn from((content, notes): (Content, Vec<String>)) -> Self {
        let found = match content {
            Content::Certificates(certificates) => Self::certificates(certificates),
            Content::Token(token) => Self { token: Some(token), ..Self::default() },
            Content::Bundle(bundle) => Self {
                chains: bundle.content.x509_authorities.iter().map(|authority| vec![authority.clone()]).collect(),
                bundle: Some(bundle),
                ..Self::default()
            },
        };
        Self { notes, ..found }
    }
}

/// Puts each certificate that issued no other one at the head of a chain, followed by its issuer, that one's issuer, and
/// so on, as far as they are there.
fn chains_of(certificates: Vec<Certificate>) -> Vec<Vec<Certificate>> {
    let is_issuer = |issuer: &Certificate, subject: &Certificate| {
        let keys_fit = match (subject.authority_key_id(), issuer.subject_key_id()) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        };
        issuer != subject && keys_fit && issuer.is_ca() && issuer.subject() == subject.issuer()
    };
    let issues_none = |issuer: &&Certificate| !certificates.iter().any(|subject| is_issuer(issuer, subject));
    let mut heads: Vec<&Certificate> = certificates.iter().filter(issues_none).collect();
    heads.dedup();
    if heads.is_empty() {
        // Authorities that have signed one another: there is no end to begin at.
        heads.extend(certificates.first());
    }
    let chain_from = |head: &Certificate| {
        let mut chain = vec![head.clone()];
        while let Some(issuer) = chain.last().and_then(|last| {
            certificates.iter().find(|candidate| is_issuer(candidate, last) && !chain.contains(candidate))
        }) {
            chain.push(issuer.clone());
        }
        chain
    };
    heads.into_iter().map(chain_from).collect()
}
