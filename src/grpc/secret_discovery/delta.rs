//! The incremental protocol: each response holds only what has changed for the stream.

use tonic::Status;

use super::{
    Session, check_type_url, log_refusal,
    resources::{SECRET_TYPE_URL, SecretSet, ServedSecret},
    subscription::{Subscription, WILDCARD},
};
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// One `DeltaSecrets` stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    subscription: Subscription,
    /// Whether the first request was seen: only that one can subscribe to everything by naming nothing.
    begun: bool,
    responses: u64,
    node: String,
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn note(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        check_type_url(&request.type_url)?;
        if let Some(node) = request.node {
            self.node = node.id;
        }
        if let Some(error) = &request.error_detail {
            log_refusal(&self.node, error);
        }
        // Unlike in the other protocol, a change of names counts whatever the nonce.
        for name in &request.resource_names_unsubscribe {
            self.subscription.remove(name);
        }
        if !self.begun && request.resource_names_subscribe.is_empty() {
            self.subscription.add(WILDCARD.to_owned());
        }
        for name in request.resource_names_subscribe {
            // Whoever subscribes again may have thrown away what it had.
            self.subscription.forget(&name);
            self.subscription.add(name);
        }
        if !self.begun {
            for (name, version) in request.initial_resource_versions {
                self.subscription.holds(name, version);
            }
        }
        self.begun = true;
        Ok(())
    }

    fn respond(&mut self, secrets: &SecretSet) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let owed = self.subscription.settle(secrets)?;
        if owed.changed.is_empty() && owed.withdrawn.is_empty() {
            return Ok(None);
        }
        self.responses += 1;
        let resource = |(name, secret): (String, &ServedSecret)| Resource {
            version: secret.version.clone(),
            resource: Some(secret.resource.clone()),
            name,
        };
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: secrets.revision().to_string(),
            resources: owed.changed.into_iter().map(resource).collect(),
            type_url: SECRET_TYPE_URL.to_owned(),
            nonce: format!("{:08x}", self.responses),
            removed_resources: owed.withdrawn,
        }))
    }
}
