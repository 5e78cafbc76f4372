//! What there is to say of each Gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    AttachedPolicies, BackendTlsApi, Carries, DataPlanePod, EnvoyBackendFacts, GatewayState, Known, Outlook, Standing,
};
use crate::domain::{
    identity::ServiceAccount,
    policy::{Condition, GatewayCondition, MtlsMode, ObjectName, PolicySnapshot, Upstream},
};

/// What tells whom Gateways speak TLS to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upstreams<'a> {
    pub(super) backends: &'a Known<ObjectName, EnvoyBackendFacts>,
    pub(super) attached: &'a AttachedPolicies,
    pub(super) policies: &'a PolicySnapshot,
}

/// Of all Gateways, those of `before` where nothing differs.
pub(super) fn states(
    outlook: Outlook<'_>,
    upstreams: Upstreams<'_>,
    pods: &Known<ObjectName, DataPlanePod>,
    before: &BTreeMap<ObjectName, Arc<GatewayState>>,
) -> BTreeMap<ObjectName, Arc<GatewayState>> {
    let outside = upstreams.outside(outlook);
    let (mut of_gateways, mut of_classes): (BTreeMap<_, Vec<_>>, BTreeMap<_, Vec<_>>) = Default::default();
    pods.all().for_each(|pod| match &pod.carries {
        Carries::Gateway(gateway) => of_gateways.entry(gateway).or_default().push(pod),
        Carries::Class(class) => of_classes.entry(class).or_default().push(pod),
    });
    let states = outlook.topology.standings.iter().map(|(gateway, standing)| {
        let facts = outlook.topology.gateways.get(gateway);
        let class = facts.and_then(|facts| of_classes.get(&facts.class));
        let pods: Vec<&DataPlanePod> = of_gateways.get(gateway).into_iter().chain(class).flatten().copied().collect();
        let uid = facts.map_or("", |facts| &facts.uid);
        let state = state((gateway, uid), standing, outlook.api, outside.get(gateway), &pods);
        let same = before.get(gateway).filter(|before| ***before == state);
        (gateway.clone(), same.map_or_else(|| Arc::new(state), Arc::clone))
    });
    states.collect()
}

fn state(
    (gateway, uid): (&ObjectName, &str),
    standing: &Standing,
    api: BackendTlsApi,
    outside: Option<&BTreeSet<&Upstream>>,
    pods: &[&DataPlanePod],
) -> GatewayState {
    let mut conditions = standing.conditions.clone();
    if api == BackendTlsApi::TooOld && standing.ability.is_some() {
        conditions.push(GatewayCondition::GatewayApiTooOld.into());
    }
    if let Some(outside) = outside.filter(|_| standing.is_ready) {
        let upstreams = || outside.iter().copied().cloned().collect();
        conditions.push(GatewayCondition::ClientCertificateShared { upstreams: upstreams() }.into());
        if standing.offers_istio_alone {
            conditions.push(GatewayCondition::AlpnNoOverlapRisk { upstreams: upstreams() }.into());
        }
    }
    conditions.extend(injected(pods).filter(|_| standing.ability.is_some()).map(Condition::from));
    let mut carriers: BTreeMap<ServiceAccount, BTreeSet<ObjectName>> = BTreeMap::new();
    for pod in pods {
        carriers.entry(pod.account.clone()).or_default().insert(pod.pod.clone());
    }
    GatewayState {
        gateway: gateway.clone(),
        uid: uid.into(),
        is_ready: standing.is_ready,
        carriers,
        conditions: conditions.into(),
    }
}

fn injected(pods: &[&DataPlanePod]) -> Option<GatewayCondition> {
    let mut injected = pods.iter().filter(|pod| pod.is_injected);
    let pod = injected.next()?.pod.clone();
    Some(GatewayCondition::GatewayPodInjected { pod, pods: injected.count() + 1 })
}

impl<'a> Upstreams<'a> {
    /// To whom each Gateway speaks TLS besides Services of the mesh, showing its client certificate if it is asked for one.
    fn outside(self, outlook: Outlook<'a>) -> BTreeMap<&'a ObjectName, BTreeSet<&'a Upstream>> {
        let mut outside: BTreeMap<&ObjectName, BTreeSet<&Upstream>> = BTreeMap::new();
        let foreign = outlook.tls_policies.foreign_upstreams();
        let services = foreign.filter(|upstream| matches!(upstream, Upstream::Service(_)));
        for upstream in
            services.chain(outlook.routes.envoy_backends()).filter(|upstream| self.is_outside(outlook, upstream))
        {
            for (kind, route) in outlook.leading_to(upstream) {
                for (gateway, _) in outlook.topology.attached(kind, route) {
                    outside.entry(gateway).or_default().insert(upstream);
                }
            }
        }
        for policy in self.attached.all() {
            let asked: Vec<&Upstream> =
                policy.upstreams.iter().filter(|upstream| self.is_outside(outlook, upstream)).collect();
            if !asked.is_empty() {
                outlook
                    .following(policy)
                    .into_iter()
                    .for_each(|gateway| outside.entry(gateway).or_default().extend(&asked));
            }
        }
        for (gateway, standing) in outlook.topology.standings {
            for upstream in standing.telemetry.iter().filter(|upstream| self.is_outside(outlook, upstream)) {
                outside.entry(gateway).or_default().insert(upstream);
            }
        }
        outside
    }

    fn is_outside(self, outlook: Outlook<'_>, upstream: &Upstream) -> bool {
        let has_policy = || outlook.tls_policies.foreign(upstream).next().is_some();
        match upstream {
            Upstream::Service(service) => {
                let policy = self.policies.service(&service.namespace, &service.name);
                has_policy() && policy.is_none_or(|policy| policy.mode != MtlsMode::Required)
            }
            Upstream::EnvoyBackend(object) => self
                .backends
                .get(object)
                .is_some_and(|backend| !backend.has_client_certificate && (backend.is_tls || has_policy())),
        }
    }
}
