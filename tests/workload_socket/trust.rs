//! What the pair publishes, on the socket: to the wire, and to the `spiffe` crate.

use std::{sync::Arc, time::Duration};

use countersign::{
    domain::{
        authority::SigningAuthority,
        bundle::SpiffeBundle,
        clock::{Clock as _, Timestamp},
        jwt::JwtSigner,
        x509::Certificate,
    },
    grpc::workload_server::ServedTrust,
    proto::{
        JwtBundlesRequest, X509BundlesRequest, X509svidRequest,
        envoy::{
            extensions::transport_sockets::tls::v3::{SpiffeCertValidatorConfig, secret::Type},
            service::discovery::v3::DiscoveryResponse,
        },
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    service::published_trust::PublishedTrust,
};
use prost::Message as _;
use spiffe::WorkloadApiClient;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    secret_discovery::{acknowledge, ask, inline, secret, stream},
    support::{Behaviour, DEADLINE, Socket, TRUST_DOMAIN, TestClock, TestRandom, id},
    workload_api::next,
    workload_api_client::secured,
};

const OTHER: &str = "other.example";

fn root_of(trust_domain: &str) -> Certificate {
    let (clock, lifetime) = (TestClock::new(), Duration::from_secs(86_400));
    let made =
        SigningAuthority::self_signed(&trust_domain.parse().unwrap(), lifetime, clock.now(), &TestRandom::default());
    made.unwrap().0.certificate().clone()
}

fn bundle(trust_domain: &str, roots: Vec<Certificate>) -> SpiffeBundle {
    let signer = JwtSigner::generate(Timestamp::from_seconds(i64::from(u32::MAX))).unwrap();
    SpiffeBundle {
        trust_domain: trust_domain.parse().unwrap(),
        x509_authorities: roots,
        jwt_authorities: vec![signer.authority().clone()],
        sequence: Some(1),
        refresh_hint: None,
    }
}

/// A socket, and what is published.
struct World {
    socket: Socket,
    publish: watch::Sender<Option<Arc<PublishedTrust>>>,
    served: watch::Receiver<u64>,
}

impl World {
    async fn start() -> Self {
        let (publish, trust) = watch::channel(None);
        let served = watch::Sender::new(0);
        let seen = served.subscribe();
        let trust = ServedTrust { trust, served, was_asked: None };
        let mut socket = Socket::start_serving(Behaviour::SignFor(id()), 3600, Some(trust), None).await;
        if socket.publisher.revision() == 0 {
            socket.publisher.next().await;
        }
        Self { socket, publish, served: seen }
    }

    fn own_roots(&self) -> Vec<Certificate> {
        self.socket.publisher.published().unwrap().bundle.roots().to_vec()
    }

    /// Publishes these, in the bundle of this sequence, and waits until they are served.
    async fn publish(&mut self, sequence: u64, federated: Vec<SpiffeBundle>) {
        let own = SpiffeBundle { sequence: Some(sequence), ..bundle(TRUST_DOMAIN, self.own_roots()) };
        self.publish.send_replace(Some(Arc::new(PublishedTrust { own, tainted: Vec::new(), federated })));
        timeout(DEADLINE, self.served.wait_for(|served| *served == sequence)).await.expect("it is served").unwrap();
    }
}

