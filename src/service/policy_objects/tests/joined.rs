//! What is planned, what is written of it, and what is seen of that again, all joined: each of the two hears of the cluster in its own
//! time. One Gateway, which a Route leads from to one Service.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::domain::policy::{
    Admits, Backing, Change, ClassFacts, ClusterChange, Condition, Controller, GatewayChange, GatewayCondition,
    GatewayFacts, GatewayIndex, IdentitySet, Labels, ListenerFacts, MeshLabels, NamespaceFacts, Parent, ParentFacts,
    PolicyIndex, PolicySnapshot, PolicyTarget, RouteBackend, RouteFacts, RouteKinds, ServiceFacts, Target,
    TlsPolicyFacts, UnreadyRequests, WrittenFacts, nothing_there,
};

const APP: &str = "app";
/// Of writes, after which it is a loop.
const ENDLESS: usize = 20;

struct Joined {
    policies: Arc<PolicySnapshot>,
    index: GatewayIndex,
    ledger: Ledger,
    objects: BTreeMap<ObjectKey, SeenObject>,
    version: u64,
    now: BootInstant,
    /// What has happened to the policy and was not heard of yet.
    unheard: [VecDeque<Seen>; 2],
    written: Vec<String>,
}

impl Joined {
    /// With everything written.
    fn new() -> Self {
        let mut joined = Self {
            policies: policies(),
            index: index(),
            ledger: Ledger::default(),
            objects: BTreeMap::new(),
            version: 0,
            now: BootInstant::from_nanos(1),
            unheard: Default::default(),
            written: Vec::new(),
        };
        for kind in [ObjectKind::ConfigMap, ObjectKind::BackendTlsPolicy] {
            let listed = Seen::Listed { kind, version: "0".into(), objects: Vec::new() };
            joined.ledger.see(listed, joined.now);
        }
        joined.make_ready(true);
        joined.settle();
        assert!(joined.objects.contains_key(&policy()) && joined.has_plan(false));
        joined
    }

    /// One of kgateway is, once it has a client certificate.
    fn make_ready(&mut self, is_ready: bool) {
        let routes = RouteKinds { http: true, grpc: true };
        let listener = ListenerFacts { name: "http".into(), port: 80, routes, admits: Admits::All };
        self.index.apply(GatewayChange::Gateways(Change::Put(GatewayFacts {
            object: edge(),
            uid: "g".into(),
            class: "kgateway".into(),
            listeners: [listener].into(),
            takes_sets: None,
            parameters: None,
            client_certificate: is_ready,
        })));
    }

    fn plan(&mut self) -> Arc<ServicePlan> {
        let plan = self.index.plan(&self.policies).unwrap();
        Arc::clone(plan.service(APP, "web").unwrap())
    }

    /// Whether a policy is planned, to be made or only to be kept.
    fn has_plan(&mut self, only_if_there: bool) -> bool {
        self.plan().policy.as_ref().is_some_and(|policy| policy.only_if_there == only_if_there)
    }

    fn tell_plan(&mut self) {
        let plan = self.index.plan(&self.policies).unwrap();
        let all = wanted(&plan.namespaces[APP], &"cluster.local".parse().unwrap(), &"PEM".into());
        let all = all.into_iter().map(|wanted| {
            let print = print(&wanted);
            (wanted, print)
        });
        self.ledger.want(APP, all.collect(), self.now);
        self.ledger.planned(self.now);
    }

    /// By hand, of the policy.
    fn delete(&mut self) {
        self.version += 1;
        assert!(self.objects.remove(&policy()).is_some());
        self.happened(&Seen::Gone(policy(), self.version.to_string().into()));
    }

    /// By hand: the policy is for another Service then.
    fn edit(&mut self) {
        self.version += 1;
        let version = self.version.to_string().into();
        let seen = SeenObject { version, generation: 2, print: Print([7; 32]), ..self.objects[&policy()].clone() };
        self.objects.insert(policy(), seen.clone());
        self.happened(&Seen::Put(policy(), seen));
    }

    fn happened(&mut self, seen: &Seen) {
        self.unheard.iter_mut().for_each(|unheard| unheard.push_back(seen.clone()));
    }

