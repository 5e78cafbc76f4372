//! The JWT half of the Workload API: tokens for the socket's workload, and what others' tokens are worth. Codes and texts are
//! those of SPIFFE's own agent.

use std::sync::Arc;

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Number};
use tonic::Status;

use crate::{
    domain::{
        clock::Clock,
        identity::{SpiffeId, SpiffeIdError, TrustDomain},
        jwt::{Audiences, JwtSvid},
    },
    proto::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse},
    service::{
        jwt_svids::{FetchError, JwtSvids},
        ports::{JwtMinter, NotMinted},
        published_trust::TrustReceiver,
        svid_publisher::IdentityReceiver,
    },
};

/// What JWT-SVIDs are served from.
pub struct ServedJwt {
    /// The workload's own; `None` where there are none.
    pub svids: Option<JwtSvids>,
    /// Whose tokens are believed, by which keys.
    pub trust: Option<TrustReceiver>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// The claims of another trust domain's token that a caller is told.
const FOREIGN_CLAIMS: [&str; 3] = ["sub", "exp", "aud"];

impl ServedJwt {
    /// Tokens that `minter` mints for a workload in `trust_domain`, and all that are by a key in `trust`.
    pub fn by(
        minter: Arc<dyn JwtMinter>,
        trust_domain: TrustDomain,
        trust: TrustReceiver,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let svids = JwtSvids::new(minter, trust_domain, Some(trust.clone()), Arc::clone(&clock));
        Self { svids: Some(svids), trust: Some(trust), clock }
    }

    /// Answers `FetchJWTSVID` for the workload whose identity this is, as far as it is known.
    pub(super) async fn fetch(
        &self,
        request: JwtsvidRequest,
        identity: &IdentityReceiver,
    ) -> Result<JwtsvidResponse, Status> {
        let audiences =
            Audiences::new(request.audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let wanted = (!request.spiffe_id.is_empty()).then(|| request.spiffe_id.parse::<SpiffeId>()).transpose();
        let wanted = wanted.map_err(|error: SpiffeIdError| {
            Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"))
        })?;
        let is_other = |id: &SpiffeId| wanted.as_ref().is_some_and(|wanted| wanted != id);
        if identity.borrow().as_ref().is_some_and(|identity| is_other(&identity.id)) {
            return Err(no_identity());
        }
        let svids = self.svids.as_ref().ok_or_else(not_offered)?;
        let svid = svids.fetch(&audiences).await.map_err(|error| not_fetched(&error))?;
        if is_other(&svid.id) {
            return Err(no_identity());
        }
        let svid = Jwtsvid { spiffe_id: svid.id.to_string(), svid: svid.token.to_string(), hint: String::new() };
        Ok(JwtsvidResponse { svids: vec![svid] })
    }

    /// Answers `ValidateJWTSVID`.
    pub(super) fn validate(&self, request: &ValidateJwtsvidRequest) -> Result<ValidateJwtsvidResponse, Status> {
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let trust = self.trust.as_ref().ok_or_else(|| {
            Status::invalid_argument(
                "no JWT authority is known for the token's trust domain: JWT-SVIDs are not offered",
            )
        })?;
        let trust = trust.borrow().clone();
        let trust = trust.ok_or_else(|| Status::unavailable("no key that could have signed the token is known yet"))?;
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
    Status::permission_denied("no identity issued")
}

fn not_offered() -> Status {
    Status::unimplemented("JWT-SVIDs are not offered, only X.509-SVIDs")
}

fn not_fetched(error: &FetchError) -> Status {
    if let FetchError::Mint(NotMinted::NotOffered(_)) = error {
        return Status::unimplemented(error.to_string());
    }
    let text = format!("could not fetch JWT-SVID: {error}");
    if error.is_of_request() { Status::invalid_argument(text) } else { Status::unavailable(text) }
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
