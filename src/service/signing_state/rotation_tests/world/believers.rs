//! Those who hold what a pair signed, and those who go by what it publishes.

use super::*;

/// Somebody who holds an SVID of each kind, and goes by the bundle that came with it, as pilot-agent does.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) signed_by: AuthorityId,
    pub(super) svid: CertificateChain,
    pub(super) end: Timestamp,
    pub(super) bundle: TrustBundle,
    pub(super) believes: Vec<AuthorityId>,
    pub(super) token: Option<Token>,
    /// Authorities whom it was said that it would refuse.
    pub(super) refuses: Vec<AuthorityId>,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) signed_by: AuthorityId,
    pub(super) text: String,
}

/// Somebody who goes by the bundle that was heard last, and has said which that is, as our agent does.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) name: &'static str,
    pub(super) sequence: u64,
    pub(super) bundle: TrustBundle,
    pub(super) roots: Vec<AuthorityId>,
    pub(super) keys: Vec<JwtAuthority>,
    pub(super) refuses: Vec<AuthorityId>,
}

impl Client {
    pub(super) fn has_of(&self, kind: AuthorityKind, id: &str) -> bool {
        match kind {
            AuthorityKind::X509 => self.signed_by == id,
            AuthorityKind::Jwt => self.token.as_ref().is_some_and(|token| token.signed_by == id),
        }
    }
}

impl Follower {
    pub(super) fn of(name: &'static str, trust: &PublishedTrust) -> Self {
        Self {
            name,
            sequence: trust.own.sequence.unwrap(),
            bundle: trust.own_roots().unwrap(),
            roots: trust.own.x509_authorities.iter().map(authority_id).collect(),
            keys: trust.own.jwt_authorities.clone(),
            refuses: Vec::new(),
        }
    }

    pub(super) fn believes(&self, kind: AuthorityKind, id: &AuthorityId) -> bool {
        match kind {
            AuthorityKind::X509 => self.roots.contains(id),
            AuthorityKind::Jwt => self.keys.iter().any(|key| key.key_id() == id),
        }
    }
}

impl JwtAuthorities for Follower {
    fn of(&self, _: &TrustDomain) -> Option<&[JwtAuthority]> {
        Some(&self.keys)
    }
}
