//! The Workload API, health and reflection as clients see them.

use std::fmt::Debug;

use countersign::proto::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest, X509BundlesRequest,
    X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use spiffe::X509Source;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    support::{Behaviour, DEADLINE, ID, Socket, TRUST_DOMAIN, id},
    workload_api_client::secured,
};

pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> T {
    timeout(DEADLINE, stream.message()).await.expect("a message comes").unwrap().expect("the stream goes on")
}

pub(crate) async fn end<T: Debug>(stream: &mut Streaming<T>) -> Status {
    timeout(DEADLINE, stream.message()).await.expect("the stream ends").expect_err("it ends with an error")
}

async fn api(socket: &Socket) -> SpiffeWorkloadApiClient<tonic::transport::Channel> {
    SpiffeWorkloadApiClient::new(socket.connect().await)
}

#[tokio::test]
async fn sends_the_svid_at_once_and_after_each_rotation() {
    let mut socket = Socket::ready().await;
    let mut stream = api(&socket).await.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    for _ in 0..3 {
        let response = next(&mut stream).await;
        let expected = socket.publisher.published().unwrap();
        let svid = expected.svid.as_ref().unwrap();
        assert_eq!(response.svids.len(), 1);
        let sent = &response.svids[0];
        assert_eq!(sent.spiffe_id, ID);
        assert_eq!(sent.x509_svid, svid.chain().to_der());
        assert_eq!(sent.x509_svid_key, svid.key().pkcs8());
        assert_eq!(sent.bundle, expected.bundle.to_der());
        socket.rotate().await;
    }
}

