//! Validation of a JWT-SVID.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    JwtAuthority,
    compact_jws::{CompactJws, JwsError},
    jwks::Algorithm,
};
use crate::domain::{
    clock::Timestamp,
    identity::{SpiffeId, TrustDomain},
};

/// A JWT-SVID whose signature, audience and times were checked (JWT-SVID 4).
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSvid {
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// `kid`: of the key that signed.
    pub key_id: String,
    /// `aud`, always as a list.
    pub audiences: Vec<String>,
    /// `exp`: it is valid before this instant.
    pub expires: Timestamp,
    /// All claims as they stand in the token, but for `aud`, which is a list.
    pub claims: Map<String, Value>,
}

/// The keys of the trust domains whose JWT-SVIDs may be believed.
pub trait JwtAuthorities {
    /// Those of one trust domain; `None` if nothing is known of it. Never another one's.
    fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]>;
}

/// Why a token is not a JWT-SVID that can be believed. The texts are those that SPIFFE's own implementations give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtSvidError {
    /// No JWS in compact form, of JSON objects, of at most 16 KiB.
    #[error("unable to parse JWT token: {0}")]
    Malformed(&'static str),
    /// Something in the header that JWT-SVID 2 does not know.
    #[error("token header has an unexpected parameter {0:?}")]
    HeaderParameter(String),
    /// `typ` is there and something else.
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// None of JWT-SVID 2.1, or one that can't be verified here (ES512).
    #[error("token has unsupported signature algorithm {0:?}")]
    Algorithm(String),
    /// No `kid`, so no key.
    #[error("token header missing key id")]
    NoKeyId,
    /// No `sub`.
    #[error("token missing subject claim")]
    NoSubject,
    /// `sub` is no SPIFFE ID of a workload.
    #[error("token has an invalid subject claim: {0}")]
    Subject(String),
    /// No `exp`.
    #[error("token missing exp claim")]
    NoExpiry,
    /// A claim with a meaning has a value that it can't have.
    #[error("token has an invalid {0} claim")]
    Claim(&'static str),
    /// `exp` is now or was before.
    #[error("token has expired")]
    Expired,
    /// `nbf` lies ahead by more than clocks may differ.
    #[error("token not valid yet")]
    NotYetValid,
    /// No `aud`.
    #[error("token missing audience claim")]
    NoAudience,
    /// `aud` names others.
    #[error("expected audience in {expected:?} (audience={found:?})")]
    Audience {
        /// Who asks.
        expected: Vec<String>,
        /// Whom the token is for.
        found: Vec<String>,
    },
    /// A trust domain that is not one's own, nor federated with.
    #[error("no JWT bundle found for trust domain {0:?}")]
    NoBundle(String),
    /// Not one of that trust domain's keys, by its identifier.
    #[error("no JWT authority {key_id:?} found for trust domain {trust_domain:?}")]
    NoAuthority {
        /// `kid`, cut to 64 characters.
        key_id: String,
        /// Of `sub`.
        trust_domain: String,
    },
    /// The signature is not by that key.
    #[error("unable to get claims from token: signature verification failed")]
    Signature,
}

/// How far the signer's clock may be ahead of ours, for `nbf` alone: nothing is accepted after its end.
const LEEWAY: std::time::Duration = super::validate::LEEWAY;
/// Of a text that a caller made, in an error.
const SHOWN: usize = 64;

impl JwtSvid {
    /// Checks form, algorithm, times, audience and signature, by the keys of the trust domain of `sub` and no other's.
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub fn validate(
        token: &str,
        audience: &str,
        authorities: &impl JwtAuthorities,
        now: Timestamp,
    ) -> Result<Self, JwtSvidError> {
        let token = CompactJws::read(token)?;
        let parts = Parts::of(&token)?;
        let svid = parts.unverified()?;
        if svid.expires <= now {
            return Err(JwtSvidError::Expired);
        }
        if token.time("nbf")?.is_some_and(|time| time > now.plus(LEEWAY)) {
            return Err(JwtSvidError::NotYetValid);
        }
        if !svid.audiences.iter().any(|found| found == audience) {
            return Err(JwtSvidError::Audience { expected: vec![shown(audience)], found: svid.audiences });
        }
        parts.verify(svid, authorities)
    }

    /// Checks form, algorithm and signature as [`Self::validate`] does, and neither times nor audience: whose it is, not whether
    /// it may be accepted.
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub fn verify_signature(token: &CompactJws, authorities: &impl JwtAuthorities) -> Result<Self, JwtSvidError> {
        let parts = Parts::of(token)?;
        let svid = parts.unverified()?;
        parts.verify(svid, authorities)
    }

    /// What a token says of itself, before anybody has verified it: good for knowing how long one's own will last.
    ///
    /// # Errors
    ///
    /// When it has not the form of a JWT-SVID.
    pub fn unverified(token: &str) -> Result<Self, JwtSvidError> {
        Self::read(&CompactJws::read(token)?)
    }

    /// [`Self::unverified`] of a token that was taken apart.
    ///
    /// # Errors
    ///
    /// When it is no JWT-SVID.
    pub fn read(token: &CompactJws) -> Result<Self, JwtSvidError> {
        Parts::of(token)?.unverified()
    }
}

/// A token whose header is right.
struct Parts<'a> {
    algorithm: Algorithm,
    key_id: String,
    token: &'a CompactJws,
}

