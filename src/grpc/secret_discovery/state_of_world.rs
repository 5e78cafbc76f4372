//! The state-of-the-world protocol: each response holds every secret that the stream asked for.

use tonic::Status;

use super::{
    Session, check_type_url, log_refusal,
    resources::{SECRET_TYPE_URL, SecretSet},
    subscription::{Subscription, WILDCARD},
};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

/// One `StreamSecrets` stream.
#[derive(Debug, Default)]
pub(super) struct StateOfWorld {
    subscription: Subscription,
    /// Whether a list of names was ever not empty: from then on an empty one unsubscribes.
    named: bool,
    /// Responses sent; the last one's number is its nonce.
    responses: u64,
    node: String,
}

impl StateOfWorld {
    fn nonce(&self) -> String {
        format!("{:08x}", self.responses)
    }
}

impl Session for StateOfWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn note(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type_url(&request.type_url)?;
        if let Some(node) = request.node {
            self.node = node.id;
        }
        if self.responses > 0 && request.response_nonce != self.nonce() {
            // It answers a response that is not the last; the client will answer that one too.
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            log_refusal(&self.node, error);
        }
        self.named |= !request.resource_names.is_empty();
        let names = if self.named { request.resource_names } else { vec![WILDCARD.to_owned()] };
        self.subscription.replace(names);
        Ok(())
    }

    fn respond(&mut self, secrets: &SecretSet) -> Result<Option<DiscoveryResponse>, Status> {
        if self.subscription.settle(secrets)?.changed.is_empty() {
            return Ok(None);
        }
        self.responses += 1;
        Ok(Some(DiscoveryResponse {
            version_info: secrets.revision().to_string(),
            resources: self.subscription.held(secrets).map(|secret| secret.resource.clone()).collect(),
            type_url: SECRET_TYPE_URL.to_owned(),
            nonce: self.nonce(),
        }))
    }
}
