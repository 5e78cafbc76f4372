//! Validation of a service account's token by the rules of its issuer.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::IgnoredAny};

use super::{
    KeySet,
    jwks::{Algorithm, VerificationKey},
};
use crate::domain::{clock::Timestamp, identity::ServiceAccount};

/// Far above any real token, so that nobody makes us hash megabytes.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far the issuer's clock may be ahead of ours.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

/// What a configured issuer may vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub fn is_issuer_of(&self, token: &str) -> bool {
        let claims = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN_BYTES).unwrap_or_default();
        decode_json::<UnverifiedIssuer>(claims, "").is_ok_and(|claims| claims.iss == self.rules.issuer)
    }

    /// Checks everything: form, algorithm against the key's own kind, signature, issuer, audience, times, subject,
    /// namespace. Header parameters `crit`, `jku`, `jwk`, `x5u`, `x5c` are refused or ignored, never followed.
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub fn validate(&self, token: &str, now: Timestamp) -> Result<TokenClaims, TokenError> {
        let claims = self.verified_claims(token)?;
        if claims.iss.as_deref() != Some(&self.rules.issuer) {
            return Err(TokenError::Issuer(self.rules.issuer.clone()));
        }
        if !claims.aud.is_some_and(|audiences| audiences.names_one_of(&self.rules.audiences)) {
            return Err(TokenError::Audience);
        }
        let expires = claims.exp.ok_or(TokenError::NoExpiry)?.0;
        if expires <= now {
            return Err(TokenError::Expired);
        }
        if [claims.nbf, claims.iat].into_iter().flatten().any(|time| time.0 > now.plus(LEEWAY)) {
            return Err(TokenError::NotYetValid);
        }
        let account = claims.sub.as_deref().and_then(service_account).ok_or(TokenError::Subject)?;
        match &self.rules.namespaces {
            Some(namespaces) if !namespaces.iter().any(|namespace| namespace == account.namespace()) => {
                Err(TokenError::Namespace(account.namespace().to_owned()))
            }
            _ => Ok(TokenClaims { account, expires }),
        }
    }

    fn verified_claims(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("over 16 KiB"));
        }
        let not_three = TokenError::Malformed("not three parts");
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| not_three.clone())?;
        let (header, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(not_three)?;
        let header: Header = decode_json(header, "the header is not base64url of a JSON object")?;
        let signature = decode(signature).ok_or(TokenError::Malformed("the signature is not base64url"))?;
        let algorithm = header.check()?;
        if !self.signing_keys(&header, algorithm)?.any(|key| key.verifies(algorithm, message.as_bytes(), &signature)) {
            return Err(TokenError::Signature);
        }
        decode_json(claims, "the claims are not base64url of a JSON object")
    }

    /// The keys that may have signed; at least one.
    fn signing_keys(
        &self,
        header: &Header,
        algorithm: Algorithm,
    ) -> Result<impl Iterator<Item = &VerificationKey>, TokenError> {
        let mut named = self.keys.named(header.kid.as_deref()).peekable();
        let is_named = header.kid.is_some() && named.peek().is_some();
        let mut fitting = named.filter(move |key| key.accepts(algorithm)).peekable();
        match fitting.peek() {
            Some(_) => Ok(fitting),
            None if is_named => Err(TokenError::Algorithm(header.shown_algorithm())),
            None => Err(TokenError::UnknownKey),
        }
    }
}

/// The parameters of a JWS header that decide something (RFC 7515 4.1). Those that point at keys are not even read.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

impl Header {
    fn check(&self) -> Result<Algorithm, TokenError> {
        if self.crit {
            return Err(TokenError::Malformed("header parameter crit is not supported"));
        }
        let is_token = |typ: &str| typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("JOSE");
        if !self.typ.as_deref().is_none_or(is_token) {
            return Err(TokenError::Malformed("header parameter typ is neither JWT nor JOSE"));
        }
        Algorithm::from_name(&self.alg).ok_or_else(|| TokenError::Algorithm(self.shown_algorithm()))
    }

    /// Bounded: the text is the sender's, and ends in a log.
    fn shown_algorithm(&self) -> String {
        self.alg.chars().take(16).collect()
    }
}

/// The claims that decide something (RFC 7519 4.1). One that stands there twice is refused.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audiences>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    sub: Option<String>,
}

/// What a token says of its issuer: good for finding the rules to check it by, for nothing else.
#[derive(Deserialize)]
struct UnverifiedIssuer {
    iss: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Audiences {
    pub(super) fn names_one_of(&self, accepted: &[String]) -> bool {
        match self {
            Self::One(name) => accepted.contains(name),
            Self::Several(names) => names.iter().any(|name| accepted.contains(name)),
        }
    }
}

/// Seconds since the epoch, whole or not. What lies before the epoch or beyond any calendar is brought to the nearest
/// instant that can be told.
#[derive(Clone, Copy, Deserialize)]
#[serde(from = "f64")]
pub(super) struct NumericDate(pub(super) Timestamp);

impl From<f64> for NumericDate {
    fn from(seconds: f64) -> Self {
        let since_epoch = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        Self(Timestamp::from_seconds(0).plus(since_epoch))
    }
}

fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_any| true)
}

/// Without padding, with nothing but zeros in the bits left over: one text for one value.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

pub(super) fn decode_json<T: DeserializeOwned>(text: &str, complaint: &'static str) -> Result<T, TokenError> {
    decode(text)
        .filter(|json| json.first() == Some(&b'{'))
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or(TokenError::Malformed(complaint))
}

pub(super) fn service_account(subject: &str) -> Option<ServiceAccount> {
    let (namespace, name) = subject.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    ServiceAccount::new(namespace, name).ok()
}

#[cfg(test)]
mod tests;
