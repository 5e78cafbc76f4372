mod files;
mod polling;

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::*;
use crate::{
    domain::{
        authority::{
            SigningAuthority,
            testing::{NOW, TestRandom},
        },
        bundle::BundleEndpoint,
        clock::{BootInstant, Timestamp},
        leadership::Term,
        x509::Certificate,
    },
    service::{
        denial::Actor,
        ports::{ByActive, OrderError, StateError, StateObject, StateStore, Versioned},
        signing_state::{Claim, Origin, PartnersError, SigningState},
    },
};

/// Keeps objects in memory.
#[derive(Default)]
struct Memory(Mutex<HashMap<StateObject, Versioned>>);

impl StateStore for Memory {
    fn claim(&self, _term: Term) -> Result<(), StateError> {
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        Ok(self.0.lock().unwrap().get(&object).cloned())
    }

    fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError> {
        let mut objects = self.0.lock().unwrap();
        let found = objects.get(&object).map_or(0, |object| object.version);
        assert_eq!(found, expected, "there is one writer");
        let version = found + 1;
        objects.insert(object, Versioned { version, term, content: Zeroizing::new(content.to_vec()) });
        Ok(version)
    }
}

/// As late after `NOW` as it was made ago.
struct SinceNow(Instant);

impl Clock for SinceNow {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

struct Alone;

impl FederationOfActive for Alone {
    fn federate<'a>(
        &'a self,
        _order: &'a FederationOrder,
        _actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Vec<FederatedDomain>>, OrderError>> {
        Box::pin(async { Err(OrderError::NoActive("nobody else is there".into())) })
    }
}

/// What an endpoint answers to the call of this number; nothing at all if it hangs.
type Script = Box<dyn Fn(u64) -> Option<Result<Vec<u8>, String>> + Send + Sync>;

struct Scripted {
    script: Script,
    calls: AtomicU64,
}

/// A host that never answers, whatever the script.
const HANGS: &str = "hangs.example";
/// One that takes its time.
const SLOW: &str = "slow.example";
const TIME_OF_SLOW: Duration = Duration::from_secs(3);

impl BundleFetcher for Scripted {
    fn fetch<'a>(
        &'a self,
        url: &'a EndpointUrl,
        authentication: EndpointAuthentication,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        if url.host() == HANGS {
            return Box::pin(std::future::pending());
        }
        if let EndpointAuthentication::Spiffe { id, bundle } = authentication {
            assert_eq!(id.trust_domain(), bundle.trust_domain());
        }
        let answer = (self.script)(self.calls.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            if url.host() == SLOW {
                sleep(TIME_OF_SLOW).await;
            }
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

/// One file, of whatever path; without content it is not there.
#[derive(Default)]
struct OneFile(Mutex<Option<Vec<u8>>>);

impl OneFile {
    fn set(&self, content: Option<&[u8]>) {
        *self.0.lock().unwrap() = content.map(<[u8]>::to_vec);
    }
}

impl BundleFiles for OneFile {
    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap().clone().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// One replica of trust domain `own`.
struct World {
    file: Arc<OneFile>,
    federation: Arc<Federation>,
    fetcher: Arc<Scripted>,
    session: Arc<SigningSession>,
    metrics: Arc<Metrics>,
    sessions: watch::Sender<Option<Arc<SigningSession>>>,
}

impl World {
    fn new(script: Script, configured: Vec<ConfiguredPartner>) -> Self {
        Self::over(&Arc::default(), script, configured)
    }

    fn over(store: &Arc<Memory>, script: Script, configured: Vec<ConfiguredPartner>) -> Self {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn SecureRandom>) =
            (Arc::new(SinceNow(Instant::now())), Arc::new(TestRandom));
        let (store, own) = (Arc::clone(store), "own".parse::<TrustDomain>().unwrap());
        let open = Box::new(move || Ok(Arc::clone(&store) as Arc<dyn StateStore>));
        let state = SigningState::new(open, Origin::SelfSigned, own.clone(), Arc::clone(&clock), Arc::clone(&random));
        let Ok(Claim::Claimed(claimed)) = state.claim(Term::new(1)) else { panic!("the term is not claimed") };
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let (sessions, session_receiver) = watch::channel(Some(Arc::clone(&session)));
        let fetcher = Arc::new(Scripted { script, calls: AtomicU64::new(0) });
        let (metrics, file) = (Arc::new(Metrics::new()), Arc::<OneFile>::default());
        let federation = Arc::new(Federation::new(Parts {
            session: session_receiver,
            trust_domain: own,
            configured,
            fetcher: Arc::clone(&fetcher) as _,
            files: Arc::clone(&file) as _,
            pair: Arc::new(Alone),
            clock,
            random,
            metrics: Arc::clone(&metrics),
        }));
        Self { file, federation, fetcher, session, metrics, sessions }
    }

    fn run(&self) -> tokio::task::JoinHandle<()> {
        let federation = Arc::clone(&self.federation);
        tokio::spawn(async move { match federation.run().await {} })
    }

    fn published(&self) -> Vec<SpiffeBundle> {
        self.session.trust().borrow().as_ref().unwrap().federated.clone()
    }

    /// With the sequences that partners have counted to meanwhile, of which nobody is told.
    fn kept(&self) -> Vec<SpiffeBundle> {
        let partners = state_of(&self.session).unwrap().partners().unwrap();
        partners.into_values().filter_map(|partner| partner.bundle).collect()
    }

    async fn order(&self, order: FederationOrder) -> Result<Vec<FederatedDomain>, FederationError> {
        self.federation.order(order, Actor { uid: 7, asserted_by: None }).await
    }

    fn fetches(&self, outcome: &str) -> u64 {
        let start = format!("countersign_federated_bundle_fetches_total{{outcome=\"{outcome}\"}} ");
        let page = self.metrics.encode();
        page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }
}

fn authority_of(trust_domain: &str) -> Certificate {
    let lifetime = Duration::from_secs(864_000);
    let made = SigningAuthority::self_signed(&trust_domain.parse().unwrap(), lifetime, NOW, &TestRandom);
    made.unwrap().0.certificate().clone()
}

fn bundle(sequence: u64, root: &Certificate) -> SpiffeBundle {
    SpiffeBundle {
        trust_domain: "other".parse().unwrap(),
        x509_authorities: vec![root.clone()],
        jwt_authorities: Vec::new(),
        sequence: Some(sequence),
        refresh_hint: Some(Duration::from_secs(60)),
    }
}

fn endpoint(profile: EndpointProfile) -> BundleEndpoint {
    BundleEndpoint { url: "https://other.example/".parse().unwrap(), profile }
}

fn relationship(profile: EndpointProfile) -> Relationship {
    Relationship { trust_domain: "other".parse().unwrap(), source: BundleSource::Endpoint(endpoint(profile)) }
}

fn self_serving() -> EndpointProfile {
    EndpointProfile::HttpsSpiffe("spiffe://other/endpoint".parse().unwrap())
}

fn configured(bundle: Option<SpiffeBundle>) -> ConfiguredPartner {
    let bootstrap = bundle.map(|bundle| Bootstrap { digest: bundle.sequence.unwrap().to_string(), bundle });
    let profile = if bootstrap.is_some() { self_serving() } else { EndpointProfile::HttpsWeb };
    ConfiguredPartner { relationship: relationship(profile), bootstrap }
}

fn create(profile: EndpointProfile, bundle: Option<SpiffeBundle>) -> FederationOrder {
    create_with("other", profile, bundle)
}

fn create_with(trust_domain: &str, profile: EndpointProfile, bundle: Option<SpiffeBundle>) -> FederationOrder {
    let (trust_domain, endpoint) = (trust_domain.parse().unwrap(), endpoint(profile));
    FederationOrder::Create(Box::new(NewPartner { trust_domain, endpoint, bundle, reason: None }))
}

#[tokio::test(start_paused = true)]
async fn what_is_configured_is_published_at_once_outlasts_a_restart_and_ends_with_the_configuration() {
    let (store, root) = (Arc::<Memory>::default(), authority_of("other"));
    let fetched = root.clone();
    let script: Script = Box::new(move |_| Some(Ok(bundle(5, &fetched).to_json().into_bytes())));
    let world = World::over(&store, script, vec![configured(Some(bundle(1, &root)))]);
    let running = world.run();
    let is_fetched = |world: &World| world.kept().first().and_then(|bundle| bundle.sequence) == Some(5);
    while !is_fetched(&world) {
        sleep(Duration::from_millis(10)).await;
    }
    running.abort();

    let silent = || -> Script { Box::new(|_| None) };
    let world = World::over(&store, silent(), vec![configured(Some(bundle(1, &root)))]);
    assert!(is_fetched(&world), "a term begins with what was kept");
    let running = world.run();
    sleep(Duration::from_secs(5)).await;
    assert!(is_fetched(&world), "what was handed over once does not come back");
    let page = world.metrics.encode();
    for (family, value) in [("fetched_timestamp", NOW.seconds()), ("interval", 60)] {
        let line = format!("countersign_federated_bundle_{family}_seconds{{trust_domain=\"other\"}} {value}\n");
        assert!(page.contains(&line), "how old it is shows although nobody answers: {line} is not in\n{page}");
    }
    running.abort();

    let world = World::over(&store, silent(), vec![configured(Some(bundle(2, &root)))]);
    let running = world.run();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.kept(), [bundle(2, &root)], "another one that is handed over does");
    running.abort();

    let world = World::over(&store, silent(), Vec::new());
    let running = world.run();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.published(), []);
    assert!(!world.metrics.encode().contains("trust_domain="), "{}", world.metrics.encode());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn operators_make_and_end_relationships() {
    let root = authority_of("other");
    let served = root.clone();
    let script: Script = Box::new(move |call| {
        Some(if call == 0 { Ok(bundle(3, &served).to_json().into_bytes()) } else { Err("no route".into()) })
    });
    let world = World::new(script, Vec::new());
    let other: TrustDomain = "other".parse().unwrap();
    let delete = || FederationOrder::Delete { trust_domain: other.clone(), reason: None };
    for (order, refusal) in [
        (create_with("own", EndpointProfile::HttpsWeb, None), FederationError::Own("own".parse().unwrap())),
        (create(self_serving(), None), FederationError::NoBundle(other.clone())),
        (delete(), FederationError::Unknown(other.clone())),
        (FederationOrder::Refresh(other.clone()), FederationError::Unknown(other.clone())),
    ] {
        assert_eq!(world.order(order).await, Err(refusal));
    }
    let [made] = world.order(create(self_serving(), Some(bundle(1, &root)))).await.unwrap().try_into().unwrap();
    assert_eq!((made.bundle, made.fetched_at, made.is_configured), (Some(bundle(1, &root)), None, false));
    assert_eq!(world.published(), [bundle(1, &root)], "what is handed over is published");

    let [fetched] = world.order(FederationOrder::Refresh(other.clone())).await.unwrap().try_into().unwrap();
    assert_eq!((fetched.bundle, fetched.fetched_at), (Some(bundle(3, &root)), Some(NOW)));
    assert!(world.metrics.encode().contains("trust_domain=\"other\""), "{}", world.metrics.encode());
    let error = world.order(FederationOrder::Refresh(other.clone())).await.unwrap_err();
    assert_eq!(error, FederationError::NotFetched { trust_domain: other.clone(), error: "no route".into() });
    let [listed] = world.order(FederationOrder::List).await.unwrap().try_into().unwrap();
    assert_eq!((listed.bundle, listed.trouble.as_deref()), (Some(bundle(3, &root)), Some("no route")));
    assert_eq!(world.kept(), [bundle(3, &root)]);
    assert_eq!(world.published(), [bundle(1, &root)], "a sequence alone is told nobody");

    world.order(create(EndpointProfile::HttpsWeb, None)).await.unwrap();
    assert_eq!(world.kept(), [bundle(3, &root)], "another endpoint takes no bundle away");
    assert_eq!(world.order(delete()).await, Ok(Vec::new()));
    assert_eq!(world.published(), []);
    assert!(!world.metrics.encode().contains("trust_domain="), "{}", world.metrics.encode());
    assert_eq!(world.order(FederationOrder::List).await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn what_is_configured_is_not_an_operators_to_change_and_without_a_term_nothing_is() {
    let world = World::new(Box::new(|_| None), vec![configured(None)]);
    let other: TrustDomain = "other".parse().unwrap();
    let delete = FederationOrder::Delete { trust_domain: other.clone(), reason: None };
    for order in [create(EndpointProfile::HttpsWeb, None), delete] {
        assert_eq!(world.order(order).await, Err(FederationError::Configured(other.clone())));
    }
    world.sessions.send_replace(None);
    let refused = world.order(FederationOrder::List).await;
    assert_eq!(refused, Err(OrderError::NoActive("nobody else is there".into()).into()));
    let passed_on = Actor { uid: 7, asserted_by: Some("replica-1".into()) };
    assert_eq!(world.federation.order(FederationOrder::List, passed_on).await, Err(OrderError::NotActive.into()));
}

#[test]
fn what_is_handed_over_by_a_configuration_has_the_roots_of_a_rotation_and_no_more_than_can_be_kept() {
    let read = |count: usize| {
        let pem: String = (0..count).map(|_| authority_of("other").to_pem()).collect();
        Bootstrap::read("other".parse().unwrap(), pem.as_bytes()).map(|read| read.bundle.x509_authorities.len())
    };
    assert_eq!(read(16), Ok(16));
    let refused = read(40).unwrap_err();
    assert!(refused.contains("what is kept of other would take") && refused.contains("at most 12288"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn bundles_take_no_more_room_than_there_is() {
    let world = World::new(Box::new(|_| None), Vec::new());
    let many = |count: usize| SpiffeBundle {
        x509_authorities: (0..count).map(|_| authority_of("other")).collect(),
        ..bundle(1, &authority_of("other"))
    };
    let too_large = world.order(create(EndpointProfile::HttpsWeb, Some(many(40)))).await.unwrap_err();
    assert!(matches!(too_large, FederationError::Partners(PartnersError::TooLarge { .. })), "{too_large}");
    let large = many(12);
    let mut refused = None;
    for number in 0..4 {
        let name = format!("other-{number}");
        let bundle = SpiffeBundle { trust_domain: name.parse().unwrap(), ..large.clone() };
        refused = world.order(create_with(&name, EndpointProfile::HttpsWeb, Some(bundle))).await.err();
    }
    let refused = refused.expect("four of them are too many");
    assert!(matches!(refused, FederationError::Partners(PartnersError::Full { .. })), "{refused}");
    assert!(!world.published().is_empty() && world.published().len() < 4);
}
