use tokio::time::timeout;

use super::*;
use crate::domain::policy::{
    Backing, Change, ClusterChange, ContextReport, DesiredPolicy, GatewayState, Labels, MeshLabels, NamespaceFacts,
    NamespacePlan, PodFacts, PolicyIndex, SdsUrl, ServiceFacts, Sidecar,
};

fn service() -> ObjectName {
    ObjectName::new("n", "s")
}

/// Policies with one Service, whose pod runs as this account.
fn policies(account: &str) -> Option<Arc<PolicySnapshot>> {
    let mut index = PolicyIndex::default();
    let labels = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
    index.apply(ClusterChange::Namespaces(Change::Reset(vec![NamespaceFacts {
        name: "n".into(),
        labels,
        all_labels: Labels::default(),
    }])));
    let labels: Arc<Labels> = Arc::new([("app", "s")].into_iter().collect());
    let backing = Backing::Selector((*labels).clone());
    let facts = ServiceFacts {
        object: service(),
        uid: "s".into(),
        created: 0,
        backing,
        ports: [].into(),
        opt_out: None,
        tag: None,
    };
    index.apply(ClusterChange::Services(Change::Reset(vec![facts])));
    let pod = PodFacts {
        object: ObjectName::new("n", "p"),
        uid: "1".into(),
        labels,
        account: ServiceAccount::new("n", account).unwrap(),
        finished: false,
        sidecar: Sidecar::Injected,
        ready_at: None,
        named_ports: None,
        control_plane: None,
    };
    index.apply(ClusterChange::Pods(Change::Reset(vec![pod])));
    index.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
    index.snapshot()
}

fn agent(instance: &str) -> Arc<Reporter> {
    Arc::new(Reporter { gateway: "spiffe://td/gateway".parse().unwrap(), instance: instance.into() })
}

fn accepted(account: &str) -> ReportChange {
    let set = IdentitySet::of([&format!("spiffe://td/ns/n/sa/{account}").parse().unwrap()]);
    let report = ContextReport { streams: 1, accepted: [(set, 1)].into(), refusal: None };
    ReportChange { services: vec![(service(), report)], ..ReportChange::default() }
}

fn everything(sequence: u64, change: ReportChange) -> Reported {
    Reported { sequence, follows: None, change: ReportChange { reset: true, ..change } }
}

fn change(follows: u64, sequence: u64, change: ReportChange) -> Reported {
    Reported { sequence, follows: Some(follows), change }
}

fn still(sequence: u64) -> Reported {
    change(sequence, sequence, ReportChange::default())
}

struct Running {
    enforcement: Arc<PolicyEnforcement>,
    policies: watch::Sender<Option<Arc<PolicySnapshot>>>,
    published: watch::Receiver<Option<Judged>>,
    metrics: Arc<Metrics>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(None)
    }

    fn start_with(plans: Option<watch::Receiver<Option<Arc<GatewayPlan>>>>) -> Self {
        let enforcement = Arc::new(PolicyEnforcement::new("td".parse().unwrap()));
        let (policies, snapshots) = watch::channel(policies("a"));
        let (published, metrics) = (enforcement.follow(), Arc::new(Metrics::new()));
        tokio::spawn(Arc::clone(&enforcement).run(snapshots, plans, Arc::clone(&metrics)));
        Self { enforcement, policies, published, metrics }
    }

    fn take(&self, instance: &str, origin: ReportOrigin, reported: Reported) -> Result<(), ReportError> {
        self.enforcement.report(&agent(instance), origin, reported)
    }

    /// Waits until this is published of the Service.
    async fn until(&mut self, reason: &str) {
        let is_reached = |now: &Option<Judged>| {
            let condition = now.as_ref().and_then(|now| now.enforcement.get(&service()));
            condition.is_some_and(|condition| condition.reason() == reason)
        };
        let reached = timeout(Duration::from_secs(60), self.published.wait_for(is_reached)).await;
        assert!(reached.is_ok_and(|reached| reached.is_ok()), "{reason}: never");
    }

    fn now(&self) -> &'static str {
        self.published.borrow().as_ref().unwrap().enforcement[&service()].reason()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_is_put_beside_what_is_wanted_now() {
    let mut running = Running::start();
    running.until("NotEnforced").await;
    running.take("one", ReportOrigin::Agent, everything(1, accepted("a"))).unwrap();
    running.until("Enforced").await;
    assert!(running.metrics.encode().contains("countersign_policy_services{enforced=\"true\"} 1"));
    running.policies.send_replace(policies("b"));
    running.until("NotEnforced").await;
    let page = running.metrics.encode();
    assert!(page.contains("countersign_policy_services{enforced=\"false\"} 1"), "{page}");
    assert!(page.contains("countersign_policy_services{enforced=\"true\"} 0"), "{page}");
    running.take("one", ReportOrigin::Agent, change(1, 2, accepted("b"))).unwrap();
    running.until("Enforced").await;
    let gone = ReportChange { gone: vec![service()], ..ReportChange::default() };
    running.take("one", ReportOrigin::Agent, change(2, 3, gone)).unwrap();
    running.until("NotEnforced").await;
}

