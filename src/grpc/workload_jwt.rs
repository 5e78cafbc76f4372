//! The JWT half of the Workload API: tokens for the socket's workload, and what others' tokens are worth. Codes and texts are
//! those of SPIFFE's own agent.

use std::sync::Arc;

use futures_util::future::join_all;
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Number};
use tokio::sync::watch;
use tonic::Status;

use super::{
    served_identities::{ServedIdentities, ServedIdentity},
    status::NO_IDENTITY,
};
use crate::{
    domain::{
        clock::Clock,
        identity::{SpiffeId, SpiffeIdError, TrustDomain},
        jwt::{Audiences, JwtSvid},
    },
    proto::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse},
    service::{
        jwt_svids::{FetchError, JwtSvids},
        ports::{JwtMinter, NotMinted, SignError},
        published_trust::TrustReceiver,
    },
};

/// What JWT-SVIDs are served from.
pub struct ServedJwt {
    /// Those of each of the socket's identities, in their order; empty where there are none.
    pub svids: Vec<JwtSvids>,
    /// Whose tokens are believed, by which keys.
    pub trust: TrustReceiver,
    /// Whether that is followed at an authority that has said that it publishes nothing.
    pub has_nothing: Option<watch::Receiver<bool>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The method that has a bound of its own.
const FETCH_JWT_SVID: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";

/// The claims of another trust domain's token that a caller is told.
const FOREIGN_CLAIMS: [&str; 3] = ["sub", "exp", "aud"];

impl ServedJwt {
    /// Tokens that `minters` mint, one for each identity in `trust_domain`, and all that are by a key in `trust`.
    pub fn by(
        minters: impl IntoIterator<Item = Arc<dyn JwtMinter>>,
        trust_domain: &TrustDomain,
        trust: TrustReceiver,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let of_one = |minter| JwtSvids::new(minter, trust_domain.clone(), Some(trust.clone()), Arc::clone(&clock));
        let svids = minters.into_iter().map(of_one).collect();
        Self { svids, trust, has_nothing: None, clock }
    }

    /// The same, where an authority may say that it publishes no keys.
    #[must_use]
    pub fn unless(self, has_nothing: watch::Receiver<bool>) -> Self {
        Self { has_nothing: Some(has_nothing), ..self }
    }

    /// Answers `FetchJWTSVID` for the workload whose identities these are, as far as they are known: as SPIFFE's own agent does, with a
    /// token for each, or with none if one can't be had.
    pub(super) async fn fetch(
        &self,
        request: JwtsvidRequest,
        identities: &ServedIdentities,
    ) -> Result<JwtsvidResponse, Status> {
        let audiences =
            Audiences::new(request.audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted = (!request.spiffe_id.is_empty()).then(|| request.spiffe_id.parse::<SpiffeId>()).transpose();
        let wanted = wanted.map_err(|error: SpiffeIdError| {
            Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"))
        })?;
        let is_wanted = |id: &SpiffeId| wanted.as_ref().is_none_or(|wanted| wanted == id);
        let known = |served: &ServedIdentity| served.identity.borrow().as_ref().map(|identity| identity.id.clone());
        let is_named = wanted.is_some() && identities.iter().filter_map(known).any(|id| is_wanted(&id));
        let may_be_wanted = |served: &ServedIdentity| known(served).map_or(!is_named, |id| is_wanted(&id));
        if !identities.iter().any(may_be_wanted) {
            return Err(no_identity());
        }
        if self.svids.is_empty() {
            return Err(not_offered());
        }
        let asked = identities.iter().zip(&self.svids).filter(|(served, _)| may_be_wanted(served));
        let fetched = asked.map(|(served, svids)| {
            let fetched = svids.fetch(&audiences);
            async { (&served.hint, fetched.await) }
        });
        let mut svids = Vec::new();
        for (hint, fetched) in join_all(fetched).await {
            match fetched {
                Ok(svid) if is_wanted(&svid.id) => svids.push(Jwtsvid {
                    spiffe_id: svid.id.to_string(),
                    svid: svid.token.to_string(),
                    hint: hint.to_string(),
                }),
                Err(error) if !error.is_denial() => return Err(not_fetched(&error)),
                Ok(_) | Err(_) => {}
            }
        }
        if svids.is_empty() { Err(no_identity()) } else { Ok(JwtsvidResponse { svids }) }
    }

    /// Answers `ValidateJWTSVID`.
    pub(super) fn validate(&self, request: &ValidateJwtsvidRequest) -> Result<ValidateJwtsvidResponse, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let trust = self.trust.borrow().clone().ok_or_else(|| {
            if self.has_nothing.as_ref().is_some_and(|has_nothing| *has_nothing.borrow()) {
                return Status::unimplemented(
                    "JWT-SVIDs are not offered: the certificate authority publishes no keys of them",
                );
            }
            Status::unavailable("no key that could have signed the token is known yet")
        })?;
        let svid = JwtSvid::validate(&request.svid, &request.audience, trust.as_ref(), self.clock.now());
        let svid = svid.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut claims = svid.claims;
        if *svid.spiffe_id.trust_domain() != trust.own.trust_domain {
            claims.retain(|name, _| FOREIGN_CLAIMS.contains(&name.as_str()));
        }
        Ok(ValidateJwtsvidResponse { spiffe_id: svid.spiffe_id.to_string(), claims: Some(fields(claims)) })
    }
}

fn no_identity() -> Status {
    Status::permission_denied(NO_IDENTITY)
}

fn not_offered() -> Status {
    Status::unimplemented("JWT-SVIDs are not offered, only X.509-SVIDs")
}

/// It is the pair that attests a workload, by what its agent brings.
fn not_fetched(error: &FetchError) -> Status {
    match error {
        FetchError::Mint(NotMinted::NotOffered(_)) => Status::unimplemented(error.to_string()),
        FetchError::Mint(NotMinted::Denied(_)) => no_identity(),
        FetchError::Mint(NotMinted::Failed(SignError::Unauthenticated(_) | SignError::NoProof(_))) => {
            Status::unavailable(format!("workload attestation failed: {error}"))
        }
        FetchError::Busy => Status::unavailable(format!("rate limit exceeded for {FETCH_JWT_SVID}: {error}")),
        FetchError::Mint(NotMinted::Failed(_))
        | FetchError::Unreadable(_)
        | FetchError::Other { .. }
        | FetchError::NoAnswer => {
            let text = format!("could not fetch JWT-SVID: {error}");
            if error.is_of_request() { Status::invalid_argument(text) } else { Status::unavailable(text) }
        }
    }
}

fn fields(object: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(name, value)| (name, value_of(value))).collect() }
}

/// Numbers have 53 bits there.
fn value_of(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(Number::as_f64(&number).unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(value_of).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(fields(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests;
