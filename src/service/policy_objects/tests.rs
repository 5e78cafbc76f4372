//! How fast policies are written by who has nobody to hear. Time is paused: it jumps to the next thing that is due.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    domain::{
        authority::testing::authority,
        clock::Timestamp,
        policy::{DesiredPolicy, GatewayState, ObjectKind, SdsUrl, ServicePlan, Verification},
    },
    service::{ports::BoxFuture, readiness::Readiness},
};

const SERVICES: usize = 5;
/// Until the next policy may be written where nobody says that the one before is used.
const INTERVAL: Duration = Duration::from_millis(150);
/// For how long it is waited for somebody who may say so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes everything at once.
#[derive(Default)]
struct Willing(AtomicU64);

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
    fn print(&self, _wanted: &Wanted) -> Print {
        Print([7; 32])
    }

    fn apply<'a>(&'a self, wanted: &'a Wanted, _: Option<&'a str>) -> BoxFuture<'a, Result<SeenObject, WriteError>> {
        let seen = SeenObject {
            version: (self.0.fetch_add(1, Ordering::Relaxed) + 1).to_string().into(),
            uid: "u".into(),
            print: self.print(wanted),
            ours: true,
            going: None,
            needs: wanted.needs().cloned(),
            is_unusable: false,
            routed: None,
        };
        Box::pin(async { Ok(seen) })
    }

    fn remove<'a>(&'a self, _: &'a ObjectKey, _: Option<&'a SeenObject>) -> BoxFuture<'a, Result<Removed, WriteError>> {
        Box::pin(async { Ok(Removed::Gone) })
    }
}

/// Services to which a Route leads from one Gateway with that many pods.
fn plan(pods: usize) -> GatewayPlan {
    let gateway = ObjectName::new("edge", "public");
    let services = (0..SERVICES).map(|number| {
        let service = ObjectName::new("app", &format!("s{number}"));
        let verification = Verification::Sds(SdsUrl::Unix);
        let policy = DesiredPolicy { service: service.clone(), owner: "u".into(), verification, is_routed: true };
        let plan = ServicePlan {
            service: service.clone(),
            gateways: [gateway.clone()].into(),
            routed: [gateway.clone()].into(),
            policy: Some(policy),
            uptake: None,
            conditions: [].into(),
        };
        (service.name, Arc::new(plan))
    });
    let namespace = NamespacePlan { name: "app".into(), services: services.collect() };
    let carriers = (pods > 0).then(|| ("edge/envoy".parse().unwrap(), [gateway.clone()].into())).into_iter().collect();
    let state =
        GatewayState { gateway: gateway.clone(), uid: "g".into(), is_ready: true, carriers, conditions: [].into() };
    GatewayPlan {
        revision: 1,
        namespaces: [("app".into(), Arc::new(namespace))].into(),
        gateways: [(gateway, Arc::new(state))].into(),
    }
}

/// How long it takes to write all of them while nobody says anything.
async fn time_beside(pods: usize, has_ready_pods: bool) -> Duration {
    let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
    let (begin, metrics) = (Instant::now(), Arc::new(Metrics::default()));
    let objects = Arc::new(PolicyObjects::new(
        trust_domain.clone(),
        Arc::new(Willing::default()),
        Uptake {
            enforcement: Arc::new(PolicyEnforcement::new(trust_domain)),
            has_ready_pods: Box::new(move |_service| has_ready_pods),
        },
        (Arc::new(PausedClock(begin)), metrics),
    ));
    for kind in [ObjectKind::ConfigMap, ObjectKind::BackendTlsPolicy] {
        objects.see(Seen::Listed { kind, version: Box::default(), objects: Vec::new() });
    }
    let (_term, terms) = watch::channel(Some(()));
    let (_plan, plans) = watch::channel(Some(Arc::new(plan(pods))));
    let (_roots, roots) = watch::channel(Some(Arc::new(authority().bundle().clone())));
    let latch = Readiness::default().latch("objects", "nothing");
    let written = Arc::clone(&objects);
    let running = tokio::spawn(async move { objects.run(terms, |&()| roots.clone(), plans, latch).await });
    let right = || written.ledger().counts(ObjectKind::BackendTlsPolicy).right;
    while right() < SERVICES {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} policies", right());
        sleep(Duration::from_millis(10)).await;
    }
    running.abort();
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_where_gateways_or_services_have_no_pods() {
    let shortest = INTERVAL * (u32::try_from(SERVICES).unwrap() - 1);
    for without in [time_beside(0, true).await, time_beside(1, false).await] {
        assert!(without >= shortest && without < PATIENCE, "{without:?}");
    }
    let with = time_beside(1, true).await;
    assert!(with >= PATIENCE, "{with:?}");
}
