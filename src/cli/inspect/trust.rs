//! What chains and tokens are verified to, and whose word it is.

use std::collections::BTreeMap;

use super::{
    content::{BundleContent, Content},
    error::SourceError,
};
use crate::domain::{
    identity::TrustDomain,
    jwt::{JwtAuthorities, JwtAuthority},
    x509::Certificate,
};

/// Authorities and where they are from.
pub(super) struct Trust {
    pub(super) origin: String,
    known: Known,
}

/// Of one trust domain.
pub(super) struct Authorities {
    pub(super) x509: Vec<Certificate>,
    pub(super) jwt: Vec<JwtAuthority>,
}

enum Known {
    /// Roots in PEM, or a document whose CAs don't say whose they are.
    OfAny(Authorities),
    Named(BTreeMap<TrustDomain, Authorities>),
}

impl Trust {
    pub(super) fn of_trust_domains(origin: &str, bundles: BTreeMap<TrustDomain, Authorities>) -> Self {
        Self { origin: origin.to_owned(), known: Known::Named(bundles) }
    }

    pub(super) fn of_content(origin: &str, content: Content) -> Result<Self, SourceError> {
        let known = match content {
            Content::Certificates(x509) => Known::OfAny(Authorities { x509, jwt: Vec::new() }),
            Content::Bundle(BundleContent { trust_domain, content }) => {
                let authorities = Authorities { x509: content.x509_authorities, jwt: content.jwt_authorities };
                match trust_domain {
                    Some(trust_domain) => Known::Named([(trust_domain, authorities)].into()),
                    None => Known::OfAny(authorities),
                }
            }
            Content::Token(_) => return Err(SourceError::new(origin, "a token is no bundle")),
        };
        Ok(Self { origin: origin.to_owned(), known })
    }

    /// For an SVID of this trust domain; for certificates that are none, all there are.
    pub(super) fn roots(&self, trust_domain: Option<&TrustDomain>) -> Result<Vec<Certificate>, String> {
        match (&self.known, trust_domain) {
            (Known::OfAny(authorities), _) => Ok(authorities.x509.clone()),
            (Known::Named(bundles), None) => Ok(bundles.values().flat_map(|bundle| bundle.x509.clone()).collect()),
            (Known::Named(bundles), Some(name)) => {
                let bundle =
                    bundles.get(name).ok_or_else(|| format!("no bundle found for trust domain {:?}", name.as_str()))?;
                Ok(bundle.x509.clone())
            }
        }
    }

    /// Whether any token could be verified by it.
    pub(super) fn has_jwt_authorities(&self) -> bool {
        match &self.known {
            Known::OfAny(authorities) => !authorities.jwt.is_empty(),
            Known::Named(bundles) => bundles.values().any(|bundle| !bundle.jwt.is_empty()),
        }
    }
}

impl JwtAuthorities for Trust {
    fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
        match &self.known {
            Known::OfAny(authorities) => Some(&authorities.jwt),
            Known::Named(bundles) => bundles.get(trust_domain).map(|bundle| bundle.jwt.as_slice()),
        }
    }
}
