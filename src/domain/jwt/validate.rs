//! Validation of a service account's token by the rules of its issuer.

use super::KeySet;
use crate::domain::{clock::Timestamp, identity::ServiceAccount};

/// What a configured issuer may vouch for.
#[derive(Clone, Debug)]
pub struct IssuerRules {
    /// Compared exactly with `iss`.
    pub issuer: String,
    /// One of these must stand in `aud`; never empty.
    pub audiences: Vec<String>,
    /// Namespaces whose accounts it may vouch for; `None`: any.
    pub namespaces: Option<Vec<String>>,
}

/// An issuer with its keys.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    rules: IssuerRules,
    keys: KeySet,
}

/// What a valid token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenClaims {
    /// Who it speaks for.
    pub account: ServiceAccount,
    /// Its `exp`.
    pub expires: Timestamp,
}

/// Why a token proves nothing. Never holds the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts of JSON, or over 16 KiB.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// `alg` is not one of those accepted for the key.
    #[error("token algorithm {0:?} is not accepted")]
    Algorithm(String),
    /// No key of the issuer fits `kid` and `alg`.
    #[error("the issuer has no key for this token")]
    UnknownKey,
    /// The signature is not by that key.
    #[error("token signature is not valid")]
    Signature,
    /// `iss` is another's.
    #[error("token issuer is not {0:?}")]
    Issuer(String),
    /// `aud` is missing or names nobody that is accepted.
    #[error("token audience is not accepted")]
    Audience,
    /// `exp` is missing.
    #[error("token has no expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies more than a minute in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `sub` is not `system:serviceaccount:NAMESPACE:ACCOUNT`.
    #[error("token subject is not a service account")]
    Subject,
    /// The issuer may not vouch for that namespace.
    #[error("token issuer may not vouch for namespace {0:?}")]
    Namespace(String),
}

impl TokenIssuer {
    /// An issuer with its rules and keys.
    pub const fn new(rules: IssuerRules, keys: KeySet) -> Self {
        Self { rules, keys }
    }

    /// The issuer's rules.
    pub const fn rules(&self) -> &IssuerRules {
        &self.rules
    }

    /// Whether an unverified token names this issuer, so that the right one of several is asked.
    pub fn is_issuer_of(&self, _token: &str) -> bool {
        todo!()
    }

    /// Checks everything: form, algorithm against the key's own kind, signature, issuer, audience, times, subject,
    /// namespace. Header parameters `crit`, `jku`, `jwk`, `x5u`, `x5c` are refused or ignored, never followed.
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub fn validate(&self, _token: &str, _now: Timestamp) -> Result<TokenClaims, TokenError> {
        let _ = &self.keys;
        todo!()
    }
}