    fn ledger_hears(&mut self) -> bool {
        let heard = self.unheard[0].pop_front();
        let is_some = heard.is_some();
        heard.into_iter().for_each(|heard| self.ledger.see(heard, self.now));
        is_some
    }

    fn plan_hears(&mut self) -> bool {
        let heard = self.unheard[1].pop_front();
        let is_some = heard.is_some();
        let change = heard.map(|heard| match heard {
            Seen::Put(key, seen) => Change::Put(facts(key.object, seen.generation)),
            Seen::Gone(key, _) => Change::Gone(key.object),
            Seen::Listed { .. } => unreachable!("it is listed once"),
        });
        change.into_iter().for_each(|change| self.index.apply(GatewayChange::TlsPolicies(change)));
        self.tell_plan();
        is_some
    }

    /// The next thing that is to be done, with as much patience as it takes.
    fn write(&mut self) -> bool {
        while let Some(due) = self.ledger.next_wake(self.now) {
            self.now = self.now.max(due);
            let Some(todo) = self.ledger.next(self.now) else { continue };
            let (key, outcome) = self.perform(todo);
            self.ledger.done(&key, outcome, self.now);
            return true;
        }
        false
    }

    fn perform(&mut self, todo: Todo) -> (ObjectKey, Outcome) {
        self.version += 1;
        let outdated = || Outcome::Failed(WriteError::Outdated("it is another one".into()));
        match todo {
            Todo::Apply { wanted, version } => {
                if self.objects.get(&wanted.key).map(|seen| &seen.version) != version.as_ref() {
                    return (wanted.key, outdated());
                }
                self.written.push(format!("apply {}", wanted.key));
                let seen = self.seen(&wanted);
                self.objects.insert(wanted.key.clone(), seen.clone());
                if wanted.key == policy() {
                    self.happened(&Seen::Put(policy(), seen.clone()));
                }
                (wanted.key, Outcome::Applied(seen))
            }
            Todo::Remove { key, seen } => {
                match self.objects.get(&key).map(|there| Some(&there.uid) == seen.as_ref().map(|seen| &seen.uid)) {
                    Some(false) => return (key, outdated()),
                    None => return (key, Outcome::Removed(Removed::Gone)),
                    Some(true) => self.written.push(format!("remove {key}")),
                }
                self.objects.remove(&key);
                if key == policy() {
                    self.happened(&Seen::Gone(key.clone(), self.version.to_string().into()));
                }
                (key, Outcome::Removed(Removed::Gone))
            }
        }
    }

    fn seen(&self, wanted: &Wanted) -> SeenObject {
        let version = self.version.to_string();
        let there = self.objects.get(&wanted.key);
        SeenObject {
            uid: there.map_or_else(|| version.as_str().into(), |there| Arc::clone(&there.uid)),
            version: version.into(),
            generation: 1,
            changed_at: Timestamp::from_seconds(0),
            print: print(wanted),
            ours: true,
            going: None,
            needs: wanted.needs().cloned(),
            is_unusable: false,
            routed: None,
        }
    }

    fn go(&mut self, steps: Vec<u8>) {
        for step in steps {
            match step {
                0 => drop(self.ledger_hears()),
                1 => drop(self.plan_hears()),
                2 => drop(self.write()),
                _ => self.make_ready(false),
            }
        }
    }

    /// Everything is heard and done; what was written.
    fn settle(&mut self) -> Vec<String> {
        loop {
            let has_heard = [self.ledger_hears(), self.plan_hears()];
            if !self.write() && has_heard == [false; 2] {
                return std::mem::take(&mut self.written);
            }
            assert!(self.written.len() < ENDLESS, "it never ends: {:?}", self.written);
        }
    }
}

fn policy() -> ObjectKey {
    ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: ObjectName::new(APP, "countersign-web") }
}

/// As the API server would give it back: nothing there says what it is wanted for.
fn print(wanted: &Wanted) -> Print {
    Willing::default().print(&Wanted { only_if_there: false, ..wanted.clone() })
}

