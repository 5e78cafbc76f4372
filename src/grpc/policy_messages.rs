//! Policies as messages.

mod views;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

pub(super) use self::views::{preview_view, update_view};
use crate::{
    domain::{
        identity::TrustDomain,
        policy::{
            self, Enforcement, GatewayPlan, GatewayState, MtlsMode, NamespacePlan, NamespacePolicy, ObjectName,
            PolicyChanges, PolicySnapshot, Reach, ServicePolicy,
        },
    },
    proto::countersign::policy::v1::{
        Condition, Gateway, Mode, Namespace, Port, PreviewResponse, Service, ServiceName, WatchResponse,
    },
    service::{
        policy_enforcement::Judged,
        policy_publisher::{PolicyPreview, PolicyPublisher},
    },
};

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Is told of what it must do.
    Gateway,
    /// Is told of everything.
    Operator,
}

/// What a reader knows, or is to know.
#[derive(Clone)]
pub(super) struct Told {
    /// The policies.
    pub(super) snapshot: Arc<PolicySnapshot>,
    /// What else there is to say of them: for the operator alone.
    pub(super) beside: Beside,
    /// The Services that the reader is told of.
    pub(super) reach: Reach,
}

/// What is known of Services besides their policies.
#[derive(Clone, Default)]
pub(super) struct Beside {
    /// Whether the policies are in force.
    pub(super) enforcement: Arc<Enforcement>,
    /// What stands between gateways and them; `None` where no objects are written for gateways, or nothing is known yet.
    pub(super) plan: Option<Arc<GatewayPlan>>,
}

impl Beside {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.enforcement, &other.enforcement)
            && match (&self.plan, &other.plan) {
                (Some(now), Some(then)) => Arc::ptr_eq(now, then),
                (now, then) => now.is_none() && then.is_none(),
            }
    }

    fn conditions(&self, service: &ObjectName) -> impl Iterator<Item = &policy::Condition> {
        let planned = self.plan.as_ref().and_then(|plan| plan.service(&service.namespace, &service.name));
        planned.into_iter().flat_map(|planned| planned.conditions.iter()).chain(self.enforcement.get(service))
    }

    fn gateways(&self) -> impl Iterator<Item = &Arc<GatewayState>> {
        self.plan.iter().flat_map(|plan| plan.gateways.values())
    }

    fn gateway(&self, gateway: &ObjectName) -> Option<&Arc<GatewayState>> {
        self.plan.as_ref()?.gateways.get(gateway)
    }

    /// Gateways that are new or changed since `before`, and those that are gone.
    fn gateways_since(&self, before: Option<&Self>) -> (Vec<Arc<GatewayState>>, Vec<ObjectName>) {
        let known = |gateway: &ObjectName| before.and_then(|before| before.gateway(gateway));
        let changed = self.gateways().filter(|state| known(&state.gateway) != Some(*state)).cloned().collect();
        let were = before.into_iter().flat_map(Self::gateways).map(|state| &state.gateway);
        (changed, were.filter(|gateway| self.gateway(gateway).is_none()).cloned().collect())
    }
}

impl Told {
    /// Policies alone, and all of them.
    pub(super) fn of(snapshot: Arc<PolicySnapshot>) -> Self {
        Self { snapshot, beside: Beside::default(), reach: Reach::All }
    }

    /// All policies, with what was found of these very ones.
    pub(super) fn judged(Judged { snapshot, plan, enforcement }: Judged) -> Self {
        Self { snapshot, beside: Beside { enforcement, plan }, reach: Reach::All }
    }

    /// As [`PolicyChanges`], and with the Services of which anything else that a reader is told has changed.
    fn changes_since(&self, before: &Self) -> PolicyChanges {
        let mut changes = self.snapshot.changes_since(&before.snapshot);
        let same_reach = match (&self.reach, &before.reach) {
            (Reach::Only(now), Reach::Only(then)) => Arc::ptr_eq(now, then),
            (now, then) => now == then,
        };
        if same_reach && self.beside.is(&before.beside) {
            return changes;
        }
        let named: BTreeSet<ObjectName> = changes.services.iter().map(|policy| policy.service.clone()).collect();
        let is_other = |policy: &&Arc<ServicePolicy>| {
            let service = &policy.service;
            self.reach.covers(service) != before.reach.covers(service)
                || self.beside.conditions(service).ne(before.beside.conditions(service))
        };
        let others = self.snapshot.services().filter(is_other).filter(|policy| !named.contains(&policy.service));
        changes.services.extend(others.cloned());
        changes
    }

