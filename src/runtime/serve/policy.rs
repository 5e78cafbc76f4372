//! Which Services need mutual TLS, followed by every replica, so that either can go on at once; and what gateways need for it in
//! the cluster, which the active writes.

use std::{collections::BTreeSet, sync::Arc};

use super::surroundings::{PlannedObjects, PlannedProbes, Tasks};
use crate::{
    domain::{
        clock::Clock,
        identity::{SpiffeId, TrustDomain},
        policy::{GatewayChange, PolicySettings},
    },
    http::istiod_version::IstiodVersionEndpoint,
    k8s::{
        client::Client,
        gateway_watch::{
            follow_envoy_backends, follow_envoy_gateway_settings, follow_envoy_proxies, follow_extension_policies,
            follow_gateway_classes, follow_gateways, follow_grpc_routes, follow_http_routes, follow_listener_sets,
            follow_reference_grants, follow_root_config_maps, follow_sds_secrets, follow_security_policies,
            follow_tls_policies,
        },
        peer_authentications::follow_peer_authentications,
        policy_events::ClusterPolicyEvents,
        policy_objects::ClusterPolicyObjects,
        policy_watch::{follow_endpoint_slices, follow_namespaces, follow_services},
    },
    runtime::config::{PolicyConfig, PolicyMembership},
    service::{
        gateway_plans::GatewayPlans,
        istio_versions::IstioVersions,
        metrics::Metrics,
        policy_events::PolicyEvents,
        policy_objects::{PolicyObjects, Uptake},
        policy_publisher::{PodChanges, PolicyAccess, PolicyPublisher},
    },
};

/// A task that calls a function which never ends with a client and something that it tells.
macro_rules! follow {
    ($tasks:ident, $name:literal, $follow:ident, $client:ident, $($told:ident),+) => {
        $tasks.push(($name, {
            let ($($told,)+) = ($(Arc::clone(&$told),)+);
            let client = $client.clone();
            Box::pin(async move { match $follow(&client, $(&*$told),+).await {} })
        }));
    };
}

/// Of what mesh, and how.
pub(super) struct Followed<'a> {
    pub(super) policy: &'a PolicyConfig,
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) istio_namespace: &'a str,
}

/// Follows it. Pods are told by who follows them anyway.
pub(super) fn start(
    client: &Client,
    followed: &Followed<'_>,
    replica: &str,
    (clock, metrics): (&Arc<dyn Clock>, &Arc<Metrics>),
    tasks: &mut Tasks,
) -> (PolicyAccess, Option<PlannedObjects>) {
    let plans = followed.policy.objects.then(|| Arc::new(GatewayPlans::default()));
    let changes = plans.as_ref().map(|_| Arc::new(PodChanges::default()));
    let standalone: BTreeSet<SpiffeId> = followed.policy.standalone_gateway_identities.iter().cloned().collect();
    let publisher =
        publisher(followed, replica).with_plans(plans.clone(), standalone.clone()).with_pod_changes(changes.clone());
    let publisher = Arc::new(publisher);
    let publishing = Arc::clone(&publisher);
    tasks.push(("policy", Box::pin(async move { match publishing.run().await {} })));
    let (enforcement, snapshots) = (Arc::clone(publisher.enforcement()), publisher.follow());
    let (counted, planned) = (Arc::clone(metrics), plans.as_ref().map(|plans| plans.follow()));
    tasks.push((
        "policy enforcement",
        Box::pin(async move { match enforcement.run(snapshots, planned, counted).await {} }),
    ));
    follow!(tasks, "policy namespaces", follow_namespaces, client, publisher);
    follow!(tasks, "policy Services", follow_services, client, publisher);
    follow!(tasks, "policy EndpointSlices", follow_endpoint_slices, client, publisher);
    follow!(tasks, "policy PeerAuthentications", follow_peer_authentications, client, publisher);
    let versions = IstioVersions::new(Arc::clone(&publisher), Arc::new(IstiodVersionEndpoint::new()));
    tasks.push(("versions of istiod", Box::pin(async move { match versions.run().await {} })));
    let objects = plans.zip(changes).map(|(plans, changes)| {
        let (planning, policies) = (Arc::clone(&plans), publisher.follow());
        tasks.push(("gateway plan", Box::pin(async move { match planning.run(policies).await {} })));
        let writer = Arc::new(ClusterPolicyObjects::new(client.clone()));
        let of = followed.trust_domain.clone();
        let (seams, asked) = ((Arc::clone(clock), Arc::clone(metrics)), Arc::clone(&publisher));
        let uptake = Uptake {
            enforcement: Arc::clone(publisher.enforcement()),
            has_ready_pods: Box::new(move |service| asked.has_ready_pods(service)),
        };
        let objects = Arc::new(PolicyObjects::new(of, writer, uptake, seams));
        follow_gateway_api(client, &plans, &objects, tasks);
        let (told, of_client) = (Arc::clone(&plans), client.clone());
        let namespace = followed.policy.envoy_gateway_namespace.clone();
        tasks.push((
            "Envoy Gateway's settings",
            Box::pin(async move {
                match follow_envoy_gateway_settings(&of_client, &namespace, &|change| told.apply(change)).await {}
            }),
        ));
        let (telling, planned) = (Arc::clone(&publisher), plans.follow());
        tasks.push(("reaches of gateways", Box::pin(async move { match telling.reaches().run(planned).await {} })));
        let probes = PlannedProbes { publisher: Arc::clone(&publisher), changes, plans: plans.follow() };
        PlannedObjects { objects, plans: plans.follow(), probes }
    });
    let gateways = Arc::new(followed.policy.gateway_identities.iter().cloned().chain(standalone).collect());
    (PolicyAccess { publisher, gateways }, objects)
}