fn by_name(response: &DiscoveryResponse) -> Vec<(String, Type)> {
    let secrets = response.resources.iter().map(secret);
    secrets.map(|secret| (secret.name, secret.r#type.unwrap())).collect()
}

/// The trust domains in a context of Envoy's SPIFFE validator, with their roots.
fn domains_of(content: Type) -> Vec<(String, String)> {
    let Type::ValidationContext(context) = content else { panic!("{content:?}") };
    assert_eq!(context.trusted_ca, None);
    let config = context.custom_validator_config.unwrap().typed_config.unwrap();
    let domains = SpiffeCertValidatorConfig::decode(config.value).unwrap().trust_domains;
    domains.into_iter().map(|domain| (domain.name, inline(domain.trust_bundle))).collect()
}

#[tokio::test]
async fn bundles_of_other_trust_domains_stand_beside_the_own_one_and_come_and_go() {
    let mut world = World::start().await;
    let other = root_of(OTHER);
    let mut client = SpiffeWorkloadApiClient::new(world.socket.connect().await);
    let mut svids = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    assert_eq!(next(&mut svids).await.federated_bundles.len(), 0);
    let own_only = next(&mut bundles).await.bundles;
    assert_eq!(own_only.keys().collect::<Vec<_>>(), ["spiffe://cluster.local"]);

    // one without roots is no bundle for X.509-SVIDs
    world.publish(2, vec![bundle("keys.example", Vec::new()), bundle(OTHER, vec![other.clone()])]).await;
    let expected = [("spiffe://other.example".to_owned(), other.der().to_vec().into())];
    let svid = next(&mut svids).await;
    assert_eq!(svid.federated_bundles, expected.clone().into());
    assert_eq!(svid.svids[0].bundle, own_only["spiffe://cluster.local"], "nothing is merged");
    let with_other = next(&mut bundles).await.bundles;
    assert_eq!(with_other, own_only.clone().into_iter().chain(expected).collect());

    let mut keys = client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.unwrap().into_inner();
    let keys = next(&mut keys).await.bundles;
    assert_eq!(keys.len(), 3);
    for (domain, jwks) in &keys {
        let jwks: serde_json::Value = serde_json::from_slice(jwks).unwrap();
        let members: Vec<_> = jwks.as_object().unwrap().keys().collect();
        assert_eq!(members, ["keys"], "{domain}: {jwks}");
        assert!(jwks["keys"][0].get("use").is_none() && jwks["keys"][0]["kid"].is_string(), "{domain}: {jwks}");
    }

    world.publish(3, Vec::new()).await;
    assert_eq!(next(&mut svids).await.federated_bundles.len(), 0);
    assert_eq!(next(&mut bundles).await.bundles, own_only);
}

#[tokio::test]
async fn envoy_gets_each_trust_domain_by_its_name_and_all_of_them_kept_apart() {
    let mut world = World::start().await;
    let own: String = world.own_roots().iter().map(Certificate::to_pem).collect();
    let other = root_of(OTHER);
    let (requests, mut all) = stream(&world.socket, ask(&["ALL"])).await;
    let response = next(&mut all).await;
    let (_, content) = by_name(&response).remove(0);
    assert_eq!(domains_of(content), [(TRUST_DOMAIN.to_owned(), own.clone())]);
    requests.send(acknowledge(&response, &["ALL"])).unwrap();
    // asked for before it is federated: withheld, and neither refused nor in the way of what is served
    let (_requests, mut one) = stream(&world.socket, ask(&["ROOTCA", "spiffe://other.example"])).await;
    let names = |response: &DiscoveryResponse| by_name(response).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let first = next(&mut one).await;
    assert_eq!(names(&first), ["ROOTCA"]);
    _requests.send(acknowledge(&first, &["ROOTCA", "spiffe://other.example"])).unwrap();

    world.publish(2, vec![bundle(OTHER, vec![other.clone()])]).await;
    let (_, content) = by_name(&next(&mut all).await).remove(0);
    assert_eq!(domains_of(content), [(TRUST_DOMAIN.to_owned(), own.clone()), (OTHER.to_owned(), other.to_pem())]);
    for (name, content) in by_name(&next(&mut one).await) {
        let Type::ValidationContext(context) = content else { panic!("{content:?}") };
        assert_eq!(inline(context.trusted_ca), if name == "ROOTCA" { own.clone() } else { other.to_pem() }, "{name}");
    }
    let (_requests, mut wildcard) = stream(&world.socket, ask(&[])).await;
    let expected = ["spiffe://cluster.local", "spiffe://cluster.local/ns/default/sa/gateway", "spiffe://other.example"];
    assert_eq!(names(&next(&mut wildcard).await), expected);
}

#[tokio::test]
async fn it_is_served_only_while_the_own_roots_are_those_that_are_published() {
    let mut world = World::start().await;
    let own = SpiffeBundle { sequence: Some(5), ..bundle(TRUST_DOMAIN, vec![root_of(TRUST_DOMAIN)]) };
    let trust = PublishedTrust { own, tainted: Vec::new(), federated: vec![bundle(OTHER, vec![root_of(OTHER)])] };
    let mut client = SpiffeWorkloadApiClient::new(world.socket.connect().await);
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    next(&mut bundles).await;
    world.publish.send_replace(Some(Arc::new(trust)));
    assert_eq!(next(&mut bundles).await.bundles.len(), 2, "the rest is served");
    assert_eq!(*world.served.borrow(), 0);
    world.publish(6, Vec::new()).await;
}

/// For so long the first messages wait for the pair.
const WAITS: Duration = Duration::from_secs(1);
/// Of a pair that is silent, also on a busy machine.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_first_of_each_stream_is_whole_and_comes_soon_when_there_is_nothing_to_make_it_so() {
    let begun = Instant::now();
    assert_eq!(first_messages(false).await, Some([1, 1, 0, 1]));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for _ in 0..20 {
        if let Some(whole) = first_messages(true).await {
            assert_eq!(whole, [2, 2, 1, 2]);
            return;
        }
    }
    panic!("this machine does not get that far within {WAITS:?}");
}

/// Of how many trust domains the first message of each stream tells a client that reads once and goes, while the pair publishes another one
/// or is silent; `None` if it came to that too late.
async fn first_messages(pair_speaks: bool) -> Option<[usize; 4]> {
    let (publish, trust) = watch::channel(None);
    let (asked, was_asked) = watch::channel(false);
    let trust = ServedTrust { trust, served: watch::Sender::new(0), was_asked: Some(was_asked) };
    let begun = Instant::now();
    let mut socket = Socket::start_serving(Behaviour::SignFor(id()), 3600, Some(trust), None).await;
    if socket.publisher.revision() == 0 {
        socket.publisher.next().await;
    }
    let mut client = SpiffeWorkloadApiClient::new(socket.connect().await);
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut keys = client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.unwrap().into_inner();
    let mut svids = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    let (_requests, mut all) = stream(&socket, ask(&["ALL"])).await;
    if pair_speaks {
        let roots = socket.publisher.published().unwrap().bundle.roots().to_vec();
        let (own, other) = (bundle(TRUST_DOMAIN, roots), bundle(OTHER, vec![root_of(OTHER)]));
        let published = PublishedTrust { own, tainted: Vec::new(), federated: vec![other] };
        publish.send_replace(Some(Arc::new(published)));
        asked.send_replace(true);
    }
    let is_in_time = begun.elapsed() < WAITS;
    let [bundles, keys] = [next(&mut bundles).await.bundles.len(), next(&mut keys).await.bundles.len()];
    let others = next(&mut svids).await.federated_bundles.len();
    let (_, content) = by_name(&next(&mut all).await).remove(0);
    (is_in_time || !pair_speaks).then(|| [bundles, keys, others, domains_of(content).len()])
}

#[tokio::test]
async fn the_spiffe_crate_takes_them() {
    let mut world = World::start().await;
    world.publish(2, vec![bundle("keys.example", Vec::new()), bundle(OTHER, vec![root_of(OTHER)])]).await;
    let client = timeout(DEADLINE, WorkloadApiClient::connect_to(world.socket.uri())).await.unwrap().unwrap();
    let x509 = client.fetch_x509_bundles().await.unwrap();
    let jwt = client.fetch_jwt_bundles().await.unwrap();
    let context = client.fetch_x509_context().await.unwrap();
    assert_eq!((x509.len(), jwt.len(), context.bundle_set().len()), (2, 3, 2));
    let other = x509.get(&OTHER.try_into().unwrap()).unwrap();
    assert_eq!(other.authorities().len(), 1);
}