    /// What it is called by who has read it. Where not everything was told it is not known again: what is told then differs.
    fn version(&self, publisher: &PolicyPublisher) -> String {
        let version = publisher.version(&self.snapshot);
        if self.reach == Reach::All { version } else { version + "/part" }
    }
}

/// Part of what a reader is told, rendered when it is sent.
#[derive(Default)]
pub(super) struct Part {
    reset: bool,
    version: String,
    services: Vec<Arc<ServicePolicy>>,
    services_gone: Vec<ObjectName>,
    services_deleted: Vec<ObjectName>,
    namespaces: Vec<Arc<NamespacePolicy>>,
    namespaces_gone: Vec<Arc<str>>,
    gateways: Vec<Arc<GatewayState>>,
    gateways_gone: Vec<ObjectName>,
    beside: Beside,
}

impl Part {
    /// Whether nobody need hear of it, if it is not the first one.
    fn is_empty(&self) -> bool {
        let Self { services, services_gone, namespaces, namespaces_gone, gateways, gateways_gone, .. } = self;
        services.is_empty()
            && services_gone.is_empty()
            && namespaces.is_empty()
            && namespaces_gone.is_empty()
            && gateways.is_empty()
            && gateways_gone.is_empty()
    }

    /// The message.
    pub(super) fn render(self, trust_domain: &TrustDomain) -> WatchResponse {
        let services = self.services.iter().map(|policy| service(policy, trust_domain, &self.beside));
        WatchResponse {
            reset: self.reset,
            version: self.version,
            services: services.collect(),
            services_gone: self.services_gone.iter().map(service_name).collect(),
            namespaces: self.namespaces.iter().map(|policy| namespace(policy)).collect(),
            namespaces_gone: self.namespaces_gone.iter().map(|name| name.to_string()).collect(),
            gateways: self.gateways.iter().map(|state| gateway(state, trust_domain)).collect(),
            gateways_gone: self.gateways_gone.iter().map(service_name).collect(),
            services_deleted: self.services_deleted.iter().map(service_name).collect(),
        }
    }
}

/// Services of one message: far below what a client takes.
const CHUNK: usize = 250;

/// What leads a reader of `before`, or one of whom it is known only which Services he was told of, to `newest`. Empty if nothing of
/// it concerns the reader.
pub(super) fn update(
    publisher: &PolicyPublisher,
    reader: Reader,
    before: Result<&Told, &[ObjectName]>,
    newest: &Told,
) -> VecDeque<Part> {
    let mut changes = before.map_or_else(|known| all_of(&newest.snapshot, known), |old| newest.changes_since(old));
    let is_told = |policy: &ServicePolicy| {
        reader == Reader::Operator || policy.mode == MtlsMode::Required && newest.reach.covers(&policy.service)
    };
    let (told, others): (Vec<_>, Vec<_>) = changes.services.into_iter().partition(|policy| is_told(policy));
    let before = before.ok();
    // only what the reader may have been told of
    let was_told = |service: &ObjectName| before.is_some_and(|before| before.reach.covers(service));
    let others = others.iter().map(|policy| policy.service.clone());
    let services_gone: Vec<_> =
        changes.services_gone.into_iter().chain(others).filter(|service| was_told(service)).collect();
    if before.is_some() {
        changes.services_deleted.retain(was_told);
    }
    let is_operator = reader == Reader::Operator;
    let namespaces = if is_operator { changes.namespaces } else { Vec::new() };
    let namespaces_gone = if is_operator { changes.namespaces_gone } else { Vec::new() };
    let (gateways, gateways_gone) = newest.beside.gateways_since(before.map(|before| &before.beside));
    let first = Part {
        reset: before.is_none(),
        services_gone,
        services_deleted: changes.services_deleted,
        namespaces,
        namespaces_gone,
        gateways,
        gateways_gone,
        ..Part::default()
    };
    if before.is_some() && told.is_empty() && first.is_empty() {
        return VecDeque::new();
    }
    let part = |services: &[Arc<ServicePolicy>]| Part {
        services: services.to_vec(),
        beside: newest.beside.clone(),
        ..Part::default()
    };
    let mut parts: VecDeque<Part> = told.chunks(CHUNK).map(part).collect();
    if parts.is_empty() {
        parts.push_back(Part::default());
    }
    if let Some(front) = parts.front_mut() {
        let Part { services, beside, .. } = std::mem::take(front);
        *front = Part { services, beside, ..first };
    }
    if let Some(last) = parts.back_mut() {
        last.version = newest.version(publisher);
    }
    parts
}

