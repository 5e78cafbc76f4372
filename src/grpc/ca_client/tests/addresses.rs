//! Several addresses: which one is asked, and that a request is not brought to two that would both pass it on.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::watch;
use tonic::transport::Server;

use super::*;
use crate::{
    domain::{
        authority::{TtlBounds, issue, testing::TestRandom},
        clock::{BootInstant, Clock, Timestamp},
        x509::{PrivateKey, TrustBundle, VerifiedCsr},
    },
    grpc::{
        ca_client::order::LAST_FOR, pass_on_service::PassOnService, server_tls::server_config, tls_listener::accept_tls,
    },
    service::{
        istiod_pass_on::{KnownRoots, Parts, PassOn},
        metrics::Metrics,
        ports::{AskError, Istiod, IstiodAddress, PassedRequest},
    },
};

/// Answers after a while, and counts what it is asked.
struct SlowIstiod {
    world: World,
    takes: Duration,
    asked: AtomicUsize,
}

impl Istiod for SlowIstiod {
    fn ask<'a>(
        &'a self,
        _roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            sleep(self.takes).await;
            let message: IstioCertificateRequest = prost::Message::decode(request.message.as_slice()).unwrap();
            let csr = VerifiedCsr::from_pem(message.csr.as_bytes()).unwrap();
            let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
            let id = ID.parse().unwrap();
            let World { authority, now, .. } = &self.world;
            Ok(issue(authority, &csr, &id, 0, &bounds, *now, &TestRandom).unwrap().response_chain(authority))
        })
    }

    fn reach<'a>(&'a self, _roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

struct TestClock(Timestamp, Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.0.plus(self.1.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.1.elapsed())
    }
}

/// A replica in front of istiod.
async fn replica(istiod: &Arc<SlowIstiod>) -> String {
    let world = &istiod.world;
    let bundle = Some(Arc::new(world.authority.bundle().clone()));
    let (_, roots) = watch::channel(KnownRoots { bundle, trouble: None });
    let at = IstiodAddress { name: "istiod".into(), address: "istiod:15012".into(), server_name: "istiod".into() };
    let (_, istiods) = watch::channel([at].into());
    let asked = Arc::clone(istiod);
    let pass_on = Arc::new(PassOn::new(Parts {
        istiods,
        way: Arc::new(move |_| Arc::clone(&asked) as _),
        roots,
        trust_domain: "cluster.local".parse().unwrap(),
        per_second: 1000.try_into().unwrap(),
        clock: Arc::new(TestClock(world.now, Instant::now())),
        metrics: Arc::new(Metrics::before_istiod()),
    }));
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let (_, tls) = watch::channel(Some(server_config(&world.issued().0, &(Arc::new(SystemNow) as _)).unwrap()));
    let service = PassOnService::new(pass_on, 1 << 16);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accept_tls(tcp, tls)));
    address
}

fn csr() -> String {
    PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap()
}

#[tokio::test]
async fn what_one_replica_has_taken_to_istiod_is_not_brought_to_the_other_one() {
    let world = World::new();
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:default:gateway"}"#);
    world.write_token(format!("e30.{claims}.c2ln").as_bytes());
    let takes = PATIENCE * 2 + PATIENCE / 2;
    let istiod = Arc::new(SlowIstiod { world, takes, asked: AtomicUsize::new(0) });
    let client = istiod.world.client(&[&replica(&istiod).await, &replica(&istiod).await]);
    let answer = client.sign(&csr(), 0).await.unwrap();
    assert_eq!(answer.chain.leaf().spiffe_id().unwrap().to_string(), ID);
    assert_eq!(istiod.asked.load(Ordering::Relaxed), 1);

    // a refusal comes in the same way
    let refused = client.sign("no CSR", 0).await.unwrap_err().to_string();
    assert!(refused.contains("InvalidArgument: CSR signing error ("), "{refused}");
}

#[tokio::test]
async fn an_address_whose_answers_are_of_no_use_is_not_the_first_one_for_a_while() {
    let world = World::new();
    let counted = |name: &'static str| {
        let (count, chain) = (Arc::new(AtomicUsize::new(0)), world.issued().1);
        let counting = Arc::clone(&count);
        let ca = world.looking_ca(move |_| {
            counting.fetch_add(1, Ordering::Relaxed);
            Ok(chain.clone())
        });
        (name, ca, count)
    };
    let ((_, one, at_one), (_, other, at_other)) = (counted("one"), counted("other"));
    let client = world.client(&[&one.await, &other.await]);
    let asked = || (at_one.load(Ordering::Relaxed), at_other.load(Ordering::Relaxed));
    sign(&client).await.unwrap();
    assert_eq!(asked(), (1, 0));
    client.unusable();
    sign(&client).await.unwrap();
    assert_eq!(asked(), (1, 1));
    assert!(LAST_FOR > PATIENCE * 2);
}

#[tokio::test]
async fn a_connection_on_which_nothing_was_heard_is_not_used_again() {
    let world = World::new();
    let holding = world.slow_ca(Err(Status::unavailable("nobody is active")), HOUR).await;
    let client = world.client(&[&holding, &world.good_ca().await]);
    sign(&client).await.unwrap();
    let kept: Vec<_> = client.channels.lock().unwrap().iter().map(Option::is_some).collect();
    assert_eq!(kept, [false, true]);
}
