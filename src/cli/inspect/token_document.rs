//! A token as it is shown: all that it says, and nothing that it could be used by.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    certificate_document::{FindingDocument, ValidityState, Verification},
    trust::Trust,
};
use crate::domain::{
    clock::Timestamp,
    jwt::{CompactJws, JwtSvid, JwtSvidError},
};

/// A token. Its signature is nowhere: with it, this would be as good as the token until that expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenDocument {
    /// Whether its signature is by a key of its trust domain. Times don't count here.
    pub verification: Verification,
    /// `sub`, if the token has the form of a JWT-SVID.
    pub spiffe_id: Option<String>,
    /// `aud`, if it has.
    pub audiences: Vec<String>,
    /// `alg`.
    pub algorithm: Option<String>,
    /// `kid`.
    pub key_id: Option<String>,
    /// `iat`: RFC 3339, UTC.
    pub issued_at: Option<String>,
    /// `nbf`.
    pub not_before: Option<String>,
    /// `exp`: the token is not valid any more from then on.
    pub expires: Option<String>,
    /// At the time of the look; null without `exp`.
    pub validity: Option<ValidityState>,
    /// Until `exp`; zero or below once it has passed.
    pub seconds_left: Option<i64>,
    /// From `nbf`, or else `iat`, to `exp`.
    pub seconds_total: Option<i64>,
    /// All that stands in it.
    pub header: Map<String, Value>,
    /// All that stand in it.
    pub claims: Map<String, Value>,
    /// Broken rules of SPIFFE's JWT-SVID standard.
    pub findings: Vec<FindingDocument>,
}

impl TokenDocument {
    pub(super) fn new(token: &CompactJws, trust: Option<&Trust>, now: Timestamp) -> Self {
        let time = |claim| token.time(claim).ok().flatten();
        let (issued_at, not_before, expires) = (time("iat"), time("nbf"), time("exp"));
        let since = |start: Timestamp| expires.map(|end| end.seconds().saturating_sub(start.seconds()));
        let svid = JwtSvid::read(token);
        let text = |name| token.header().get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            verification: verification(token, trust),
            spiffe_id: svid.as_ref().ok().map(|svid| svid.spiffe_id.to_string()),
            audiences: svid.as_ref().map(|svid| svid.audiences.clone()).unwrap_or_default(),
            algorithm: text("alg"),
            key_id: text("kid"),
            issued_at: issued_at.map(|time| time.to_string()),
            not_before: not_before.map(|time| time.to_string()),
            expires: expires.map(|time| time.to_string()),
            validity: expires.map(|end| match not_before {
                _ if end <= now => ValidityState::Expired,
                Some(start) if now < start => ValidityState::NotYetValid,
                _ => ValidityState::Valid,
            }),
            seconds_left: since(now),
            seconds_total: not_before.or(issued_at).and_then(since),
            header: token.header().clone(),
            claims: token.claims().clone(),
            findings: svid.err().map(|error| finding(&error)).into_iter().collect(),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        !matches!(self.verification, Verification::Failed { .. })
            && self.validity == Some(ValidityState::Valid)
            && self.findings.is_empty()
    }
}

fn verification(token: &CompactJws, trust: Option<&Trust>) -> Verification {
    let Some(trust) = trust else { return Verification::NoBundle };
    let bundle = trust.origin.clone();
    if !trust.has_jwt_authorities() {
        let reason = "it holds no key of JWT-SVIDs: give a SPIFFE bundle document or a workload socket".to_owned();
        return Verification::Failed { bundle, reason };
    }
    match JwtSvid::verify_signature(token, trust) {
        Ok(_svid) => Verification::Verified { bundle },
        Err(error) => Verification::Failed { bundle, reason: error.to_string() },
    }
}

/// By the part of the standard that the rule stands in.
fn finding(error: &JwtSvidError) -> FindingDocument {
    let rule = match error {
        JwtSvidError::Algorithm(_) => "jwt-svid-algorithm",
        JwtSvidError::NoKeyId => "jwt-svid-key-id",
        JwtSvidError::NoSubject | JwtSvidError::Subject(_) | JwtSvidError::Claim("sub") => "jwt-svid-subject",
        JwtSvidError::NoAudience | JwtSvidError::Audience { .. } | JwtSvidError::Claim("aud") => "jwt-svid-audience",
        JwtSvidError::NoExpiry | JwtSvidError::Expired | JwtSvidError::NotYetValid | JwtSvidError::Claim(_) => {
            "jwt-svid-times"
        }
        JwtSvidError::HeaderParameter(_) | JwtSvidError::Type | JwtSvidError::Malformed(_) => "jwt-svid-header",
        JwtSvidError::NoBundle(_) | JwtSvidError::NoAuthority { .. } | JwtSvidError::Signature => "jwt-svid-signature",
    };
    FindingDocument { rule: rule.to_owned(), detail: error.to_string() }
}
