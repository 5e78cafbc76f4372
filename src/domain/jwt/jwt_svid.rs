//! Validation of a JWT-SVID.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    JwtAuthority,
    jwks::Algorithm,
    validate::{MAX_TOKEN_BYTES, NumericDate, decode},
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
        let parts = Parts::read(token)?;
        let svid = parts.unverified()?;
        if svid.expires <= now {
            return Err(JwtSvidError::Expired);
        }
        if parts.not_before()?.is_some_and(|time| time > now.plus(LEEWAY)) {
            return Err(JwtSvidError::NotYetValid);
        }
        if !svid.audiences.iter().any(|found| found == audience) {
            return Err(JwtSvidError::Audience { expected: vec![shown(audience)], found: svid.audiences });
        }
        let trust_domain = svid.spiffe_id.trust_domain();
        let keys = authorities.of(trust_domain).ok_or_else(|| JwtSvidError::NoBundle(trust_domain.to_string()))?;
        let key = keys.iter().find(|key| key.key_id() == parts.key_id).ok_or_else(|| JwtSvidError::NoAuthority {
            key_id: shown(&parts.key_id),
            trust_domain: trust_domain.to_string(),
        })?;
        let is_signed = key.key().verifies(parts.algorithm, parts.message.as_bytes(), &parts.signature);
        if is_signed { Ok(svid) } else { Err(JwtSvidError::Signature) }
    }

    /// What a token says of itself, before anybody has verified it: good for knowing how long one's own will last.
    ///
    /// # Errors
    ///
    /// When it has not the form of a JWT-SVID.
    pub fn unverified(token: &str) -> Result<Self, JwtSvidError> {
        Parts::read(token)?.unverified()
    }
}

struct Parts<'a> {
    algorithm: Algorithm,
    key_id: String,
    claims: Map<String, Value>,
    /// What is signed: header and claims as they were sent.
    message: &'a str,
    signature: Vec<u8>,
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
    fn read(token: &'a str) -> Result<Self, JwtSvidError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtSvidError::Malformed("over 16 KiB"));
        }
        let not_three = JwtSvidError::Malformed("not three parts");
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| not_three.clone())?;
        let (header, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(not_three)?;
        let header = object(header).ok_or(JwtSvidError::Malformed("the header is not base64url of a JSON object"))?;
        let header: Header = serde_json::from_value(Value::Object(header))
            .map_err(|_of_its_type| JwtSvidError::Malformed("a header parameter is no text"))?;
        let (algorithm, key_id) = header.check()?;
        let claims = object(claims).ok_or(JwtSvidError::Malformed("the claims are not base64url of a JSON object"))?;
        let signature = decode(signature).ok_or(JwtSvidError::Malformed("the signature is not base64url"))?;
        Ok(Self { algorithm, key_id, claims, message, signature })
    }

    fn unverified(&self) -> Result<JwtSvid, JwtSvidError> {
        let subject = self.claims.get("sub").ok_or(JwtSvidError::NoSubject)?;
        let subject = subject.as_str().ok_or(JwtSvidError::Claim("sub"))?;
        let spiffe_id = match subject {
            "" => return Err(JwtSvidError::NoSubject),
            text => text.parse().map_err(|error: crate::domain::identity::SpiffeIdError| error.to_string()),
        };
        let spiffe_id = spiffe_id.map_err(JwtSvidError::Subject)?;
        let expires = self.time("exp")?.ok_or(JwtSvidError::NoExpiry)?;
        let audiences = self.audiences()?;
        let mut claims = self.claims.clone();
        claims.insert("aud".into(), audiences.clone().into());
        Ok(JwtSvid { spiffe_id, key_id: self.key_id.clone(), audiences, expires, claims })
    }

    fn not_before(&self) -> Result<Option<Timestamp>, JwtSvidError> {
        self.time("nbf")
    }

    /// RFC 7519 4.1.3: one text, or a list of them.
    fn audiences(&self) -> Result<Vec<String>, JwtSvidError> {
        let texts = |values: &[Value]| values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        let audiences: Option<Vec<String>> = match self.claims.get("aud") {
            None | Some(Value::Null) => return Err(JwtSvidError::NoAudience),
            Some(Value::String(one)) => Some(vec![one.clone()]),
            Some(Value::Array(several)) => texts(several),
            Some(_) => None,
        };
        let audiences = audiences.ok_or(JwtSvidError::Claim("aud"))?;
        if audiences.is_empty() { Err(JwtSvidError::NoAudience) } else { Ok(audiences) }
    }

    fn time(&self, claim: &'static str) -> Result<Option<Timestamp>, JwtSvidError> {
        let Some(value) = self.claims.get(claim).filter(|value| !value.is_null()) else { return Ok(None) };
        let date: NumericDate = NumericDate::deserialize(value).map_err(|_no_number| JwtSvidError::Claim(claim))?;
        Ok(Some(date.0))
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

/// A JSON object in which no member stands twice: readers differ in which one they would believe.
fn object(part: &str) -> Option<Map<String, Value>> {
    let members: OnceEach = serde_json::from_slice(&decode(part)?).ok()?;
    Some(members.0)
}

struct OnceEach(Map<String, Value>);

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = OnceEach;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<OnceEach, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a member stands there twice"));
                    }
                }
                Ok(OnceEach(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Bounded: the text is a caller's, and ends in answers and logs.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
