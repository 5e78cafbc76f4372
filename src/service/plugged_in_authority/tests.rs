use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::*;
use crate::{
    domain::{
        authority::Layout,
        clock::{BootInstant, Timestamp},
    },
    service::readiness::Readiness,
};

/// What rcgen's certificates are valid at when nothing else is said: from 1975 to 4096.
#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_795_348_800)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

type Set = BTreeMap<&'static str, String>;

/// A self-signed root that signs by itself, published with `beside`.
fn set(name: &str, beside: &str) -> Set {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    BTreeMap::from([
        ("ca-cert.pem", root.clone()),
        ("ca-key.pem", key.serialize_pem()),
        ("cert-chain.pem", root.clone()),
        ("root-cert.pem", root + beside),
    ])
}

/// Gives each planned set once, and the last one for ever.
#[derive(Default)]
struct Plan(Mutex<VecDeque<Result<Set, SourceError>>>);

impl Plan {
    fn then(&self, sets: impl IntoIterator<Item = Set>) {
        self.0.lock().unwrap().extend(sets.into_iter().map(Ok));
    }
}

impl AuthoritySource for Plan {
    fn read(&self) -> Result<AuthorityFiles, SourceError> {
        let mut planned = self.0.lock().unwrap();
        let next = if planned.len() > 1 { planned.pop_front().unwrap() } else { planned.front().unwrap().clone() };
        let contents = next?.into_iter().map(|(name, text)| (name, Zeroizing::new(text.into_bytes())));
        Ok(AuthorityFiles::new(Layout::Cacerts, contents.collect()))
    }
}

struct World {
    plan: Arc<Plan>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    authority: AuthorityReceiver,
}

impl World {
    async fn start(first: Set) -> Self {
        let (plan, metrics, readiness) = (Arc::<Plan>::default(), Arc::new(Metrics::new()), Readiness::default());
        plan.then([first]);
        let (files, authority) = load(&plan, &metrics).await.unwrap();
        tokio::spawn(files.run(readiness.latch("ca", "")));
        Self { plan, metrics, readiness, authority }
    }

    /// Whether the authority is replaced within three looks.
    async fn is_replaced(&mut self) -> bool {
        self.authority.mark_unchanged();
        timeout(LOOK_EVERY * 3 + SETTLE * 10, self.authority.changed()).await.is_ok()
    }

    fn roots(&self) -> String {
        self.authority.borrow().roots_pem().to_owned()
    }

    fn reloads(&self) -> (u32, u32) {
        let page = self.metrics.encode();
        let count = |outcome: &str| {
            let start = format!("countersign_authority_reloads_total{{outcome=\"{outcome}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap()
        };
        (count("loaded"), count("refused"))
    }
}

async fn load(plan: &Arc<Plan>, metrics: &Arc<Metrics>) -> Result<(PluggedInAuthority, AuthorityReceiver), LoadError> {
    let parts = Parts {
        source: Arc::clone(plan) as _,
        trust_domain: "cluster.local".parse().unwrap(),
        clock: Arc::new(FixedClock),
        metrics: Arc::clone(metrics),
    };
    PluggedInAuthority::load(parts).await
}

#[tokio::test(start_paused = true)]
async fn the_same_files_change_nothing() {
    let mut world = World::start(set("a", "")).await;
    assert!(!world.is_replaced().await);
    assert_eq!(world.reloads(), (0, 0));
    assert_eq!(world.readiness.report().to_string(), "ca: ready (until 4096-01-01T00:00:00Z)\n");
}

#[tokio::test(start_paused = true)]
async fn roots_are_added_and_removed_but_never_replaced() {
    let (old, new) = (set("old", ""), set("new", ""));
    let mut world = World::start(old.clone()).await;

    world.plan.then([new.clone()]);
    assert!(!world.is_replaced().await);
    assert_eq!(world.reloads(), (0, 1));
    assert!(world.readiness.report().is_ready());
    assert!(world.readiness.report().to_string().contains("replaced, not added"), "{:?}", world.readiness.report());

    let both = Set::from_iter(
        old.clone().into_iter().chain([("root-cert.pem", old["root-cert.pem"].clone() + &new["root-cert.pem"])]),
    );
    for (set, loaded) in [(both, 1), (new, 2)] {
        world.plan.then([set.clone()]);
        assert!(world.is_replaced().await);
        assert_eq!((world.roots(), world.reloads()), (set["root-cert.pem"].clone(), (loaded, 1)));
    }
    assert!(!world.is_replaced().await);
    assert_eq!(world.readiness.report().to_string(), "ca: ready (until 4096-01-01T00:00:00Z)\n");
}

#[tokio::test(start_paused = true)]
async fn a_bad_set_is_said_once_and_forgotten_when_the_old_one_is_back() {
    let good = set("a", "");
    let mut world = World::start(good.clone()).await;
    let mut bad = good.clone();
    bad.remove("ca-key.pem");
    world.plan.then([bad]);
    assert!(!world.is_replaced().await);
    assert!(!world.is_replaced().await);
    assert_eq!(world.reloads(), (0, 1));
    assert!(world.readiness.report().to_string().contains("ca-key.pem missing"), "{:?}", world.readiness.report());
    world.plan.then([good]);
    assert!(!world.is_replaced().await);
    assert_eq!(world.reloads(), (0, 1));
    assert!(!world.readiness.report().to_string().contains("missing"));
}

#[tokio::test(start_paused = true)]
async fn half_a_replacement_is_read_again_not_refused() {
    let old = set("a", "");
    let mut new = set("b", "");
    new.insert("root-cert.pem", new["root-cert.pem"].clone() + &old["root-cert.pem"]);
    let mut half = old.clone();
    let mut world = World::start(old).await;
    let steps = new.iter().map(|(name, text)| {
        half.insert(name, text.clone());
        half.clone()
    });
    world.plan.then(steps);
    assert!(world.is_replaced().await);
    assert_eq!((world.roots(), world.reloads()), (new["root-cert.pem"].clone(), (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn without_a_good_set_nothing_starts() {
    let (plan, metrics) = (Arc::<Plan>::default(), Arc::new(Metrics::new()));
    plan.then([Set::new()]);
    assert_eq!(load(&plan, &metrics).await.err(), Some(LoadError::Files(PluggedInError::Nothing)));

    let unreadable = SourceError { file: "dir".into(), problem: "gone".into() };
    let plan = Arc::new(Plan(Mutex::new(VecDeque::from([Err(unreadable.clone())]))));
    assert_eq!(load(&plan, &metrics).await.err(), Some(LoadError::Source(unreadable)));

    let plan = Arc::<Plan>::default();
    plan.then((0..=READS).map(|n| set(&n.to_string(), "")));
    assert_eq!(load(&plan, &metrics).await.err(), Some(LoadError::Unsettled));
}