fn all_of(newest: &PolicySnapshot, known: &[ObjectName]) -> PolicyChanges {
    PolicyChanges {
        services_deleted: known.iter().filter(|service| newest.lacks(service)).cloned().collect(),
        namespaces: newest.namespaces.values().cloned().collect(),
        services: newest.services().cloned().collect(),
        ..PolicyChanges::default()
    }
}

/// What another label would change.
pub(super) fn preview(preview: &PolicyPreview, trust_domain: &TrustDomain) -> PreviewResponse {
    let [plan_now, plan_then] = &preview.plans;
    let services = |of: &NamespacePolicy, plan: &Option<Arc<NamespacePlan>>| {
        let beside = Beside { plan: plan.as_ref().map(plan_of_one), ..Beside::default() };
        of.services.values().map(|policy| service(policy, trust_domain, &beside)).collect()
    };
    let objects = |plan: &Option<Arc<NamespacePlan>>| {
        plan.iter().flat_map(|plan| plan.objects()).map(|object| object.to_string()).collect()
    };
    PreviewResponse {
        now: Some(namespace(&preview.now)),
        services_now: services(&preview.now, plan_now),
        then: Some(namespace(&preview.then)),
        services_then: services(&preview.then, plan_then),
        objects_now: objects(plan_now),
        objects_then: objects(plan_then),
    }
}

fn plan_of_one(namespace: &Arc<NamespacePlan>) -> Arc<GatewayPlan> {
    let namespaces = [(Arc::clone(&namespace.name), Arc::clone(namespace))].into();
    Arc::new(GatewayPlan { revision: 0, namespaces, gateways: BTreeMap::new(), must_withdraw: false })
}

fn service(policy: &ServicePolicy, trust_domain: &TrustDomain, beside: &Beside) -> Service {
    let ids = policy.accounts.iter().filter_map(|account| account.spiffe_id(trust_domain).ok());
    Service {
        service: Some(service_name(&policy.service)),
        mode: mode(policy.mode).into(),
        identities: ids.map(|id| id.to_string()).collect(),
        ports: policy
            .ports
            .iter()
            .map(|port| Port {
                number: port.facts.number.into(),
                name: port.facts.name.to_string(),
                class: port.class.to_string(),
                alpn: port.class.alpn().map(str::to_owned).into(),
                peer_mode: port.peers.to_string(),
            })
            .collect(),
        conditions: policy.conditions.iter().chain(beside.conditions(&policy.service)).map(condition).collect(),
    }
}

fn namespace(policy: &NamespacePolicy) -> Namespace {
    Namespace {
        name: policy.name.to_string(),
        mode: mode(policy.membership.mode).into(),
        revision: policy.membership.revision.as_deref().unwrap_or_default().to_owned(),
        conditions: policy.membership.conditions.iter().map(condition).collect(),
    }
}

fn gateway(state: &GatewayState, trust_domain: &TrustDomain) -> Gateway {
    let ids = state.carriers.keys().filter_map(|account| account.spiffe_id(trust_domain).ok());
    Gateway {
        gateway: Some(service_name(&state.gateway)),
        ready: state.is_ready,
        identities: ids.map(|id| id.to_string()).collect(),
        conditions: state.conditions.iter().map(condition).collect(),
    }
}

pub(super) fn service_name(object: &ObjectName) -> ServiceName {
    ServiceName { namespace: object.namespace.to_string(), name: object.name.to_string() }
}

const fn mode(mode: MtlsMode) -> Mode {
    match mode {
        MtlsMode::Required => Mode::MutualTls,
        MtlsMode::NotManaged => Mode::NotManaged,
    }
}

fn condition(condition: &policy::Condition) -> Condition {
    Condition {
        reason: condition.reason().to_owned(),
        severity: condition.severity().as_str().to_owned(),
        message: condition.to_string(),
    }
}

#[cfg(test)]
mod tests;
