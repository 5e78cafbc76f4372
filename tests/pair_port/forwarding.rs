//! What the active does for callers of another replica, and for whom it does nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use countersign::{
    domain::{
        attestation::{Evidence, OwnIdentity, Proof},
        authority::{SigningAuthority, TtlBounds, issue},
        clock::Clock,
        issuance::IssuanceEvent,
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    },
    runtime::seams::RingRandom,
    service::{
        create_certificate::CreateError,
        own_identity::OwnAuthority,
        ports::{CertificateAuthority, SignError},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::replica::{ACCOUNT, DEADLINE, ID, Pair, Replica, Settings, trust_domain};

/// The proofs that stand in a replica's log.
fn proofs(replica: &Replica) -> Vec<Proof> {
    let proof = |event: IssuanceEvent| match event {
        IssuanceEvent::Issued(issuance) => issuance.proof,
        IssuanceEvent::Withheld { serial, .. } => panic!("{serial} was withheld"),
    };
    replica.log.events().into_iter().map(proof).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_has_the_active_sign_and_the_record_says_on_whose_word() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    let session = active.take_over(1);
    standby.bundle.send_replace(active.bundle.borrow().clone());
    pair.introduce(&[&active, &standby], &active, 1);

    let svid = standby.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    svid.verify(session.authority().unwrap().bundle(), pair.clock.now()).unwrap();
    assert_eq!(svid.leaf().uri_names(), [ID]);
    let renewed = standby.sign(&Evidence { presented: Some(svid.clone()), ..Evidence::NONE }).await.unwrap();
    assert_ne!(renewed.leaf().serial(), svid.leaf().serial());
    let serial = svid.leaf().serial().to_string();
    // the name is that of the certificate, which the process's own name goes beyond
    let asserted = Proof::AssertedCertificate { serial, replica: "uid-b".into() };
    assert_eq!(proofs(&active), [Proof::Token { issuer: "issuer".into() }, asserted]);
    assert_eq!(proofs(&standby), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asserted_chain_and_a_token_are_checked_again_by_the_active() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    pair.introduce(&[&active, &standby], &active, 1);

    // a standby that was talked into another root
    let (now, hour) = (pair.clock.now(), Duration::from_secs(3600));
    let foreign = SigningAuthority::self_signed(&trust_domain(), hour, now, &RingRandom::new()).unwrap().0;
    standby.bundle.send_replace(Some(Arc::new(foreign.bundle().clone())));
    let request = PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap();
    let csr = VerifiedCsr::from_pem(request.as_bytes()).unwrap();
    let bounds = TtlBounds::new(hour, hour).unwrap();
    let issued = issue(&foreign, &csr, &ID.parse().unwrap(), 0, &bounds, now, &RingRandom::new()).unwrap();
    let chain = CertificateChain::new(vec![issued.leaf]).unwrap();
    let refused = standby.sign(&Evidence { presented: Some(chain), ..Evidence::NONE }).await.unwrap_err();
    let message = "request authenticate failure".to_owned();
    assert_eq!(refused, CreateError::ByActive { code: tonic::Code::Unauthenticated.into(), message });

    // and one that believes another issuer
    let elsewhere = Pair { store: Arc::clone(&pair.store), ..Pair::new() };
    let other = elsewhere.start("uid-c").await;
    elsewhere.introduce(&[&other, &active], &active, 1);
    let refused = other.sign(&elsewhere.by_token(ACCOUNT)).await.unwrap_err();
    assert!(matches!(refused, CreateError::ByActive { .. }), "{refused}");
    assert_eq!(proofs(&active), []);
}

/// What a replica asks for itself.
async fn own(replica: &Replica, own: OwnIdentity) -> Result<(), SignError> {
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap();
    OwnAuthority::new(Arc::clone(&replica.create), own).sign(&csr, 0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_its_serving_certificate_and_only_a_workload_that_all_of_them_have() {
    let pair = Pair::new();
    let configured = || Settings { workload: Some(ACCOUNT.parse().unwrap()), ..Settings::default() };
    let active = pair.start_with("uid-a", configured()).await;
    let standby = pair.start_with("uid-b", configured()).await;
    active.take_over(1);
    pair.introduce(&[&active, &standby], &active, 1);
    own(&standby, OwnIdentity::Serving).await.unwrap();
    own(&standby, OwnIdentity::Workload(ACCOUNT.parse().unwrap())).await.unwrap();
    let replica = || "uid-b".to_owned();
    assert_eq!(proofs(&active), [Proof::Serving { replica: replica() }, Proof::OwnSocket { replica: replica() }]);
    for refused in ["default/other", "istio-system/istiod"] {
        let refused = own(&standby, OwnIdentity::Workload(refused.parse().unwrap())).await.unwrap_err();
        assert!(matches!(&refused, SignError::Refused(why) if why.contains("configured for all")), "{refused}");
    }

    // by default there is none
    active.step_down();
    let next = pair.start("uid-c").await;
    next.take_over(2);
    pair.introduce(&[&next, &standby], &next, 2);
    standby.knows(&next, 2).await;
    own(&standby, OwnIdentity::Serving).await.unwrap();
    let refused = own(&standby, OwnIdentity::Workload(ACCOUNT.parse().unwrap())).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused(_)), "{refused}");
    assert_eq!(proofs(&next).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_pair_gets_and_gives_no_answer() {
    let (pair, another) = (Pair::new(), Pair::new());
    let (active, stranger) = (pair.start("uid-a").await, another.start("uid-b").await);
    active.take_over(1);
    // so that the other pair has an authority too
    let (tokens, first) = (another.by_token(ACCOUNT), another.start("uid-c").await);
    first.take_over(1);
    stranger.lease.send_replace(Some(first.as_holder(1)));
    stranger.knows(&first, 1).await;

    stranger.lease.send_replace(Some(active.as_holder(9)));
    first.step_down();
    let why = loop {
        let why = stranger.knows_nobody().await;
        if why.contains(&active.name) {
            break why;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(why.contains("can't be reached") && why.contains("does not verify"), "{why}");
    let answer = timeout(Duration::from_millis(500), stranger.sign(&tokens)).await;
    assert!(answer.is_err(), "the request waits for somebody of its own pair");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_nobody_answers() {
    let pair = Pair::new();
    let active = pair.start("uid-a").await;
    active.take_over(1);
    let standby = pair.start("uid-b").await;
    pair.introduce(&[&active, &standby], &active, 1);
    standby.knows(&active, 1).await;
    let mut connection = TcpStream::connect(active.address).await.unwrap();
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut received = Vec::new();
    // an alert, perhaps, and the end
    drop(timeout(DEADLINE, connection.read_to_end(&mut received)).await.expect("it hangs up"));
    assert!(received.len() < 16, "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_on_an_open_connection_counts_no_more() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    pair.introduce(&[&active, &standby], &active, 1);
    standby.knows(&active, 1).await;
    standby.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    pair.clock.0.store(24 * 3600 + 1, Ordering::Relaxed);
    let why = standby.knows_nobody().await;
    assert!(why.contains("expired at"), "{why}");
    assert_eq!(proofs(&active).len(), 1);
}
