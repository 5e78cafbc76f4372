mod addresses;
mod roots;

use std::{fs, net::Ipv4Addr};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{connection::CONNECT_LIMIT, *};
use crate::{
    grpc::testing::{At, Fixed, HOUR, ID, SystemNow, World, serve},
    service::ca_roots::followed_roots,
};

impl World {
    fn client(&self, addresses: &[&String]) -> CaClient {
        self.client_at(addresses, Arc::new(SystemNow))
    }

    fn client_at(&self, addresses: &[&String], clock: Arc<dyn Clock>) -> CaClient {
        let endpoint = |address: &&String| CaEndpoint { address: (*address).clone(), server_name: "localhost".into() };
        let file = |name: &str| self.files.path().join(name);
        CaClient::new(addresses.iter().map(endpoint).collect(), file("token"), file("roots"), clock)
    }
}

async fn sign(client: &CaClient) -> Result<SignedChain, SignError> {
    client.sign("a request", 0).await
}

#[tokio::test]
async fn an_address_that_is_no_ca_does_not_hide_the_next_one() {
    let world = World::new();
    let good = world.good_ca().await;
    for code in [Code::Unimplemented, Code::PermissionDenied, Code::Unauthenticated, Code::Internal] {
        let wrong = world.ca(Err(Status::new(code, "not here"))).await;
        assert_eq!(sign(&world.client(&[&wrong, &good])).await.err(), None, "{code:?}");
    }
}

#[tokio::test]
async fn a_request_that_one_ca_calls_wrong_is_wrong_everywhere() {
    let world = World::new();
    let (refusing, good) = (world.ca(Err(Status::invalid_argument("bad CSR"))).await, world.good_ca().await);
    let refused = sign(&world.client(&[&refusing, &good])).await.err();
    assert_eq!(refused, Some(SignError::Refused("InvalidArgument: bad CSR".into())));
}

#[tokio::test]
async fn every_address_has_its_say_in_the_error() {
    let world = World::new();
    let one = world.ca(Err(Status::unimplemented("no such service"))).await;
    let other = world.ca(Err(Status::unavailable("not active"))).await;
    let said = format!("{one}: Unimplemented: no such service; {other}: Unavailable: not active");
    assert_eq!(sign(&world.client(&[&one, &other])).await.err(), Some(SignError::Unavailable(said)));

    let third = world.ca(Err(Status::permission_denied("who?"))).await;
    let said = format!(
        "{third}: PermissionDenied: who?; and no valid SVID is held to renew by; {other}: Unavailable: not active"
    );
    assert_eq!(sign(&world.client(&[&third, &other])).await.err(), Some(SignError::Unauthenticated(said)));
}

#[tokio::test]
async fn without_token_and_svid_nobody_is_asked_and_none_is_said_to_have_refused() {
    let world = World::new();
    let client = world.client(&[&"127.0.0.1:1".to_owned()]);
    fs::remove_file(world.files.path().join("token")).unwrap();
    let said = sign(&client).await.unwrap_err().to_string();
    let expected = "there is no proof of identity to ask a certificate authority with: token file ";
    assert!(said.starts_with(expected) && said.ends_with("; and no valid SVID is held to renew by"), "{said}");
}

#[tokio::test]
async fn an_address_that_holds_the_request_does_not_hide_the_next_one() {
    let world = World::new();
    let holding = world.slow_ca(Err(Status::unavailable("nobody is active")), HOUR).await;
    let client = world.client(&[&holding, &world.good_ca().await]);
    let begin = Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE * 2, "after {:?}", begin.elapsed());
    // and is not asked first again
    let begin = Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_standby_that_holds_the_request_through_a_take_over_is_not_given_up() {
    let world = World::new();
    let standby = world.slow_ca(Ok(world.issued().1), Duration::from_secs(6)).await;
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(sign(&world.client(&[&standby, &dead])).await.err(), None);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_off_under_a_call_is_replaced() {
    let world = World::new();
    let ca = world.good_ca().await;
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        // the first connection is good for one call, and ends when something is sent for another
        for first in [true, false] {
            let (mut client, _) = proxy.accept().await.unwrap();
            let mut server = TcpStream::connect(&ca).await.unwrap();
            let pump = tokio::io::copy_bidirectional(&mut client, &mut server);
            match timeout(Duration::from_millis(500), pump).await {
                Err(_quiet) if first => drop(client.readable().await),
                _ => drop(tokio::io::copy_bidirectional(&mut client, &mut server).await),
            }
        }
    });
    let client = world.client(&[&address]);
    assert_eq!(sign(&client).await.err(), None);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(sign(&client).await.err(), None);
}

#[tokio::test]
async fn an_address_that_accepts_and_never_speaks_is_given_up_at_once() {
    let world = World::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (accepted, mut connections) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = silent.accept().await {
            accepted.send(stream).unwrap();
        }
    });
    let begin = Instant::now();
    let alone = sign(&world.client(&[&address])).await;
    assert!(matches!(alone, Err(SignError::Unavailable(_))), "{:?}", alone.err());
    assert!(begin.elapsed() < CONNECT_LIMIT * 4, "after {:?}", begin.elapsed());
    let mut tried = 0;
    while connections.try_recv().is_ok() {
        tried += 1;
    }
    assert_eq!(tried, 1, "what did not connect is not tried twice");

    let client = world.client(&[&address, &world.good_ca().await]);
    let begin = Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < CONNECT_LIMIT, "the good one is asked first: after {:?}", begin.elapsed());
}