/// Routes lead to the Service from Gateways with these pods each, which all run as one account, by identities over SDS.
fn plan(gateways: &[&[&str]]) -> Option<Arc<GatewayPlan>> {
    let named = |number: usize| ObjectName::new("infra", &format!("public-{number}"));
    let names: Vec<ObjectName> = (0..gateways.len()).map(named).collect();
    let policy = DesiredPolicy {
        service: service(),
        owner: "s".into(),
        verification: Verification::Sds(SdsUrl::Unix),
        is_routed: true,
        only_if_there: false,
    };
    let service = ServicePlan {
        service: service(),
        gateways: names.clone().into(),
        routed: names.clone().into(),
        policy: Some(policy),
        overruled: [].into(),
        is_split: false,
        uptake: None,
        conditions: [].into(),
    };
    let services = [(Arc::clone(&service.service.name), Arc::new(service))].into();
    let state = |(gateway, pods): (ObjectName, &&[&str])| {
        let pods = pods.iter().map(|pod| ObjectName::new("infra", pod)).collect();
        let carriers = [(ServiceAccount::new("infra", "envoy").unwrap(), pods)].into();
        let state =
            GatewayState { gateway: gateway.clone(), uid: "g".into(), is_ready: true, carriers, conditions: [].into() };
        (gateway, Arc::new(state))
    };
    let gateways = names.into_iter().zip(gateways).map(state).collect();
    let namespaces = [("n".into(), Arc::new(NamespacePlan { name: "n".into(), services }))].into();
    Some(Arc::new(GatewayPlan { revision: 1, namespaces, gateways, must_withdraw: false }))
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_in_force_once_every_pod_of_the_gateways_that_lead_there_has_asked() {
    let (plans, followed) = watch::channel(plan(&[&["one", "two"], &["two", "one"]]));
    let mut running = Running::start_with(Some(followed));
    let envoy = |instance: &str| {
        let gateway = "spiffe://td/ns/infra/sa/envoy".parse().unwrap();
        Arc::new(Reporter { gateway, instance: instance.into() })
    };
    let take = |running: &Running, instance: &str| {
        let reported = everything(1, accepted("a"));
        running.enforcement.report(&envoy(instance), ReportOrigin::Agent, reported).unwrap();
    };
    running.enforcement.see_objects(&[(service(), sight())].into(), Timestamp::from_seconds(61));
    take(&running, "one");
    running.take("another gateway's", ReportOrigin::Agent, everything(1, accepted("a"))).unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(running.now(), "NotEnforced", "one of two pods has asked");
    take(&running, "two");
    running.until("Enforced").await;
    // another Gateway's pods may run as the same account, and are others
    plans.send_replace(plan(&[&["one", "two"], &["three"]]));
    running.until("NotEnforced").await;
    plans.send_replace(plan(&[&["one", "two"]]));
    running.until("Enforced").await;
    // nor is anything where there is none
    let without = |plan: &mut GatewayPlan| {
        let namespace = Arc::make_mut(plan.namespaces.get_mut("n").unwrap());
        Arc::make_mut(namespace.services.get_mut("s").unwrap()).policy = None;
    };
    let mut bare = plan(&[&["one", "two"]]);
    without(Arc::make_mut(bare.as_mut().unwrap()));
    plans.send_replace(bare);
    running.until("NotEnforced").await;
}

fn sight() -> PolicySight {
    PolicySight { uid: "1".into(), generation: 1, changed_at: Timestamp::from_seconds(0) }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_force_before_the_policy_is_there_nor_at_once_where_it_may_have_been_made_anew() {
    // the first list of a replica that has just started, and how old what is found in it is
    for (found, wait) in [(None, 0), (Some(0), 60), (Some(45), 15), (Some(60), 0), (Some(-30), 60)] {
        let (_plans, followed) = watch::channel(plan(&[&["one"]]));
        let running = Running::start_with(Some(followed));
        let gateway = "spiffe://td/ns/infra/sa/envoy".parse().unwrap();
        let envoy = Arc::new(Reporter { gateway, instance: "one".into() });
        let report = |sequence| {
            running.enforcement.report(&envoy, ReportOrigin::Agent, everything(sequence, accepted("a"))).unwrap();
        };
        let seen = found.map(|_| (service(), sight())).into_iter().collect();
        let begin = Instant::now();
        running.enforcement.see_objects(&seen, Timestamp::from_seconds(found.unwrap_or_default()));
        for sequence in 1..8 {
            report(sequence);
            sleep(Duration::from_secs(5)).await;
            if found.is_none() {
                assert_eq!(running.now(), "NotEnforced", "no policy is there");
            }
        }
        // one that comes now is the first one, as far as is seen
        running.enforcement.see_object(service(), Some(&sight()));
        report(8);
        while running.now() != "Enforced" {
            sleep(Duration::from_secs(1)).await;
            report(8);
        }
        let after = begin.elapsed().as_secs();
        assert!(after >= wait.max(35) && after <= wait.max(35) + 2, "{found:?}: after {after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_force_before_it_is_known_which_gateways_lead_there() {
    let (plans, followed) = watch::channel(None);
    let mut running = Running::start_with(Some(followed));
    running.take("one", ReportOrigin::Agent, everything(1, accepted("a"))).unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(running.now(), "NotEnforced");
    plans.send_replace(plan(&[]));
    running.until("Enforced").await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_any_more_is_forgotten() {
    let mut running = Running::start();
    running.take("one", ReportOrigin::Agent, everything(1, accepted("a"))).unwrap();
    running.until("Enforced").await;
    for _ in 0..10 {
        sleep(Duration::from_secs(10)).await;
        running.take("one", ReportOrigin::Agent, still(1)).unwrap();
        assert_eq!(running.now(), "Enforced", "one confirmation was missed");
    }
    let begin = Instant::now();
    running.until("NotEnforced").await;
    let after = begin.elapsed();
    assert!(after > FORGOTTEN_AFTER && after < FORGOTTEN_AFTER + 2 * LOOK_EVERY, "{after:?}");
    let refused = running.take("one", ReportOrigin::Agent, still(1));
    assert_eq!(refused, Err(ReportError::NotFollowed), "it has to begin anew");
}

#[tokio::test(start_paused = true)]
async fn of_what_comes_by_two_ways_the_newest_counts_and_nothing_is_put_onto_what_it_does_not_follow() {
    let mut running = Running::start();
    let (agent, replica) = (ReportOrigin::Agent, ReportOrigin::Replica);
    running.take("one", replica, everything(1, accepted("old"))).unwrap();
    assert!(running.enforcement.heard_here().is_empty());
    running.take("one", agent, everything(3, accepted("a"))).unwrap();
    running.until("Enforced").await;
    running.take("one", replica, change(1, 2, accepted("old"))).unwrap();
    running.take("one", replica, everything(2, accepted("old"))).unwrap();
    running.take("one", replica, everything(3, accepted("a"))).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.now(), "Enforced");
    assert_eq!(running.enforcement.heard_here(), [self::agent("one")].into());
    assert_eq!(running.enforcement.report_of(&self::agent("one")).unwrap().0, 3);
    let skipped = running.take("one", replica, change(4, 5, accepted("old")));
    assert_eq!(skipped, Err(ReportError::NotFollowed));
    running.take("one", replica, everything(5, accepted("old"))).unwrap();
    running.until("NotEnforced").await;
    assert!(running.enforcement.heard_here().is_empty(), "it speaks to another replica now");
}

#[tokio::test(start_paused = true)]
async fn agents_and_what_each_reports_are_bounded() {
    let running = Running::start();
    for number in 0..AGENTS_OF_ONE {
        running.take(&number.to_string(), ReportOrigin::Agent, everything(1, accepted("a"))).unwrap();
    }
    let one_more = running.take("more", ReportOrigin::Agent, everything(1, accepted("a")));
    assert!(matches!(one_more, Err(ReportError::TooManyAgents(AGENTS_OF_ONE))), "{one_more:?}");
    running.take("0", ReportOrigin::Agent, everything(2, accepted("a"))).unwrap();
    for part in 0..=10 {
        let name = |number| ObjectName::new("n", &format!("s{}", part * 1000 + number));
        let services = (0..1000).map(|number| (name(number), ContextReport::default())).collect();
        let services = ReportChange { services, ..ReportChange::default() };
        let taken = running.take("0", ReportOrigin::Agent, change(part + 2, part + 3, services));
        // it reports one more already
        let expected = if part == 9 { Err(ReportError::TooManyServices) } else { Ok(()) };
        assert_eq!(taken, expected, "{part}");
        if taken.is_err() {
            break;
        }
    }
    assert_eq!(running.enforcement.report_of(&agent("0")), None);
}
