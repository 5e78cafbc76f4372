//! Orders about other trust domains, and how it stands with those, as they are sent between replicas, and to and from the command
//! line.

use tonic::{Response, Status};

use super::{reasons::optional_reason, status::status_of_order};
use crate::{
    domain::{
        attestation::Reason,
        bundle::{BundleEndpoint, BundleSource, EndpointProfile, Relationship, SpiffeBundle},
        clock::Timestamp,
        identity::TrustDomain,
    },
    proto::countersign::v1::{
        self as wire, FederationAnswer, FederationRelationship, ListFederations, NewFederation, federation_order::Order,
    },
    service::{
        federation::{FederatedDomain, FederationError, FederationOrder, NewPartner},
        signing_state::PartnersError,
    },
};

/// An order as it is sent.
pub(super) fn wire_order(order: &FederationOrder) -> wire::FederationOrder {
    let (sent, reason) = match order {
        FederationOrder::Create(new) => {
            let bundle = new.bundle.as_ref().map(SpiffeBundle::to_json).unwrap_or_default();
            let relationship = Some(wire_endpoint(&new.trust_domain, &new.endpoint));
            (Order::Create(NewFederation { relationship, bundle: bundle.into_bytes().into() }), new.reason.as_ref())
        }
        FederationOrder::Delete { trust_domain, reason } => (Order::Delete(trust_domain.to_string()), reason.as_ref()),
        FederationOrder::Refresh(trust_domain) => (Order::Refresh(trust_domain.to_string()), None),
        FederationOrder::List => (Order::List(ListFederations {}), None),
    };
    wire::FederationOrder { order: Some(sent), reason: reason.map(Reason::to_string).unwrap_or_default() }
}

/// An order as it was sent.
pub(super) fn order_of(order: wire::FederationOrder) -> Result<FederationOrder, Status> {
    let wire::FederationOrder { order, reason } = order;
    let reason = optional_reason(&reason)?;
    Ok(match order.ok_or_else(|| Status::invalid_argument("order is missing"))? {
        Order::Create(NewFederation { relationship, bundle }) => {
            let sent = relationship.unwrap_or_default();
            let Relationship { trust_domain, source } = relationship_of(sent).map_err(Status::invalid_argument)?;
            let BundleSource::Endpoint(endpoint) = source else {
                return Err(Status::invalid_argument("bundle_file: only a configuration can have one"));
            };
            let bundle = bundle_of(&trust_domain, &bundle).map_err(Status::invalid_argument)?;
            FederationOrder::Create(Box::new(NewPartner { trust_domain, endpoint, bundle, reason }))
        }
        Order::Delete(name) => FederationOrder::Delete { trust_domain: trust_domain_of(&name)?, reason },
        Order::Refresh(name) => FederationOrder::Refresh(trust_domain_of(&name)?),
        Order::List(ListFederations {}) => FederationOrder::List,
    })
}

/// The answer as it is sent.
pub(super) fn answer_of(
    result: Result<Vec<FederatedDomain>, FederationError>,
) -> Result<Response<FederationAnswer>, Status> {
    let domains = result.map_err(|error| status_of(&error))?.iter().map(wire_domain).collect();
    Ok(Response::new(FederationAnswer { domains }))
}

/// The answer as it was sent.
pub(super) fn domains_of(answer: FederationAnswer) -> Result<Vec<FederatedDomain>, Status> {
    answer.domains.into_iter().map(|domain| domain_of(domain).map_err(Status::invalid_argument)).collect()
}

fn wire_relationship(Relationship { trust_domain, source }: &Relationship) -> FederationRelationship {
    match source {
        BundleSource::Endpoint(endpoint) => wire_endpoint(trust_domain, endpoint),
        BundleSource::File(path) => FederationRelationship {
            trust_domain: trust_domain.to_string(),
            bundle_file: path.display().to_string(),
            ..FederationRelationship::default()
        },
    }
}

fn wire_endpoint(
    trust_domain: &TrustDomain,
    BundleEndpoint { url, profile }: &BundleEndpoint,
) -> FederationRelationship {
    FederationRelationship {
        trust_domain: trust_domain.to_string(),
        url: url.to_string(),
        profile: profile.name().to_owned(),
        endpoint_spiffe_id: profile.endpoint_id().map(ToString::to_string).unwrap_or_default(),
        bundle_file: String::new(),
    }
}

fn relationship_of(sent: FederationRelationship) -> Result<Relationship, String> {
    let FederationRelationship { trust_domain, url, profile, endpoint_spiffe_id: id, bundle_file } = sent;
    let trust_domain = trust_domain.parse().map_err(|error| format!("trust_domain: {error}"))?;
    if !bundle_file.is_empty() {
        return Ok(Relationship { trust_domain, source: BundleSource::File(bundle_file.into()) });
    }
    let id = (!id.is_empty()).then(|| id.parse()).transpose();
    let id = id.map_err(|error| format!("endpoint_spiffe_id: {error}"))?;
    let endpoint = BundleEndpoint {
        url: url.parse().map_err(|error| format!("url: {error}"))?,
        profile: EndpointProfile::of(&profile, id).map_err(|error| format!("profile: {error}"))?,
    };
    Ok(Relationship { trust_domain, source: BundleSource::Endpoint(endpoint) })
}

fn trust_domain_of(name: &str) -> Result<TrustDomain, Status> {
    name.parse().map_err(|error| Status::invalid_argument(format!("trust domain: {error}")))
}

fn bundle_of(trust_domain: &TrustDomain, document: &[u8]) -> Result<Option<SpiffeBundle>, String> {
    if document.is_empty() {
        return Ok(None);
    }
    let bundle = SpiffeBundle::from_json(trust_domain.clone(), document);
    bundle.map(Some).map_err(|error| format!("bundle: {error}"))
}

fn wire_domain(domain: &FederatedDomain) -> wire::FederatedDomain {
    let document = domain.bundle.as_ref().map(SpiffeBundle::to_json).unwrap_or_default();
    wire::FederatedDomain {
        relationship: Some(wire_relationship(&domain.relationship)),
        configured: domain.is_configured,
        bundle: document.into_bytes().into(),
        fetched_at: domain.fetched_at.map_or(0, Timestamp::seconds),
        trouble: domain.trouble.clone().unwrap_or_default(),
    }
}

fn domain_of(sent: wire::FederatedDomain) -> Result<FederatedDomain, String> {
    let wire::FederatedDomain { relationship, configured, bundle, fetched_at, trouble } = sent;
    let relationship = relationship_of(relationship.unwrap_or_default())?;
    Ok(FederatedDomain {
        is_configured: configured,
        bundle: bundle_of(&relationship.trust_domain, &bundle)?,
        fetched_at: (fetched_at != 0).then(|| Timestamp::from_seconds(fetched_at)),
        trouble: (!trouble.is_empty()).then_some(trouble),
        relationship,
    })
}

fn status_of(error: &FederationError) -> Status {
    let text = error.to_string();
    match error {
        FederationError::Order(error) => status_of_order(error),
        FederationError::Own(_) | FederationError::NoBundle(_) | FederationError::Configured(_) => {
            Status::invalid_argument(text)
        }
        FederationError::Unknown(_) => Status::not_found(text),
        FederationError::NotFetched { .. } => Status::aborted(text),
        FederationError::Partners(PartnersError::TooLarge { .. } | PartnersError::Full { .. }) => {
            Status::resource_exhausted(text)
        }
        FederationError::Partners(PartnersError::State(_)) => Status::data_loss(text),
    }
}