fn policies() -> Arc<PolicySnapshot> {
    let labels = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
    let namespace = NamespaceFacts { name: APP.into(), labels, all_labels: Labels::default() };
    let service = ServiceFacts {
        object: ObjectName::new(APP, "web"),
        uid: "s".into(),
        created: 0,
        backing: Backing::Selector([("app", "web")].into_iter().collect()),
        ports: [].into(),
        opt_out: None,
        tag: None,
    };
    let mut index = PolicyIndex::default();
    index.apply(ClusterChange::Namespaces(Change::Reset(vec![namespace])));
    index.apply(ClusterChange::Services(Change::Reset(vec![service])));
    index.apply(ClusterChange::Pods(Change::Reset(Vec::new())));
    index.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
    index.snapshot().unwrap()
}

fn index() -> GatewayIndex {
    let mut index = GatewayIndex::default();
    let controller = Controller::Kgateway;
    let route = RouteFacts {
        object: ObjectName::new(APP, "web"),
        parents: [ParentFacts { parent: Parent::Gateway(edge()), section: None, port: None }].into(),
        backends: [RouteBackend::Service(ObjectName::new(APP, "web"), None)].into(),
    };
    let class = ClassFacts { name: "kgateway".into(), controller, parameters: None };
    let here =
        [GatewayChange::Classes(Change::Reset(vec![class])), GatewayChange::HttpRoutes(Change::Reset(vec![route]))];
    nothing_there().into_iter().chain(here).for_each(|change| index.apply(change));
    index.see(&ClusterChange::Namespaces(Change::Reset(Vec::new())));
    index.see(&ClusterChange::Pods(Change::Reset(Vec::new())));
    index
}

fn facts(object: ObjectName, generation: i64) -> TlsPolicyFacts {
    let target = Target::Service(if generation == 1 { "web" } else { "other" }.into());
    TlsPolicyFacts {
        object,
        ours: true,
        targets: [PolicyTarget { target, section: None }].into(),
        written: Some(WrittenFacts { identities: IdentitySet::of([]), is_sds: false, accepted_by: [].into() }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// Whoever hears of it when.
    #[test]
    fn a_policy_that_is_only_kept_is_not_made_again_before_a_gateway_is_ready(
        steps in prop::collection::vec(0u8..3, 0..30),
    ) {
        let mut joined = Joined::new();
        joined.make_ready(false);
        prop_assert_eq!(joined.settle(), [""; 0], "it stays");
        prop_assert!(joined.has_plan(true));
        joined.delete();
        joined.go(steps);
        let written = joined.settle();
        prop_assert!(!joined.objects.contains_key(&policy()) && !written.contains(&format!("apply {}", policy())), "{written:?}");
        let plan = joined.plan();
        prop_assert_eq!(plan.bare(), [edge()]);
        let (gateways, requests) = ([edge()].into(), UnreadyRequests::Plain);
        let said = Condition::from(GatewayCondition::GatewayNotConfigured { gateways, requests });
        prop_assert!(plan.conditions.contains(&said), "{plan:?}");
        joined.make_ready(true);
        let written = joined.settle();
        prop_assert_eq!(written.last(), Some(&format!("apply {}", policy())));
        prop_assert!(joined.has_plan(false));
    }

    #[test]
    fn a_policy_that_is_only_kept_is_put_right_whatever_somebody_has_it_be_for(
        steps in prop::collection::vec(0u8..3, 0..30),
    ) {
        let mut joined = Joined::new();
        joined.make_ready(false);
        joined.settle();
        joined.edit();
        joined.go(steps);
        prop_assert_eq!(joined.settle(), [format!("apply {}", policy())]);
        prop_assert!(joined.has_plan(true));
    }

    /// Then it is made again or not, as they heard of it; but there is an end.
    #[test]
    fn a_policy_that_is_deleted_while_its_gateway_ceases_to_be_ready_is_no_loop(
        is_first in any::<bool>(),
        steps in prop::collection::vec(0u8..4, 0..30),
    ) {
        let mut joined = Joined::new();
        if is_first {
            joined.make_ready(false);
        }
        joined.delete();
        joined.go(steps);
        joined.make_ready(false);
        joined.settle();
        let is_there = joined.objects.contains_key(&policy());
        prop_assert_eq!(joined.has_plan(true), is_there);
        prop_assert_eq!(joined.settle(), [""; 0]);
    }
}
