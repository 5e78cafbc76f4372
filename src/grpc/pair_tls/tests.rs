//! Real handshakes, over a pipe in memory.

use std::{
    io,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use rustls::{
    DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion, client::danger::HandshakeSignatureValid,
    crypto::ring::default_provider, pki_types::PrivateKeyDer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{
    domain::{
        authority::{
            PairAuthority, SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        clock::BootInstant,
        identity::TrustDomain,
        x509::{PrivateKey, VerifiedCsr},
    },
    service::{replica_identity::ReplicaIdentity, svid_publisher::WorkloadIdentity},
};

/// Seconds after [`NOW`].
#[derive(Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.plus(Duration::from_secs(self.0.load(Ordering::Relaxed).unsigned_abs()))
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

struct Pair {
    authority: PairAuthority,
    clock: Arc<TestClock>,
}

impl Pair {
    fn new() -> Self {
        let (authority, _) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
        Self { authority, clock: Arc::default() }
    }

    fn identity(&self) -> ReplicaIdentity {
        let id = ReplicaId::new(&trust_domain(), "uid-1").unwrap();
        let svid = self.authority.replica_svid(&id, NOW, &TestRandom).unwrap();
        ReplicaIdentity { svid, bundle: self.authority.bundle().clone() }
    }

    fn configurations(&self, identity: &ReplicaIdentity) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        let shown = Shown { svid: &identity.svid, bundle: &identity.bundle, peers: Peers::OfPairAuthority };
        shown.configurations(&clock).unwrap()
    }
}

/// A certificate of `authority` for whatever ID.
fn svid(authority: &SigningAuthority, id: &str) -> X509Svid {
    let id: SpiffeId = id.parse().unwrap();
    let key = PrivateKey::generate_p256().unwrap();
    let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
    let day = Duration::from_secs(86_400);
    let issued = issue(authority, &csr, &id, 0, &TtlBounds::new(day, day).unwrap(), NOW, &TestRandom).unwrap();
    X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap()
}

/// What each side makes of the other: a byte to and fro, so that either has seen what the other thinks.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (io::Result<()>, io::Result<()>) {
    let (here, there) = duplex(1 << 16);
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(here).await?;
        stream.write_all(b"s").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    let client = async {
        let mut stream = TlsConnector::from(client).connect(server_name(), there).await?;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.write_all(b"c").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    tokio::join!(server, client)
}

/// A client that believes everybody, with `svid` if it has one.
fn stranger(svid: Option<&X509Svid>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match svid {
        None => builder.with_no_client_auth(),
        Some(svid) => {
            let chain = svid.chain().iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
            let key = PrivateKeyDer::Pkcs8(svid.key().pkcs8().to_vec().into());
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn replicas_of_one_pair_meet() {
    let pair = Pair::new();
    let (server, _) = pair.configurations(&pair.identity());
    let (_, client) = pair.configurations(&pair.identity());
    for _ in 0..2 {
        let (server, client) = meet(Arc::clone(&server), Arc::clone(&client)).await;
        server.unwrap();
        client.unwrap();
    }
}

#[tokio::test]
async fn whoever_is_no_replica_of_this_pair_gets_no_connection() {
    let pair = Pair::new();
    let (server, _) = pair.configurations(&pair.identity());
    let mesh = authority();
    let of_mesh = svid(&mesh, "spiffe://cluster.local/ns/default/sa/gateway");
    let named_so_by_mesh = svid(&mesh, "spiffe://cluster.local/countersign/replica/uid-1");
    let of_another_pair = Pair::new().identity().svid;
    for (who, svid, said) in [
        ("with no certificate", None, "no certificate"),
        ("with a certificate of the mesh", Some(&of_mesh), "does not verify"),
        ("with a replica's name from the mesh", Some(&named_so_by_mesh), "does not verify"),
        ("with a certificate of another pair", Some(&of_another_pair), "does not verify"),
    ] {
        let client = stranger(svid, &[&rustls::version::TLS13]);
        let (server, client) = meet(Arc::clone(&server), client).await;
        let refusal = server.expect_err(who).to_string();
        assert!(refusal.contains(said), "{who}: {refusal}");
        client.expect_err(who);
    }
}

#[tokio::test]
async fn of_the_pair_authority_only_replicas_of_the_trust_domain_are_let_in() {
    let pair = Pair::new();
    let (authority, key) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
    let identity = |id: &ReplicaId| ReplicaIdentity {
        svid: authority.replica_svid(id, NOW, &TestRandom).unwrap(),
        bundle: authority.bundle().clone(),
    };
    let replica = identity(&ReplicaId::new(&trust_domain(), "uid-1").unwrap());
    let foreign = identity(&ReplicaId::new(&"other.example".parse().unwrap(), "uid-1").unwrap());
    let signing = SigningAuthority::from_parts(
        authority.certificate().clone(),
        &key,
        Vec::new(),
        authority.bundle().clone(),
        NOW,
    );
    let account = svid(&signing.unwrap(), "spiffe://cluster.local/ns/default/sa/gateway");
    let account = ReplicaIdentity { svid: account, bundle: authority.bundle().clone() };
    let (server, client) = pair.configurations(&replica);
    for (who, stranger) in [("another trust domain", foreign), ("a service account", account)] {
        let (its_server, its_client) = pair.configurations(&stranger);
        let (refusal, _) = meet(Arc::clone(&server), its_client).await;
        assert!(refusal.expect_err(who).to_string().contains("is no replica"), "{who} as a client");
        let (_, refusal) = meet(its_server, Arc::clone(&client)).await;
        assert!(refusal.expect_err(who).to_string().contains("is no replica"), "{who} as a server");
    }
}

#[tokio::test]
async fn a_replica_whose_certificate_has_expired_is_refused_by_either_side() {
    let pair = Pair::new();
    let (server, client) = pair.configurations(&pair.identity());
    pair.clock.0.store(24 * 3600 + 1, Ordering::Relaxed);
    let (as_server, as_client) = meet(server, client).await;
    let refusal = as_client.unwrap_err().to_string();
    assert!(refusal.contains("expired at"), "{refusal}");
    as_server.unwrap_err();

    let fresh = Pair { authority: Pair::new().authority, clock: Arc::clone(&pair.clock) };
    let expired = fresh.identity();
    let late = fresh.authority.replica_svid(
        &ReplicaId::new(&trust_domain(), "uid-2").unwrap(),
        fresh.clock.now(),
        &TestRandom,
    );
    let late = ReplicaIdentity { svid: late.unwrap(), bundle: fresh.authority.bundle().clone() };
    let (server, _) = fresh.configurations(&late);
    let (_, client) = fresh.configurations(&expired);
    let (refusal, _) = meet(server, client).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("expired at"), "{refusal}");
}

#[tokio::test]
async fn a_replica_believes_no_server_but_a_replica() {
    let pair = Pair::new();
    let (_, client) = pair.configurations(&pair.identity());
    let mesh = authority();
    let serving = svid(&mesh, "spiffe://cluster.local/countersign/serving");
    let stranger = ReplicaIdentity { svid: serving, bundle: mesh.bundle().clone() };
    let (server, _) = pair.configurations(&stranger);
    let (_, refusal) = meet(server, client).await;
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("does not verify"), "{refusal}");
}

#[tokio::test]
async fn nothing_below_tls_1_3_is_spoken() {
    let pair = Pair::new();
    let identity = pair.identity();
    let (server, _) = pair.configurations(&identity);
    let client = stranger(Some(&identity.svid), &[&rustls::version::TLS12]);
    let (here, there) = duplex(1 << 16);
    let (server, client) = tokio::join!(async { TlsAcceptor::from(server).accept(here).await.map(drop) }, async {
        TlsConnector::from(client).connect(server_name(), there).await.map(drop)
    },);
    server.unwrap_err();
    client.unwrap_err();
}

#[tokio::test]
async fn every_new_certificate_makes_new_configurations() {
    let pair = Pair::new();
    let (identity, identities) = watch::channel(None);
    let (mut tls, follow) = pair_tls(identities, Arc::<TestClock>::clone(&pair.clock));
    tokio::spawn(follow);
    assert!(tls.server.borrow().is_none() && tls.client.borrow().is_none());
    for _ in 0..2 {
        identity.send_replace(Some(Arc::new(pair.identity())));
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, tls.client.changed()).await.expect("in time").unwrap();
        let (server, client) = (tls.server.borrow().clone().unwrap(), tls.client.borrow_and_update().clone().unwrap());
        let (server, client) = meet(server, client).await;
        server.unwrap();
        client.unwrap();
    }
}

/// A replica with an SVID of the mesh.
fn of_mesh(mesh: &SigningAuthority, id: &str) -> WorkloadIdentity {
    let svid = Arc::new(svid(mesh, id));
    WorkloadIdentity { id: svid.id().clone(), svid: Some(svid), bundle: Arc::new(mesh.bundle().clone()), revision: 1 }
}

async fn in_mesh(identity: WorkloadIdentity, roots: &TrustBundle) -> Configurations {
    let (_identity, identities) = watch::channel(Some(Arc::new(identity)));
    let (known, roots_known) = watch::channel(None);
    let (mut tls, follow) = mesh_pair_tls(identities, roots_known, Arc::<TestClock>::default());
    tokio::spawn(follow);
    assert!(tls.client.borrow().is_none(), "there are no roots yet");
    known.send_replace(Some(Arc::new(roots.clone())));
    tls.client.changed().await.unwrap();
    (tls.server.borrow().clone().unwrap(), tls.client.borrow().clone().unwrap())
}

#[tokio::test]
async fn in_a_mesh_whoever_has_the_id_of_the_replicas_is_one_and_nobody_else() {
    let (mesh, other) = (authority(), authority());
    let own = "spiffe://cluster.local/ns/countersign/sa/countersign";
    let (server, client) = in_mesh(of_mesh(&mesh, own), mesh.bundle()).await;
    let (same_server, same_client) = in_mesh(of_mesh(&mesh, own), mesh.bundle()).await;
    for (one, another) in [(Arc::clone(&server), same_client), (same_server, Arc::clone(&client))] {
        let (served, asked) = meet(one, another).await;
        served.unwrap();
        asked.unwrap();
    }
    for stranger in [
        of_mesh(&mesh, "spiffe://cluster.local/ns/countersign/sa/other"),
        of_mesh(&mesh, "spiffe://cluster.local/countersign/replica/uid-1"),
        of_mesh(&other, own),
    ] {
        let (its_server, its_client) = in_mesh(stranger, mesh.bundle()).await;
        meet(Arc::clone(&server), its_client).await.0.unwrap_err();
        meet(its_server, Arc::clone(&client)).await.1.unwrap_err();
    }
}
