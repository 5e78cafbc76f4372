//! The form of a token, before anybody has verified it.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::validate::{MAX_TOKEN_BYTES, NumericDate, decode};
use crate::domain::clock::Timestamp;

/// A JWS in compact form (RFC 7515 3.1) of at most 16 KiB whose header and payload are JSON objects, in which no member stands
/// twice: readers differ in which one they would believe. Nothing in it is to be believed yet.
#[derive(Clone)]
pub struct CompactJws {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// What is signed: header and claims as they were sent.
    message: String,
    signature: Vec<u8>,
}

/// Why a text has not that form. Never holds the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Not three base64url parts of JSON, or over 16 KiB.
    #[error("{0}")]
    Malformed(&'static str),
    /// A claim that is no time.
    #[error("claim {0} is no number of seconds")]
    Time(&'static str),
}

impl CompactJws {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// When it has not that form.
    pub fn read(token: &str) -> Result<Self, JwsError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwsError::Malformed("over 16 KiB"));
        }
        let not_three = JwsError::Malformed("not three parts");
        let (message, signature) = token.rsplit_once('.').ok_or_else(|| not_three.clone())?;
        let (header, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(not_three)?;
        let header = object(header).ok_or(JwsError::Malformed("the header is not base64url of a JSON object"))?;
        let claims = object(claims).ok_or(JwsError::Malformed("the claims are not base64url of a JSON object"))?;
        let signature = decode(signature).ok_or(JwsError::Malformed("the signature is not base64url"))?;
        Ok(Self { header, claims, message: message.to_owned(), signature })
    }

    /// The JOSE header.
    pub const fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// The payload.
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// A claim of that name as a time (RFC 7519 2); `None` if it isn't there, or null.
    ///
    /// # Errors
    ///
    /// When it is no number.
    pub fn time(&self, claim: &'static str) -> Result<Option<Timestamp>, JwsError> {
        let Some(value) = self.claims.get(claim).filter(|value| !value.is_null()) else { return Ok(None) };
        let date: NumericDate = NumericDate::deserialize(value).map_err(|_no_number| JwsError::Time(claim))?;
        Ok(Some(date.0))
    }

    pub(super) fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }
}

impl fmt::Debug for CompactJws {
    /// Without the signature, which makes what can be told a token that can be used.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactJws").field("header", &self.header).field("claims", &self.claims).finish_non_exhaustive()
    }
}

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

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
