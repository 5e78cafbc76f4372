//! How fast policies are written by who has nobody to hear. Time is paused: it jumps to the next thing that is due.

mod joined;

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    domain::{
        authority::testing::authority,
        clock::Timestamp,
        policy::{DesiredPolicy, GatewayState, ObjectKind, SdsUrl, ServicePlan, Verification},
        x509::TrustBundle,
    },
    service::{ports::BoxFuture, readiness::Readiness},
};

/// Until the next policy may be written where nobody says that the one before is used.
const INTERVAL: Duration = Duration::from_millis(150);
/// For how long it is waited for somebody who may say so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes everything at once.
#[derive(Default)]
struct Willing {
    applied: Mutex<Vec<ObjectKey>>,
    removed: Mutex<Vec<ObjectKey>>,
}

impl Willing {
    /// As what was written last is seen.
    fn seen(&self, print: Print, needs: Option<ObjectKey>) -> SeenObject {
        SeenObject {
            version: self.applied.lock().unwrap().len().to_string().into(),
            uid: "u".into(),
            generation: 1,
            changed_at: Timestamp::from_seconds(0),
            print,
            ours: true,
            going: None,
            needs,
            is_unusable: false,
            routed: None,
        }
    }
}

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1000)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.0.elapsed())
    }
}

impl GatewayObjects for Willing {
    fn print(&self, wanted: &Wanted) -> Print {
        let mut hasher = DefaultHasher::new();
        format!("{wanted:?}").hash(&mut hasher);
        let mut print = [0; 32];
        print[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        Print(print)
    }

    fn apply<'a>(&'a self, wanted: &'a Wanted, _: Option<&'a str>) -> BoxFuture<'a, Result<SeenObject, WriteError>> {
        let mut applied = self.applied.lock().unwrap();
        applied.push(wanted.key.clone());
        drop(applied);
        let seen = self.seen(self.print(wanted), wanted.needs().cloned());
        Box::pin(async { Ok(seen) })
    }

    fn remove<'a>(
        &'a self,
        key: &'a ObjectKey,
        _: Option<&'a SeenObject>,
    ) -> BoxFuture<'a, Result<Removed, WriteError>> {
        self.removed.lock().unwrap().push(key.clone());
        Box::pin(async { Ok(Removed::Gone) })
    }
}

fn edge() -> ObjectName {
    ObjectName::new("edge", "public")
}

/// Services to which a Route leads.
fn namespace(name: &str, services: usize, verification: &Verification) -> NamespacePlan {
    let services = (0..services).map(|number| {
        let service = ObjectName::new(name, &format!("s{number}"));
        let verification = verification.clone();
        let policy = DesiredPolicy {
            service: service.clone(),
            owner: "u".into(),
            verification,
            is_routed: true,
            only_if_there: false,
        };
        let plan = ServicePlan {
            service: service.clone(),
            gateways: [edge()].into(),
            routed: [edge()].into(),
            policy: Some(policy),
            overruled: [].into(),
            is_split: false,
            uptake: None,
            conditions: [].into(),
        };
        (service.name, Arc::new(plan))
    });
    NamespacePlan { name: name.into(), services: services.collect() }
}

/// One Gateway with that many pods.
fn plan(pods: usize, namespaces: impl IntoIterator<Item = NamespacePlan>) -> GatewayPlan {
    let carriers = (pods > 0).then(|| ("edge/envoy".parse().unwrap(), [edge()].into())).into_iter().collect();
    let state = GatewayState { gateway: edge(), uid: "g".into(), is_ready: true, carriers, conditions: [].into() };
    GatewayPlan {
        revision: 1,
        namespaces: namespaces.into_iter().map(|plan| (Arc::clone(&plan.name), Arc::new(plan))).collect(),
        gateways: [(edge(), Arc::new(state))].into(),
        must_withdraw: false,
    }
}

/// An active that is told nothing of what proxies use.
struct Active {
    cluster: Arc<Willing>,
    objects: Arc<PolicyObjects>,
    plans: watch::Sender<Option<Arc<GatewayPlan>>>,
    roots: watch::Sender<Option<Arc<TrustBundle>>>,
    _running: JoinHandle<()>,
}

impl Active {
    fn new(first: GatewayPlan, has_ready_pods: bool) -> Self {
        let active = Self::without_roots(first, has_ready_pods);
        active.know_roots();
        active
    }

    fn know_roots(&self) {
        self.roots.send_replace(Some(Arc::new(authority().bundle().clone())));
    }

    fn without_roots(first: GatewayPlan, has_ready_pods: bool) -> Self {
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let cluster = Arc::new(Willing::default());
        let objects = Arc::new(PolicyObjects::new(
            trust_domain.clone(),
            Arc::<Willing>::clone(&cluster),
            Uptake {
                enforcement: Arc::new(PolicyEnforcement::new(trust_domain)),
                has_ready_pods: Box::new(move |_service| has_ready_pods),
            },
            (Arc::new(PausedClock(Instant::now())), Arc::new(Metrics::default())),
        ));
        for kind in [ObjectKind::ConfigMap, ObjectKind::BackendTlsPolicy] {
            objects.see(Seen::Listed { kind, version: Box::default(), objects: Vec::new() });
        }
        let (plans, plan) = watch::channel(Some(Arc::new(first)));
        let (roots, trusted) = watch::channel(None);
        let writing = Arc::clone(&objects);
        let running = tokio::spawn(async move {
            let (_term, terms) = watch::channel(Some(()));
            let latch = Readiness::default().latch("objects", "nothing");
            match writing.run(terms, |&()| trusted.clone(), plan, latch).await {}
        });
        Self { cluster, objects, plans, roots, _running: running }
    }