#[tokio::test]
async fn bundle_streams_are_silent_while_the_roots_stay() {
    let mut socket = Socket::ready().await;
    let mut client = api(&socket).await;
    let mut svids = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut keys = client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.unwrap().into_inner();
    next(&mut svids).await;
    let roots = socket.publisher.published().unwrap().bundle.to_der();
    assert_eq!(next(&mut bundles).await.bundles, [("spiffe://cluster.local".into(), roots.into())].into());
    let keys_sent = next(&mut keys).await.bundles;
    assert_eq!(keys_sent["spiffe://cluster.local"], br#"{"keys": []}"#[..]);
    socket.rotate().await;
    next(&mut svids).await;
    socket.begin_stop();
    assert_eq!(end(&mut bundles).await.code(), Code::Unavailable, "no second message came before the end");
    assert_eq!(end(&mut keys).await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stream_is_held_open_until_there_is_an_identity() {
    let socket = Socket::start(Behaviour::Down, 3600).await;
    let mut stream = api(&socket).await.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    socket.publisher.authority.behave(Behaviour::SignFor(id()));
    socket.publisher.renew_now.notify_one();
    assert_eq!(next(&mut stream).await.svids[0].spiffe_id, ID);
}

#[tokio::test]
async fn an_expired_svid_ends_streams_with_unavailable_and_leaves_the_bundle() {
    let socket = Socket::start(Behaviour::SignFor(id()), 2).await;
    let mut client = api(&socket).await;
    let mut stream = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    next(&mut stream).await;
    socket.publisher.authority.behave(Behaviour::Down);
    let status = loop {
        match timeout(DEADLINE, stream.message()).await.expect("the stream ends") {
            Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut again = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(end(&mut again).await.code(), Code::Unavailable);
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    assert_eq!(next(&mut bundles).await.bundles.len(), 1);
    let mut health = HealthClient::new(socket.connect().await);
    let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
}

#[tokio::test]
async fn the_security_header_is_demanded_exactly_once() {
    let socket = Socket::ready().await;
    let mut client = api(&socket).await;
    let mut repeated = secured(X509svidRequest {});
    repeated.metadata_mut().append("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut other = Request::new(X509svidRequest {});
    other.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("True"));
    for request in [Request::new(X509svidRequest {}), repeated, other] {
        let status = client.fetch_x509svid(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "security header missing from request"));
    }
}

#[tokio::test]
async fn the_other_halves_answer_with_spires_codes() {
    let socket = Socket::ready().await;
    let mut client = api(&socket).await;
    let jwt = |audience: &[&str], spiffe_id: &str| JwtsvidRequest {
        audience: audience.iter().map(|&audience| audience.to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let validate = |audience: &str, svid: &str| ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
    for (message, code, text) in [
        (jwt(&[], ""), Code::InvalidArgument, "audience must be specified"),
        (jwt(&["a"], "x"), Code::InvalidArgument, "invalid requested SPIFFE ID: "),
        (jwt(&["a"], ID), Code::Unimplemented, "JWT-SVIDs are not offered"),
    ] {
        let status = client.fetch_jwtsvid(secured(message)).await.unwrap_err();
        assert!(status.code() == code && status.message().starts_with(text), "{status}");
    }
    for (message, code, text) in [
        (validate("", "t"), Code::InvalidArgument, "audience must be specified"),
        (validate("a", ""), Code::InvalidArgument, "svid must be specified"),
        (validate("a", "t"), Code::Unimplemented, "JWT-SVIDs are not offered"),
    ] {
        let status = client.validate_jwtsvid(secured(message)).await.unwrap_err();
        assert!(status.code() == code && status.message().starts_with(text), "{status}");
    }
    let status = client.fetch_witsvid(secured(WitsvidRequest::default())).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "fetching WIT-SVIDs is not implemented"));
    let status = client.fetch_wit_bundles(secured(WitBundlesRequest {})).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "fetching WIT bundles is not implemented"));
}

#[tokio::test]
async fn on_shutdown_every_stream_ends_with_unavailable() {
    let mut socket = Socket::ready().await;
    let mut client = api(&socket).await;
    let mut svids = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    let mut bundles = client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner();
    next(&mut svids).await;
    next(&mut bundles).await;
    socket.begin_stop();
    assert_eq!(end(&mut svids).await.code(), Code::Unavailable);
    assert_eq!(end(&mut bundles).await.code(), Code::Unavailable);
    socket.stop().await;

    let mut waiting = Socket::start(Behaviour::Down, 3600).await;
    let mut held = api(&waiting).await.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner();
    waiting.begin_stop();
    assert_eq!(end(&mut held).await.code(), Code::Unavailable, "also before there is an identity");
    waiting.stop().await;
}

#[tokio::test]
async fn health_follows_the_identity_and_needs_no_header() {
    let mut socket = Socket::start(Behaviour::Down, 3600).await;
    let mut client = HealthClient::new(socket.connect().await);
    let status = client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::NotServing);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await.status(), ServingStatus::NotServing);
    socket.publisher.authority.behave(Behaviour::SignFor(id()));
    socket.rotate().await;
    assert_eq!(next(&mut watch).await.status(), ServingStatus::Serving);
    socket.begin_stop();
    assert_eq!(next(&mut watch).await.status(), ServingStatus::NotServing);
    socket.stop().await;
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let socket = Socket::ready().await;
    let mut client = ServerReflectionClient::new(socket.connect().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) = next(&mut answers).await.message_response else {
        panic!("not a list of services");
    };
    let mut names: Vec<_> = services.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "SpiffeWorkloadAPI",
            "envoy.service.secret.v3.SecretDiscoveryService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
        ]
    );
}

#[tokio::test]
async fn the_spiffe_crates_source_follows_three_rotations() {
    let mut socket = Socket::ready().await;
    let source = timeout(DEADLINE, X509Source::builder().endpoint(socket.uri()).build()).await.unwrap().unwrap();
    let mut updates = source.updated();
    for rotation in 0..=3 {
        let expected = socket.publisher.published().unwrap();
        let expected = expected.svid.as_ref().unwrap();
        let svid = source.svid().unwrap();
        assert_eq!(svid.spiffe_id().to_string(), ID);
        assert_eq!(svid.leaf().as_bytes(), expected.leaf().der(), "rotation {rotation}");
        assert_eq!(source.bundle_set().unwrap().iter().count(), 1);
        let trust_domain = spiffe::TrustDomain::new(TRUST_DOMAIN).unwrap();
        assert!(source.try_bundle_for_trust_domain(&trust_domain).is_some());
        if rotation < 3 {
            socket.rotate().await;
            timeout(DEADLINE, updates.changed()).await.expect("the source sees the rotation").unwrap();
        }
    }
    source.shutdown().await;
}
