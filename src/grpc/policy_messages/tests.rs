use super::*;
use crate::domain::policy::{
    Backing, Change, ClusterChange, GatewayCondition, Labels, MeshLabels, NamespaceFacts, NamespacePlan, PolicyIndex,
    ServiceFacts, ServicePlan,
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
    let parts: Vec<_> = messages.iter().map(|part| (part.reset, part.services.len(), part.version.as_str())).collect();
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
    let other = NamespaceFacts { name: "other".into(), labels: MeshLabels::default(), all_labels: Labels::default() };
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
        overruled: [].into(),
        is_split: false,
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
    assert_eq!((messages.len(), services.len(), services[0].service.as_ref().unwrap().name.as_str()), (1, 1, "s0001"));
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
    let reach = |names: &[&str]| Reach::Only(Arc::new(names.iter().map(|name| ObjectName::new("n", name)).collect()));
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
    assert_eq!(shape(update(&publisher(), Reader::Gateway, Some(&first), &second)), ("s0002".into(), "s0000".into()));
    // one beyond its reach is taken out, another goes
    index.apply(ClusterChange::Services(Change::Put(service_facts(3, Some("disabled")))));
    index.apply(ClusterChange::Services(Change::Gone(ObjectName::new("n", "s0000"))));
    let third = told_within(&mut index, &["s0001", "s0002"]);
    assert!(update(&publisher(), Reader::Gateway, Some(&second), &third).is_empty());
    index.apply(ClusterChange::Services(Change::Gone(ObjectName::new("n", "s0001"))));
    let fourth = told_within(&mut index, &["s0002"]);
    assert_eq!(shape(update(&publisher(), Reader::Gateway, Some(&third), &fourth)), (String::new(), "s0001".into()));
    let all = told(&mut index);
    assert!(update(&publisher(), Reader::Gateway, Some(&fourth), &all).is_empty(), "all but s0002 are taken out");
    index.apply(ClusterChange::Services(Change::Put(service_facts(3, None))));
    let (fifth, all) = (told_within(&mut index, &["s0002"]), told(&mut index));
    assert_eq!(shape(update(&publisher(), Reader::Gateway, Some(&fifth), &all)), ("s0003".into(), String::new()));
}
