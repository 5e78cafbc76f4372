//! The SPIFFE Workload API over the published identity and what the pair publishes. `FetchJWTBundles` answers also where there
//! are no JWT-SVIDs, because clients wait for it before they use the X.509 half. WIT-SVIDs are not offered.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use tonic::{Request, Response, Status, service::interceptor::InterceptedService};
use zeroize::Zeroizing;

use super::{phase::Phases, served_identities::ServedIdentities, workload_jwt::ServedJwt};
use crate::{
    domain::{bundle::SpiffeBundle, identity::Hint, jwt::JwtAuthority, x509::X509Svid},
    proto::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
    service::{published_trust::PublishedTrust, svid_publisher::WorkloadIdentity},
};

/// The messages that say what an identity is, built once per change. They hold its key, so they have no `Debug`.
pub(super) struct WorkloadMessages {
    svid: Option<X509svidResponse>,
    bundles: X509BundlesResponse,
    jwt_bundles: JwtBundlesResponse,
}

/// The service.
pub(super) struct WorkloadApi {
    messages: Phases<WorkloadMessages>,
    /// Whose socket it is.
    identities: ServedIdentities,
    jwt: ServedJwt,
}

/// The service behind the check of the security header, which only this service demands.
pub(super) type GuardedWorkloadApi =
    InterceptedService<SpiffeWorkloadApiServer<WorkloadApi>, fn(Request<()>) -> Result<Request<()>, Status>>;

type Updates<M> = BoxStream<'static, Result<M, Status>>;

impl WorkloadMessages {
    /// What is served of the identities, the first one and those of the others that there are, and of what else there is to verify
    /// others by.
    pub(super) fn new(
        (hint, identity): (&Hint, &WorkloadIdentity),
        other_identities: &[(Hint, Arc<WorkloadIdentity>)],
        trust: Option<&PublishedTrust>,
    ) -> Self {
        let own = identity.bundle.trust_domain();
        let bundle = Bytes::from(identity.bundle.to_der());
        let others: Vec<&SpiffeBundle> = trust.iter().flat_map(|trust| trust.others(own)).collect();
        // a client takes nothing for a mistake, and who has no such authorities has no such SVIDs
        let with_roots = others.iter().filter(|bundle| !bundle.x509_authorities.is_empty());
        let federated: HashMap<String, Bytes> =
            with_roots.map(|bundle| (bundle.trust_domain.id(), roots_of(bundle))).collect();
        let of_own = trust.map(|trust| &trust.own).filter(|bundle| bundle.trust_domain == *own);
        let own_keys = of_own.map_or(&[] as &[JwtAuthority], |bundle| &bundle.jwt_authorities);
        let others_keys = others.iter().map(|bundle| (bundle.trust_domain.id(), jwks_of(&bundle.jwt_authorities)));
        let jwt_bundles = others_keys.chain([(own.id(), jwks_of(own_keys))]).collect();
        Self {
            svid: identity.svid.as_deref().map(|svid| {
                let others = other_identities.iter().filter_map(|(hint, other)| {
                    let svid = other.svid.as_deref()?;
                    Some(svid_item(hint, svid, other.bundle.to_der().into()))
                });
                let svids = std::iter::once(svid_item(hint, svid, bundle.clone())).chain(others).collect();
                X509svidResponse { svids, federated_bundles: federated.clone(), ..X509svidResponse::default() }
            }),
            bundles: X509BundlesResponse {
                crl: Vec::new(),
                bundles: federated.into_iter().chain([(own.id(), bundle)]).collect(),
            },
            jwt_bundles: JwtBundlesResponse { bundles: jwt_bundles },
        }
    }
}

fn svid_item(hint: &Hint, svid: &X509Svid, bundle: Bytes) -> X509svid {
    X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain().to_der().into(),
        x509_svid_key: Bytes::from_owner(Zeroizing::new(svid.key().pkcs8().to_vec())),
        bundle,
        hint: hint.to_string(),
    }
}

fn roots_of(bundle: &SpiffeBundle) -> Bytes {
    bundle.x509_authorities.iter().flat_map(|root| root.der().iter().copied()).collect::<Vec<u8>>().into()
}

/// A plain JWK Set: no `use`, sequence or hint stands in it (Workload API 5.2).
fn jwks_of(keys: &[JwtAuthority]) -> Bytes {
    if keys.is_empty() {
        return Bytes::from_static(br#"{"keys": []}"#);
    }
    let keys: Vec<_> = keys.iter().map(JwtAuthority::jwk).collect();
    json!({ "keys": keys }).to_string().into()
}

impl WorkloadApi {
    pub(super) fn guarded(
        messages: Phases<WorkloadMessages>,
        identities: ServedIdentities,
        jwt: ServedJwt,
    ) -> GuardedWorkloadApi {
        SpiffeWorkloadApiServer::with_interceptor(Self { messages, identities, jwt }, require_security_header)
    }

    /// A stream of what `pick` takes from each state: the first at once, later ones when they differ from the one before.
    /// It ends only with an error.
    fn updates<M>(&self, pick: fn(&WorkloadMessages) -> Result<M, Status>) -> Response<Updates<M>>
    where
        M: Clone + PartialEq + Send + 'static,
    {
        let start = Some((self.messages.subscribe(), None::<M>));
        let updates = stream::unfold(start, move |state| async move {
            let (mut messages, last) = state?;
            loop {
                match messages.next().await.and_then(|current| pick(&current)) {
                    Ok(message) if last.as_ref() == Some(&message) => {}
                    Ok(message) => return Some((Ok(message.clone()), Some((messages, Some(message))))),
                    Err(status) => return Some((Err(status), None)),
                }
            }
        });
        Response::new(updates.boxed())
    }
}

/// SPIFFE Workload Endpoint 3: exactly one `workload.spiffe.io: true`, which a forged request from a browser can't carry.
fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;
    type FetchWITSVIDStream = Updates<WitsvidResponse>;
    type FetchWITBundlesStream = Updates<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(self.updates(|messages| {
            messages.svid.clone().ok_or_else(|| Status::unavailable("the SVID has expired and has no successor yet"))
        }))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(self.updates(|messages| Ok(messages.bundles.clone())))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        self.jwt.fetch(request.into_inner(), &self.identities).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Ok(self.updates(|messages| Ok(messages.jwt_bundles.clone())))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.jwt.validate(request.get_ref()).map(Response::new)
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("fetching WIT-SVIDs is not implemented"))
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("fetching WIT bundles is not implemented"))
    }
}
