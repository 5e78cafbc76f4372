//! Which Services need mutual TLS, followed by every replica, so that either can go on at once.

use std::sync::Arc;

use super::surroundings::Tasks;
use crate::{
    domain::policy::PolicySettings,
    http::istiod_version::IstiodVersionEndpoint,
    k8s::{
        client::Client,
        peer_authentications::follow_peer_authentications,
        policy_watch::{follow_endpoint_slices, follow_namespaces, follow_services},
    },
    runtime::config::{KubernetesConfig, PolicyMembership},
    service::{
        istio_versions::IstioVersions,
        metrics::Metrics,
        policy_publisher::{PolicyAccess, PolicyPublisher},
    },
};

/// Nothing if it is not asked for. Pods are told by who follows them anyway.
pub(super) fn start(
    client: &Client,
    kubernetes: &KubernetesConfig,
    replica: &str,
    metrics: &Arc<Metrics>,
    tasks: &mut Tasks,
) -> Option<PolicyAccess> {
    if !kubernetes.policy {
        return None;
    }
    let settings = PolicySettings {
        istio_namespace: kubernetes.istio_namespace.as_str().into(),
        by_pods: kubernetes.policy_membership == PolicyMembership::Auto,
    };
    let publisher = PolicyPublisher::new(kubernetes.mesh_trust_domain.clone(), replica).with_settings(settings);
    let publisher = Arc::new(publisher);
    let publishing = Arc::clone(&publisher);
    tasks.push(("policy", Box::pin(async move { match publishing.run().await {} })));
    let (enforcement, snapshots, metrics) =
        (Arc::clone(publisher.enforcement()), publisher.follow(), Arc::clone(metrics));
    tasks.push(("policy enforcement", Box::pin(async move { match enforcement.run(snapshots, metrics).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy namespaces", Box::pin(async move { match follow_namespaces(&of, &to).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy Services", Box::pin(async move { match follow_services(&of, &to).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    tasks.push(("policy EndpointSlices", Box::pin(async move { match follow_endpoint_slices(&of, &to).await {} })));
    let (of, to) = (client.clone(), Arc::clone(&publisher));
    let following = async move { match follow_peer_authentications(&of, &to).await {} };
    tasks.push(("policy PeerAuthentications", Box::pin(following)));
    let versions = IstioVersions::new(Arc::clone(&publisher), Arc::new(IstiodVersionEndpoint::new()));
    tasks.push(("versions of istiod", Box::pin(async move { match versions.run().await {} })));
    let gateways = Arc::new(kubernetes.gateway_identities.iter().cloned().collect());
    Some(PolicyAccess { publisher, gateways })
}
