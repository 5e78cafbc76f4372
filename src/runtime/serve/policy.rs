//! Which Services need mutual TLS, followed by every replica, so that either can go on at once.

use std::sync::Arc;

use super::surroundings::Tasks;
use crate::{
    k8s::{
        client::Client,
        policy_watch::{follow_endpoint_slices, follow_namespaces, follow_services},
    },
    runtime::config::KubernetesConfig,
    service::policy_publisher::{PolicyAccess, PolicyPublisher},
};

/// Nothing if it is not asked for. Pods are told by who follows them anyway.
pub(super) fn start(
    client: &Client,
    kubernetes: &KubernetesConfig,
    replica: &str,
    tasks: &mut Tasks,
) -> Option<PolicyAccess> {
    if !kubernetes.policy {
        return None;
    }
    let publisher = Arc::new(PolicyPublisher::new(kubernetes.mesh_trust_domain.clone(), replica));
    let publishing = Arc::clone(&publisher);
    tasks.push(("policy", Box::pin(async move { match publishing.run().await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy namespaces", Box::pin(async move { match follow_namespaces(&of, &to).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy Services", Box::pin(async move { match follow_services(&of, &to).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy EndpointSlices", Box::pin(async move { match follow_endpoint_slices(&of, &to).await {} })));
    let gateways = Arc::new(kubernetes.gateway_identities.iter().cloned().collect());
    Some(PolicyAccess { publisher, gateways })
}