    fn plan(&self, plan: GatewayPlan) {
        self.plans.send_replace(Some(Arc::new(plan)));
    }

    /// How long it takes until so many of them were written, or removed.
    async fn time(&self, done: impl Fn(&Willing) -> &Mutex<Vec<ObjectKey>>, namespace: &str, count: usize) -> Duration {
        let begin = Instant::now();
        let is_one = |key: &&ObjectKey| key.kind == ObjectKind::BackendTlsPolicy && &*key.object.namespace == namespace;
        let found = || done(&self.cluster).lock().unwrap().iter().filter(is_one).count();
        while found() < count {
            assert!(begin.elapsed() < Duration::from_secs(900), "{} of {count} policies in {namespace}", found());
            sleep(Duration::from_millis(10)).await;
        }
        begin.elapsed()
    }
}

fn by_sds(name: &str, services: usize) -> NamespacePlan {
    namespace(name, services, &Verification::Sds(SdsUrl::Unix))
}

fn accepting(accounts: &[&str]) -> NamespacePlan {
    let accounts = accounts.iter().map(|account| account.parse().unwrap()).collect();
    namespace("z", 1, &Verification::Portable(accounts))
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_where_gateways_or_services_have_no_pods() {
    const SERVICES: usize = 5;
    let shortest = INTERVAL * (u32::try_from(SERVICES).unwrap() - 1);
    for (pods, has_ready_pods) in [(0, true), (1, false), (1, true)] {
        let active = Active::new(plan(pods, [by_sds("app", SERVICES)]), has_ready_pods);
        let time = active.time(|cluster| &cluster.applied, "app", SERVICES).await;
        assert!(time >= shortest && (time >= PATIENCE) == (pods == 1 && has_ready_pods), "{time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn identities_are_written_while_a_hundred_services_wait_for_a_proxy_that_says_nothing() {
    let active = Active::new(plan(1, [accepting(&["z/old"])]), true);
    active.time(|cluster| &cluster.applied, "z", 1).await;
    active.plan(plan(1, [accepting(&["z/old"]), by_sds("a", 100)]));
    active.time(|cluster| &cluster.applied, "a", 2).await;
    active.plan(plan(1, [accepting(&["z/new", "z/old"]), by_sds("a", 100)]));
    let time = active.time(|cluster| &cluster.applied, "z", 2).await;
    assert!(time < Duration::from_secs(1), "{time:?}");
    let others = active.time(|cluster| &cluster.applied, "a", 3).await;
    assert!(others > PATIENCE / 2, "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn what_sidecars_may_follow_is_gone_at_once_whatever_proxies_say() {
    const SERVICES: usize = 200;
    let active = Active::new(plan(1, [by_sds("app", SERVICES)]), true);
    active.time(|cluster| &cluster.applied, "app", SERVICES).await;
    active.plan(plan(1, [by_sds("app", SERVICES - 1)]));
    active.time(|cluster| &cluster.removed, "app", 1).await;
    active.plan(GatewayPlan { must_withdraw: true, ..plan(1, []) });
    let time = active.time(|cluster| &cluster.removed, "app", SERVICES).await;
    assert!(time < Duration::from_secs(2), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn what_sidecars_may_follow_is_gone_before_roots_are_known_and_nothing_else_is() {
    let key = |name: &str| ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: ObjectName::new("app", name) };
    let active = Active::without_roots(GatewayPlan { must_withdraw: true, ..plan(1, []) }, true);
    let see = |name: &str, version: &str| {
        let seen = active.cluster.seen(Print([7; 32]), None);
        active.objects.see(Seen::Put(key(name), SeenObject { uid: version.into(), version: version.into(), ..seen }));
    };
    (0..3).for_each(|number| see(&format!("countersign-s{number}"), "1"));
    let time = active.time(|cluster| &cluster.removed, "app", 3).await;
    assert!(time < Duration::from_secs(2), "{time:?}");
    // no istiod is unsafe any more: what is wanted is not known then
    active.plan(plan(1, [by_sds("app", 2)]));
    sleep(Duration::from_secs(60)).await;
    see("countersign-s1", "2");
    see("countersign-other", "2");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(active.cluster.removed.lock().unwrap().len(), 3, "without roots nothing is known to be wanted or not");
    assert!(active.cluster.applied.lock().unwrap().is_empty());
    active.know_roots();
    active.time(|cluster| &cluster.applied, "app", 2).await;
    active.time(|cluster| &cluster.removed, "app", 4).await;
    assert_eq!(active.cluster.removed.lock().unwrap().last(), Some(&key("countersign-other")));
}