#[tokio::test]
async fn nobody_at_all_is_another_thing_than_somebody_who_fails() {
    let world = World::new();
    let dead =
        || async { TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().to_string() };
    let (one, other) = (dead().await, dead().await);
    let said = sign(&world.client(&[&one, &other])).await.err();
    assert!(matches!(said, Some(SignError::NotDetected(_))), "{said:?}");
    let said = said.unwrap().to_string();
    assert!(said.starts_with("IstioNotDetected: ") && said.contains(&one) && said.contains(&other), "{said}");

    let busy = world.ca(Err(Status::unavailable("busy"))).await;
    assert!(matches!(sign(&world.client(&[&one, &busy])).await, Err(SignError::Unavailable(_))));
    let foreign = World::new().good_ca().await;
    assert!(matches!(sign(&world.client(&[&foreign])).await, Err(SignError::Unavailable(_))));
}

#[tokio::test]
async fn who_has_only_a_certificate_is_sent_on_by_a_pair_that_can_not_pass_it_on() {
    let world = World::new();
    let by_token = |request: &Request<IstioCertificateRequest>| request.metadata().contains_key("authorization");
    let refusing = Status::unauthenticated("request authenticate failure");
    let (refusal, passing) = (refusing.clone(), Status::failed_precondition("can't pass on a certificate"));
    let pair = world.looking_ca(move |request| Err(if by_token(request) { &refusal } else { &passing }.clone())).await;
    let chain = world.issued().1;
    let istiod = world
        .looking_ca(move |request| if by_token(request) { Err(refusing.clone()) } else { Ok(chain.clone()) })
        .await;
    let client = world.client(&[&pair, &istiod]);
    assert!(matches!(sign(&client).await, Err(SignError::Unauthenticated(_))), "it has none yet");
    client.renew_by(world.identity());
    let begin = Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_token_file_of_garbage_is_no_more_in_the_way_than_a_missing_one() {
    let world = World::new();
    let chain = world.issued().1;
    let ca = world.looking_ca(move |request| match request.metadata().get("authorization") {
        None => Ok(chain.clone()),
        Some(_) => Err(Status::internal("a token was sent")),
    });
    let client = world.client(&[&ca.await]);
    client.renew_by(world.identity());
    for garbage in [&b"\xff\xfe"[..], b"a\x01b", b"", b"\n"] {
        world.write_token(garbage);
        assert_eq!(sign(&client).await.err(), None, "{garbage:?}");
    }
}

#[tokio::test]
async fn what_goes_with_a_request_goes_with_each() {
    let world = World::new();
    let chain = world.issued().1;
    let ca = world.looking_ca(move |request| {
        let has = |name, value| request.metadata().get(name).is_some_and(|found| found == value);
        let signer = request.get_ref().metadata.as_ref().and_then(|metadata| metadata.fields.get("CertSigner"));
        let is_whole = has("clusterid", "east") && has("x-tenant", "blue") && signer.is_some();
        match (is_whole, request.metadata().contains_key("authorization")) {
            (true, true) => Err(Status::unauthenticated("a certificate, please")),
            (true, false) => Ok(chain.clone()),
            (false, _) => Err(Status::internal(format!("{:?}", request.metadata()))),
        }
    });
    let extras = CaExtras {
        cluster_id: Some("east".into()),
        headers: vec![CaHeader::new("X-Tenant", "blue").unwrap()],
        cert_signer: Some("signers.example/a".into()),
    };
    let client = world.client(&[&ca.await]).sending(extras);
    client.renew_by(world.identity());
    assert_eq!(sign(&client).await.err(), None);
}

#[tokio::test]
async fn whom_the_token_speaks_for_is_told() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let world = World::new();
    let client = world.client(&[]);
    assert_eq!(client.subject().await, None);
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:default:gateway"}"#);
    world.write_token(format!("e30.{claims}.c2ln\n").as_bytes());
    assert_eq!(client.subject().await.map(|account| account.to_string()).as_deref(), Some("default/gateway"));
}

#[tokio::test]
async fn a_ca_is_judged_by_the_clock_that_is_given() {
    let world = World::new();
    let ca = world.good_ca().await;
    for (by, expected) in
        [(world.now, None), (world.now.minus(HOUR), Some("ClockSkew: ")), (world.now.plus(2 * HOUR), Some("expired"))]
    {
        let said = sign(&world.client_at(&[&ca], Arc::new(At(by)))).await.err().map(|error| error.to_string());
        let is_as_expected = match (&said, expected) {
            (None, None) => true,
            (Some(said), Some(expected)) => said.contains(expected),
            _ => false,
        };
        assert!(is_as_expected, "{by}: {said:?}");
    }
}