/// What the active says of it on the objects themselves.
pub(super) fn events(
    client: &Client,
    replica: &str,
    publisher: &PolicyPublisher,
    (clock, metrics): (&Arc<dyn Clock>, &Arc<Metrics>),
) -> PolicyEvents {
    let log = Arc::new(ClusterPolicyEvents::new(client.clone(), replica.to_owned(), Arc::clone(clock)));
    PolicyEvents::new(Arc::clone(publisher.enforcement()), log, Arc::clone(clock), Arc::clone(metrics))
}

fn publisher(followed: &Followed<'_>, replica: &str) -> PolicyPublisher {
    let settings = PolicySettings {
        istio_namespace: followed.istio_namespace.into(),
        envoy_gateway_namespace: followed.policy.envoy_gateway_namespace.as_str().into(),
        by_pods: followed.policy.membership == PolicyMembership::Auto,
    };
    PolicyPublisher::new(followed.trust_domain.clone(), replica).with_settings(settings)
}

fn follow_gateway_api(client: &Client, plans: &Arc<GatewayPlans>, objects: &Arc<PolicyObjects>, tasks: &mut Tasks) {
    let told = Arc::clone(plans);
    let tell: Arc<dyn Fn(GatewayChange) + Send + Sync> = Arc::new(move |change| told.apply(change));
    follow!(tasks, "GatewayClasses", follow_gateway_classes, client, tell);
    follow!(tasks, "Gateways", follow_gateways, client, tell);
    follow!(tasks, "ListenerSets", follow_listener_sets, client, tell);
    follow!(tasks, "HTTPRoutes", follow_http_routes, client, tell);
    follow!(tasks, "GRPCRoutes", follow_grpc_routes, client, tell);
    follow!(tasks, "ReferenceGrants", follow_reference_grants, client, tell);
    follow!(tasks, "EnvoyProxies", follow_envoy_proxies, client, tell);
    follow!(tasks, "Envoy Gateway's Backends", follow_envoy_backends, client, tell);
    follow!(tasks, "SecurityPolicies", follow_security_policies, client, tell);
    follow!(tasks, "EnvoyExtensionPolicies", follow_extension_policies, client, tell);
    follow!(tasks, "SDS Secrets", follow_sds_secrets, client, tell);
    follow!(tasks, "BackendTLSPolicies", follow_tls_policies, client, objects, tell);
    follow!(tasks, "root ConfigMaps", follow_root_config_maps, client, objects);
}