#[derive(Deserialize)]
struct Header {
    alg: Option<String>,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl<'a> Parts<'a> {
    fn of(token: &'a CompactJws) -> Result<Self, JwtSvidError> {
        let header: Header = serde_json::from_value(Value::Object(token.header().clone()))
            .map_err(|_of_its_type| JwtSvidError::Malformed("a header parameter is no text"))?;
        let (algorithm, key_id) = header.check()?;
        Ok(Self { algorithm, key_id, token })
    }

    fn unverified(&self) -> Result<JwtSvid, JwtSvidError> {
        let subject = self.token.claims().get("sub").ok_or(JwtSvidError::NoSubject)?;
        let subject = subject.as_str().ok_or(JwtSvidError::Claim("sub"))?;
        let spiffe_id = match subject {
            "" => return Err(JwtSvidError::NoSubject),
            text => text.parse().map_err(|error: crate::domain::identity::SpiffeIdError| error.to_string()),
        };
        let spiffe_id = spiffe_id.map_err(JwtSvidError::Subject)?;
        let expires = self.token.time("exp")?.ok_or(JwtSvidError::NoExpiry)?;
        let audiences = self.audiences()?;
        let mut claims = self.token.claims().clone();
        claims.insert("aud".into(), audiences.clone().into());
        Ok(JwtSvid { spiffe_id, key_id: self.key_id.clone(), audiences, expires, claims })
    }

    fn verify(&self, svid: JwtSvid, authorities: &impl JwtAuthorities) -> Result<JwtSvid, JwtSvidError> {
        let trust_domain = svid.spiffe_id.trust_domain();
        let keys = authorities.of(trust_domain).ok_or_else(|| JwtSvidError::NoBundle(trust_domain.to_string()))?;
        let key = keys.iter().find(|key| key.key_id() == self.key_id).ok_or_else(|| JwtSvidError::NoAuthority {
            key_id: shown(&self.key_id),
            trust_domain: trust_domain.to_string(),
        })?;
        let (message, signature) = (self.token.message(), self.token.signature());
        let is_signed = key.key().is_some_and(|key| key.verifies(self.algorithm, message, signature));
        if is_signed { Ok(svid) } else { Err(JwtSvidError::Signature) }
    }

    /// RFC 7519 4.1.3: one text, or a list of them.
    fn audiences(&self) -> Result<Vec<String>, JwtSvidError> {
        let texts = |values: &[Value]| values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        let audiences: Option<Vec<String>> = match self.token.claims().get("aud") {
            None | Some(Value::Null) => return Err(JwtSvidError::NoAudience),
            Some(Value::String(one)) => Some(vec![one.clone()]),
            Some(Value::Array(several)) => texts(several),
            Some(_) => None,
        };
        let audiences = audiences.ok_or(JwtSvidError::Claim("aud"))?;
        if audiences.is_empty() { Err(JwtSvidError::NoAudience) } else { Ok(audiences) }
    }
}

impl From<JwsError> for JwtSvidError {
    fn from(error: JwsError) -> Self {
        match error {
            JwsError::Malformed(complaint) => Self::Malformed(complaint),
            JwsError::Time(claim) => Self::Claim(claim),
        }
    }
}

impl Header {
    /// JWT-SVID 2: `alg`, `kid` and `typ`, and nothing else.
    fn check(self) -> Result<(Algorithm, String), JwtSvidError> {
        if let Some((name, _)) = self.others.iter().next() {
            return Err(JwtSvidError::HeaderParameter(shown(name)));
        }
        if !self.typ.as_deref().is_none_or(|typ| matches!(typ, "JWT" | "JOSE")) {
            return Err(JwtSvidError::Type);
        }
        let name = self.alg.unwrap_or_default();
        let algorithm = Algorithm::from_name(&name).filter(|algorithm| *algorithm != Algorithm::EdDsa);
        let algorithm = algorithm.ok_or_else(|| JwtSvidError::Algorithm(shown(&name)))?;
        let key_id = self.kid.filter(|id| !id.is_empty()).ok_or(JwtSvidError::NoKeyId)?;
        Ok((algorithm, key_id))
    }
}

/// Bounded: the text is a caller's, and ends in answers and logs.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
