//! Policies as messages, and messages as what is shown of them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    domain::{
        identity::TrustDomain,
        policy::{
            self, Enforcement, MtlsMode, NamespacePolicy, ObjectName, PolicyChanges, PolicySnapshot, ServicePolicy,
        },
    },
    proto::countersign::policy::v1::{
        Condition, Mode, Namespace, Port, PreviewResponse, Service, ServiceName, WatchResponse,
    },
    service::{
        policy_publisher::{PolicyPreview, PolicyPublisher},
        policy_view::{ConditionView, NamespaceListing, NamespaceView, PolicyUpdate, PortView, ServiceView},
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
    /// Whether they are in force: for the operator alone.
    pub(super) enforcement: Arc<Enforcement>,
}

impl Told {
    /// Policies alone.
    pub(super) fn of(snapshot: Arc<PolicySnapshot>) -> Self {
        Self { snapshot, enforcement: Arc::default() }
    }

    fn changes_since(&self, before: &Self) -> PolicyChanges {
        let mut changes = self.snapshot.changes_since(&before.snapshot);
        if Arc::ptr_eq(&self.enforcement, &before.enforcement) {
            return changes;
        }
        let mut named: BTreeSet<ObjectName> = changes.services.iter().map(|policy| policy.service.clone()).collect();
        let (now, then) = (&self.enforcement, &before.enforcement);
        for service in now.keys().chain(then.keys()).filter(|service| now.get(service) != then.get(service)) {
            let policy = self.snapshot.service(&service.namespace, &service.name);
            changes.services.extend(policy.filter(|_| named.insert(service.clone())).cloned());
        }
        changes
    }
}

/// Services of one message: far below what a client takes.
const CHUNK: usize = 250;

/// What leads a reader of `before`, or one who knows nothing, to `newest`. Empty if nothing of it concerns the reader.
pub(super) fn update(
    publisher: &PolicyPublisher,
    reader: Reader,
    before: Option<&Told>,
    newest: &Told,
) -> VecDeque<WatchResponse> {
    let changes = before.map_or_else(|| all_of(&newest.snapshot), |before| newest.changes_since(before));
    let trust_domain = publisher.trust_domain();
    let is_told = |policy: &ServicePolicy| reader == Reader::Operator || policy.mode == MtlsMode::Required;
    let (told, taken_out): (Vec<_>, Vec<_>) = changes.services.into_iter().partition(|policy| is_told(policy));
    let mut services_gone: Vec<ServiceName> = changes.services_gone.iter().map(service_name).collect();
    if before.is_some() {
        services_gone.extend(taken_out.iter().map(|policy| service_name(&policy.service)));
    }
    let (mut namespaces, mut namespaces_gone) = (Vec::new(), Vec::new());
    if reader == Reader::Operator {
        namespaces.extend(changes.namespaces.iter().map(|policy| namespace(policy)));
        namespaces_gone.extend(changes.namespaces_gone.iter().map(|name| name.to_string()));
    }
    let is_nothing = told.is_empty() && services_gone.is_empty() && namespaces.is_empty() && namespaces_gone.is_empty();
    if before.is_some() && is_nothing {
        return VecDeque::new();
    }
    let mut messages: VecDeque<WatchResponse> = told
        .chunks(CHUNK)
        .map(|chunk| WatchResponse {
            services: chunk.iter().map(|policy| service(policy, trust_domain, &newest.enforcement)).collect(),
            ..WatchResponse::default()
        })
        .collect();
    if messages.is_empty() {
        messages.push_back(WatchResponse::default());
    }
    if let Some(first) = messages.front_mut() {
        first.reset = before.is_none();
        first.services_gone = services_gone;
        first.namespaces = namespaces;
        first.namespaces_gone = namespaces_gone;
    }
    if let Some(last) = messages.back_mut() {
        last.version = publisher.version(&newest.snapshot);
    }
    messages
}

fn all_of(newest: &PolicySnapshot) -> PolicyChanges {
    PolicyChanges {
        namespaces: newest.namespaces.values().cloned().collect(),
        services: newest.services().cloned().collect(),
        ..PolicyChanges::default()
    }
}

/// What another label would change.
pub(super) fn preview(preview: &PolicyPreview, trust_domain: &TrustDomain) -> PreviewResponse {
    let unknown = Enforcement::new();
    let services =
        |of: &NamespacePolicy| of.services.values().map(|policy| service(policy, trust_domain, &unknown)).collect();
    PreviewResponse {
        now: Some(namespace(&preview.now)),
        services_now: services(&preview.now),
        then: Some(namespace(&preview.then)),
        services_then: services(&preview.then),
    }
}

fn service(policy: &ServicePolicy, trust_domain: &TrustDomain, enforcement: &Enforcement) -> Service {
    let enforced = enforcement.get(&policy.service);
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
        conditions: policy.conditions.iter().chain(enforced).map(condition).collect(),
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

fn service_name(object: &ObjectName) -> ServiceName {
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
        services_gone: message.services_gone.iter().map(|gone| format!("{}/{}", gone.namespace, gone.name)).collect(),
    }
}

/// As it is, and as it would be.
pub(super) fn preview_view(message: PreviewResponse) -> (NamespaceListing, NamespaceListing) {
    let listing = |namespace: Option<Namespace>, services: Vec<Service>| NamespaceListing {
        namespace: namespace_view(namespace.unwrap_or_default()),
        services: services.into_iter().map(service_view).collect(),
    };
    (listing(message.now, message.services_now), listing(message.then, message.services_then))
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
        Backing, Change, ClusterChange, Labels, MeshLabels, NamespaceFacts, PolicyIndex, ServiceFacts,
    };

    fn service_facts(number: usize, opt_out: Option<&str>) -> ServiceFacts {
        ServiceFacts {
            object: ObjectName::new("n", &format!("s{number:04}")),
            uid: number.to_string().into(),
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
        let messages = update(&publisher(), Reader::Operator, Some(&before), &newest);
        assert_eq!(messages[0].services[0].mode(), Mode::NotManaged);
        assert!(messages[0].services_gone.is_empty());
        let messages = update(&publisher(), Reader::Gateway, None, &newest);
        assert_eq!(messages[0].services.len(), 1);
        assert!(messages[0].services_gone.is_empty());
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

    #[test]
    fn whether_a_policy_is_in_force_is_told_to_operators_alone_and_once() {
        let mut index = index(2);
        let before = told(&mut index);
        let enforcement = [(ObjectName::new("n", "s0001"), policy::Condition::Enforced { gateways: 1 })];
        let newest = Told { enforcement: Arc::new(enforcement.into()), ..before.clone() };
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
        let gone = [(ObjectName::new("n", "gone"), policy::Condition::Enforced { gateways: 1 })];
        index.apply(ClusterChange::Services(Change::Put(service_facts(1, Some("odd")))));
        let changed = Told { enforcement: Arc::new(gone.into()), ..told(&mut index) };
        let messages = update(&publisher(), Reader::Operator, Some(&newest), &changed);
        assert_eq!((messages.len(), messages[0].services.len()), (1, 1));
        assert!(update(&publisher(), Reader::Gateway, Some(&before), &before).is_empty());
    }
}
