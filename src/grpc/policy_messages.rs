//! Policies as messages, and messages as what is shown of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

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
        policy_view::{
            ConditionView, GatewayView, NamespaceListing, NamespacePreview, NamespaceView, PolicyUpdate, PortView,
            ServiceView,
        },
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

/// What was said, to be shown.
pub(super) fn update_view(message: WatchResponse) -> PolicyUpdate {
    PolicyUpdate {
        reset: message.reset,
        version: message.version,
        namespaces: message.namespaces.into_iter().map(namespace_view).collect(),
        namespaces_gone: message.namespaces_gone,
        services: message.services.into_iter().map(service_view).collect(),
        services_gone: message.services_gone.iter().map(path_of).collect(),
        services_deleted: message.services_deleted.iter().map(path_of).collect(),
        gateways: message.gateways.into_iter().map(gateway_view).collect(),
        gateways_gone: message.gateways_gone.iter().map(path_of).collect(),
    }
}

fn path_of(object: &ServiceName) -> String {
    format!("{}/{}", object.namespace, object.name)
}

fn gateway_view(message: Gateway) -> GatewayView {
    let ServiceName { namespace, name } = message.gateway.unwrap_or_default();
    GatewayView {
        namespace,
        name,
        ready: message.ready,
        identities: message.identities,
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

/// As it is, and as it would be.
pub(super) fn preview_view(message: PreviewResponse) -> (NamespacePreview, NamespacePreview) {
    let preview = |namespace: Option<Namespace>, services: Vec<Service>, objects| {
        let services = services.into_iter().map(service_view).collect();
        let listing = NamespaceListing { namespace: namespace_view(namespace.unwrap_or_default()), services };
        NamespacePreview { listing, objects }
    };
    let now = preview(message.now, message.services_now, message.objects_now);
    (now, preview(message.then, message.services_then, message.objects_then))
}

fn namespace_view(message: Namespace) -> NamespaceView {
    NamespaceView {
        mode: mode_text(message.mode()),
        name: message.name,
        revision: message.revision,
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

fn service_view(message: Service) -> ServiceView {
    let mode = mode_text(message.mode());
    let ServiceName { namespace, name } = message.service.unwrap_or_default();
    let port = |port: Port| {
        let Port { number, name, class, alpn, peer_mode } = port;
        PortView { number, name, class, alpn, peer_mode }
    };
    ServiceView {
        namespace,
        name,
        mode,
        identities: message.identities,
        ports: message.ports.into_iter().map(port).collect(),
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

fn condition_view(message: Condition) -> ConditionView {
    ConditionView { reason: message.reason, severity: message.severity, message: message.message }
}

fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::MutualTls => MtlsMode::Required.as_str(),
        Mode::NotManaged => MtlsMode::NotManaged.as_str(),
        Mode::Unspecified => "unknown",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{
        Backing, Change, ClusterChange, GatewayCondition, Labels, MeshLabels, NamespaceFacts, NamespacePlan,
        PolicyIndex, ServiceFacts, ServicePlan,
    };

    fn service_facts(number: usize, opt_out: Option<&str>) -> ServiceFacts {
        ServiceFacts {
            object: ObjectName::new("n", &format!("s{number:04}")),
            uid: number.to_string().into(),
            created: 0,
            backing: Backing::Slices,
            ports: [].into(),
            opt_out: opt_out.map(Into::into),
            tag: None,
        }
    }

    fn index(services: usize) -> PolicyIndex {
        let mut index = PolicyIndex::default();
        let labels = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
        let namespace = NamespaceFacts { name: "n".into(), labels, all_labels: Labels::default() };
        index.apply(ClusterChange::Namespaces(Change::Reset(vec![namespace])));
        let all = (0..services).map(|number| service_facts(number, None)).collect();
        index.apply(ClusterChange::Services(Change::Reset(all)));
        index.apply(ClusterChange::Pods(Change::Reset(Vec::new())));
        index.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        index
    }

    fn told(index: &mut PolicyIndex) -> Told {
        Told::of(index.snapshot().unwrap())
    }

    fn update(publisher: &PolicyPublisher, reader: Reader, before: Option<&Told>, newest: &Told) -> Vec<WatchResponse> {
        let parts = super::update(publisher, reader, before.ok_or(&[]), newest);
        parts.into_iter().map(|part| part.render(publisher.trust_domain())).collect()
    }

    fn publisher() -> PolicyPublisher {
        PolicyPublisher::new("cluster.local".parse().unwrap(), "r")
    }

    #[test]
    fn a_full_state_comes_in_parts_of_which_the_last_has_the_version() {
        let newest = told(&mut index(600));
        let messages = update(&publisher(), Reader::Gateway, None, &newest);
        let parts: Vec<_> =
            messages.iter().map(|part| (part.reset, part.services.len(), part.version.as_str())).collect();
        assert_eq!(parts, [(true, 250, ""), (false, 250, ""), (false, 100, "r/1")]);
        let nothing = told(&mut index(0));
        let messages = update(&publisher(), Reader::Gateway, None, &nothing);
        assert_eq!((messages.len(), messages[0].reset, messages[0].version.as_str()), (1, true, "r/1"));
    }

    #[test]
    fn a_gateway_hears_of_a_service_that_is_taken_out_as_gone() {
        let mut index = index(2);
        let before = told(&mut index);
        index.apply(ClusterChange::Services(Change::Put(service_facts(1, Some("disabled")))));
        let newest = told(&mut index);
        let messages = update(&publisher(), Reader::Gateway, Some(&before), &newest);
        assert_eq!(messages.len(), 1);
        assert_eq!((messages[0].services.len(), messages[0].services_gone[0].name.as_str()), (0, "s0001"));
        assert!(messages[0].services_deleted.is_empty());
        let messages = update(&publisher(), Reader::Operator, Some(&before), &newest);
        assert_eq!(messages[0].services[0].mode(), Mode::NotManaged);
        assert!(messages[0].services_gone.is_empty());
        let messages = update(&publisher(), Reader::Gateway, None, &newest);
        assert_eq!(messages[0].services.len(), 1);
        assert!(messages[0].services_gone.is_empty());
    }

    #[test]
    fn a_gateway_hears_which_services_do_not_exist_any_more() {
        let mut index = index(2);
        let before = told(&mut index);
        index.apply(ClusterChange::Services(Change::Gone(service_facts(1, None).object)));
        let newest = told(&mut index);
        let messages = update(&publisher(), Reader::Gateway, Some(&before), &newest);
        assert_eq!(messages[0].services_deleted[0].name, "s0001");
        assert_eq!(messages[0].services_deleted, messages[0].services_gone);
    }

    #[test]
    fn a_full_state_says_which_services_that_a_gateway_knew_do_not_exist_any_more() {
        let mut index = index(3);
        index.apply(ClusterChange::Services(Change::Gone(service_facts(1, None).object)));
        index.apply(ClusterChange::Services(Change::Put(service_facts(2, Some("disabled")))));
        let deleted = |index: &mut PolicyIndex| {
            let mut known: Vec<ObjectName> = (0..3).map(|number| service_facts(number, None).object).collect();
            known.push(ObjectName::new("gone", "s0000"));
            let mut parts = super::update(&publisher(), Reader::Gateway, Err(&known), &told(index));
            let first = parts.pop_front().unwrap().render(&"cluster.local".parse().unwrap());
            assert!(first.reset && first.services_gone.is_empty());
            let name = |service: &ServiceName| format!("{}/{}", service.namespace, service.name);
            first.services_deleted.iter().map(name).collect::<Vec<_>>().join(" ")
        };
        let namespace = service_facts(0, None).object.namespace;
        assert_eq!(deleted(&mut index), format!("{namespace}/s0001 gone/s0000"), "s0002 is taken out, but there");
        let labels = MeshLabels::default();
        let unlabelled = NamespaceFacts { name: namespace, labels, all_labels: Labels::default() };
        index.apply(ClusterChange::Namespaces(Change::Put(unlabelled)));
        assert_eq!(deleted(&mut index), "gone/s0000", "which Services there are in it is not known");
    }

    #[test]
    fn what_concerns_no_gateway_is_not_sent_to_one() {
        let mut index = index(1);
        let before = told(&mut index);
        let other =
            NamespaceFacts { name: "other".into(), labels: MeshLabels::default(), all_labels: Labels::default() };
        index.apply(ClusterChange::Namespaces(Change::Put(other)));
        let newest = told(&mut index);
        assert!(update(&publisher(), Reader::Gateway, Some(&before), &newest).is_empty());
        assert_eq!(update(&publisher(), Reader::Operator, Some(&before), &newest)[0].namespaces[0].name, "other");
    }

    fn in_force(conditions: [(ObjectName, policy::Condition); 1]) -> Beside {
        Beside { enforcement: Arc::new(conditions.into()), plan: None }
    }

    #[test]
    fn what_stands_between_gateways_and_a_service_is_told_to_operators_alone() {
        let mut index = index(2);
        let before = told(&mut index);
        let lack = GatewayCondition::Http2NotExplicit { ports: [80].into() };
        let service = ObjectName::new("n", "s0001");
        let plan = ServicePlan {
            service: service.clone(),
            gateways: Arc::default(),
            routed: [].into(),
            policy: None,
            uptake: None,
            conditions: [lack.into()].into(),
        };
        let services = [(Arc::clone(&service.name), Arc::new(plan))].into();
        let namespaces = [("n".into(), Arc::new(NamespacePlan { name: "n".into(), services }))].into();
        let gateway = ObjectName::new("edge", "public");
        let state = GatewayState {
            gateway: gateway.clone(),
            uid: "u".into(),
            is_ready: true,
            carriers: [].into(),
            conditions: [].into(),
        };
        let gateways = [(gateway, Arc::new(state))].into();
        let plan = Arc::new(GatewayPlan { revision: 1, namespaces, gateways, must_withdraw: false });
        let beside = Beside { plan: Some(plan), ..Beside::default() };
        let newest = Told { beside, ..before.clone() };
        let messages = update(&publisher(), Reader::Operator, Some(&before), &newest);
        assert_eq!((messages.len(), messages[0].services.len()), (1, 1));
        assert_eq!(messages[0].services[0].conditions.last().unwrap().reason, "Http2NotExplicit");
        let [gateway] = &messages[0].gateways[..] else { panic!("{messages:?}") };
        assert_eq!((gateway.gateway.as_ref().unwrap().name.as_str(), gateway.ready), ("public", true));
        let back = update(&publisher(), Reader::Operator, Some(&newest), &before);
        assert_eq!((back[0].gateways.len(), back[0].gateways_gone[0].namespace.as_str()), (0, "edge"));
        assert!(update(&publisher(), Reader::Operator, Some(&newest), &newest).is_empty());
        assert!(update(&publisher(), Reader::Gateway, Some(&before), &before).is_empty());
    }

    #[test]
    fn whether_a_policy_is_in_force_is_told_to_operators_alone_and_once() {
        let mut index = index(2);
        let before = told(&mut index);
        let enforcement = [(ObjectName::new("n", "s0001"), policy::Condition::Enforced { gateways: 1, portable: 0 })];
        let newest = Told { beside: in_force(enforcement), ..before.clone() };
        let messages = update(&publisher(), Reader::Operator, Some(&before), &newest);
        let services = &messages[0].services;
        assert_eq!(
            (messages.len(), services.len(), services[0].service.as_ref().unwrap().name.as_str()),
            (1, 1, "s0001")
        );
        assert_eq!(services[0].conditions.last().unwrap().reason, "Enforced");
        assert!(update(&publisher(), Reader::Operator, Some(&newest), &newest).is_empty());
        let back = update(&publisher(), Reader::Operator, Some(&newest), &before);
        assert!(back[0].services[0].conditions.iter().all(|condition| condition.reason != "Enforced"));
        // of a Service that has changed as well, once; of one without a policy, nothing
        let gone = [(ObjectName::new("n", "gone"), policy::Condition::Enforced { gateways: 1, portable: 0 })];
        index.apply(ClusterChange::Services(Change::Put(service_facts(1, Some("odd")))));
        let changed = Told { beside: in_force(gone), ..told(&mut index) };
        let messages = update(&publisher(), Reader::Operator, Some(&newest), &changed);
        assert_eq!((messages.len(), messages[0].services.len()), (1, 1));
        assert!(update(&publisher(), Reader::Gateway, Some(&before), &before).is_empty());
    }

    #[test]
    fn a_gateway_is_told_of_nothing_beyond_its_reach_not_even_that_it_is_gone() {
        let reach =
            |names: &[&str]| Reach::Only(Arc::new(names.iter().map(|name| ObjectName::new("n", name)).collect()));
        let told_within = |index: &mut PolicyIndex, names: &[&str]| Told { reach: reach(names), ..told(index) };
        let shape = |messages: Vec<WatchResponse>| {
            let [message] = &messages[..] else { panic!("{messages:?}") };
            let name = |service: &Option<ServiceName>| service.as_ref().unwrap().name.clone();
            let services: Vec<_> = message.services.iter().map(|service| name(&service.service)).collect();
            let gone: Vec<_> = message.services_gone.iter().map(|gone| gone.name.clone()).collect();
            (services.join(","), gone.join(","))
        };
        let mut index = index(4);
        let first = told_within(&mut index, &["s0000", "s0001"]);
        let messages = update(&publisher(), Reader::Gateway, None, &first);
        assert_eq!(messages[0].version, "r/1/part");
        assert!(publisher().snapshot(&messages[0].version).is_none());
        assert_eq!(shape(messages), ("s0000,s0001".into(), String::new()));
        let second = told_within(&mut index, &["s0001", "s0002"]);
        assert_eq!(
            shape(update(&publisher(), Reader::Gateway, Some(&first), &second)),
            ("s0002".into(), "s0000".into())
        );
        // one beyond its reach is taken out, another goes
        index.apply(ClusterChange::Services(Change::Put(service_facts(3, Some("disabled")))));
        index.apply(ClusterChange::Services(Change::Gone(ObjectName::new("n", "s0000"))));
        let third = told_within(&mut index, &["s0001", "s0002"]);
        assert!(update(&publisher(), Reader::Gateway, Some(&second), &third).is_empty());
        index.apply(ClusterChange::Services(Change::Gone(ObjectName::new("n", "s0001"))));
        let fourth = told_within(&mut index, &["s0002"]);
        assert_eq!(
            shape(update(&publisher(), Reader::Gateway, Some(&third), &fourth)),
            (String::new(), "s0001".into())
        );
        let all = told(&mut index);
        assert!(update(&publisher(), Reader::Gateway, Some(&fourth), &all).is_empty(), "all but s0002 are taken out");
        index.apply(ClusterChange::Services(Change::Put(service_facts(3, None))));
        let (fifth, all) = (told_within(&mut index, &["s0002"]), told(&mut index));
        assert_eq!(shape(update(&publisher(), Reader::Gateway, Some(&fifth), &all)), ("s0003".into(), String::new()));
    }
}
