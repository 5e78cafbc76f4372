//! Secret discovery with a real client. The rules of the protocols are tested beside their code; here is what only shows
//! on the wire: contents, held answers, pushes, ends.

use std::time::Duration;

use countersign::domain::clock::Timestamp;
use countersign::proto::{
    Any,
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig, secret::Type},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    google::rpc,
};
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use crate::{
    support::{Behaviour, DEADLINE, ID, Socket, id},
    workload_api::{end, next},
};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

async fn sds(socket: &Socket) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(socket.connect().await)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

pub(crate) fn ask(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { resource_names: strings(names), type_url: TYPE_URL.to_owned(), ..DiscoveryRequest::default() }
}

pub(crate) fn acknowledge(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..ask(names)
    }
}

pub(crate) fn secret(any: &Any) -> Secret {
    assert_eq!(any.type_url, TYPE_URL);
    Secret::decode(any.value.clone()).unwrap()
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    response.resources.iter().map(|any| secret(any).name).collect()
}

pub(crate) fn inline(source: Option<DataSource>) -> String {
    let Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }) = source else { panic!("not inline") };
    String::from_utf8(bytes.to_vec()).unwrap()
}

type Requests<T> = mpsc::UnboundedSender<T>;

pub(crate) async fn stream(
    socket: &Socket,
    first: DiscoveryRequest,
) -> (Requests<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
    let (sender, requests) = mpsc::unbounded_channel();
    sender.send(first).unwrap();
    let responses = sds(socket).await.stream_secrets(UnboundedReceiverStream::new(requests)).await.unwrap();
    (sender, responses.into_inner())
}

async fn delta(
    socket: &Socket,
    first: DeltaDiscoveryRequest,
) -> (Requests<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let (sender, requests) = mpsc::unbounded_channel();
    sender.send(first).unwrap();
    let responses = sds(socket).await.delta_secrets(UnboundedReceiverStream::new(requests)).await.unwrap();
    (sender, responses.into_inner())
}

#[tokio::test]
async fn every_name_has_its_content() {
    let socket = Socket::ready().await;
    let published = socket.publisher.published().unwrap();
    let svid = published.svid.as_ref().unwrap();
    let asked = ["ALL", "ROOTCA", "default", "spiffe://cluster.local", ID];
    let response = sds(&socket).await.fetch_secrets(ask(&asked)).await.unwrap().into_inner();
    assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("", ""));
    assert_eq!(names(&response), asked);
    for any in &response.resources {
        let secret = secret(any);
        match (secret.name.as_str(), secret.r#type.unwrap()) {
            ("default" | ID, Type::TlsCertificate(certificate)) => {
                assert_eq!(inline(certificate.certificate_chain), svid.chain().to_pem());
                let key = inline(certificate.private_key);
                assert_eq!(key, *svid.key().to_pem());
                assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
            }
            ("ROOTCA" | "spiffe://cluster.local", Type::ValidationContext(context)) => {
                assert_eq!(inline(context.trusted_ca), published.bundle.to_pem());
                assert_eq!(context.custom_validator_config, None);
            }
            ("ALL", Type::ValidationContext(context)) => {
                assert_eq!(context.trusted_ca, None);
                let validator = context.custom_validator_config.unwrap();
                assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
                let config = validator.typed_config.unwrap();
                assert!(config.type_url.ends_with(".v3.SPIFFECertValidatorConfig"), "{}", config.type_url);
                let mut domains = SpiffeCertValidatorConfig::decode(config.value).unwrap().trust_domains;
                let domain = domains.pop().unwrap();
                assert_eq!((domain.name.as_str(), domains.len()), ("cluster.local", 0));
                assert_eq!(inline(domain.trust_bundle), published.bundle.to_pem());
            }
            (name, content) => panic!("{name} holds {content:?}"),
        }
    }
}

#[tokio::test]
async fn state_of_the_world_pushes_each_rotation_to_whom_it_concerns() {
    let mut socket = Socket::ready().await;
    let (identity_requests, mut identity) = stream(&socket, ask(&["default"])).await;
    let (roots_requests, mut roots) = stream(&socket, ask(&["ROOTCA"])).await;
    let mut response = next(&mut identity).await;
    roots_requests.send(acknowledge(&next(&mut roots).await, &["ROOTCA"])).unwrap();
    for _ in 0..3 {
        identity_requests.send(acknowledge(&response, &["default"])).unwrap();
        socket.rotate().await;
        let pushed = next(&mut identity).await;
        assert_eq!(names(&pushed), ["default"]);
        assert_ne!(pushed.nonce, response.nonce);
        assert_ne!(pushed.version_info, response.version_info);
        assert_ne!(pushed.resources, response.resources);
        response = pushed;
    }
    socket.begin_stop();
    assert_eq!(end(&mut identity).await.code(), Code::Unavailable);
    assert_eq!(end(&mut roots).await.code(), Code::Unavailable, "nothing was pushed before the end");
}

#[tokio::test]
async fn streams_responses_and_what_is_not_accepted_are_counted() {
    let socket = Socket::ready().await;
    let roots = DeltaDiscoveryRequest { resource_names_subscribe: strings(&["ROOTCA"]), ..Default::default() };
    let (requests, mut one) = stream(&socket, ask(&["default"])).await;
    let (other_requests, mut other) = delta(&socket, roots).await;
    let (first, second) = (next(&mut one).await, next(&mut other).await);
    counts(&socket, ["streams 2", "pushes_total 2", "nacks_total 0"]).await;
    let error_detail = Some(rpc::Status { message: "no such curve".into(), ..rpc::Status::default() });
    let refusal = DiscoveryRequest { error_detail: error_detail.clone(), ..acknowledge(&first, &["default"]) };
    requests.send(refusal).unwrap();
    let response_nonce = second.nonce;
    other_requests.send(DeltaDiscoveryRequest { response_nonce, error_detail, ..Default::default() }).unwrap();
    counts(&socket, ["streams 2", "pushes_total 2", "nacks_total 2"]).await;
    drop((requests, one));
    counts(&socket, ["streams 1", "pushes_total 2", "nacks_total 2"]).await;
}

/// Waits until the metrics of secret discovery say this.
async fn counts(socket: &Socket, expected: [&str; 3]) {
    let is_ours = |line: &&str| line.starts_with("countersign_sds_");
    let mut last = Vec::new();
    let look = async {
        loop {
            let page = socket.metrics.page(Timestamp::from_seconds(0));
            last = page.lines().filter(is_ours).map(str::to_owned).collect();
            if expected.iter().all(|line| last.contains(&format!("countersign_sds_{line}"))) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = timeout(DEADLINE, look).await;
    assert!(seen.is_ok(), "{expected:?} was to come, last was {last:?}");
}

#[tokio::test]
async fn delta_pushes_only_the_key_pair_and_knows_what_the_client_kept() {
    let mut socket = Socket::ready().await;
    let subscribe = |names| DeltaDiscoveryRequest {
        resource_names_subscribe: strings(names),
        type_url: TYPE_URL.to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let (requests, mut responses) = delta(&socket, subscribe(&["default", "ROOTCA"])).await;
    let mut response = next(&mut responses).await;
    assert_eq!(response.resources.len(), 2);
    let kept: Vec<_> = response.resources.iter().map(|held| (held.name.clone(), held.version.clone())).collect();
    for _ in 0..3 {
        requests
            .send(DeltaDiscoveryRequest { response_nonce: response.nonce, ..DeltaDiscoveryRequest::default() })
            .unwrap();
        socket.rotate().await;
        response = next(&mut responses).await;
        let names: Vec<_> = response.resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!((names.as_slice(), response.removed_resources.len()), (&["default"][..], 0));
        assert_eq!(secret(response.resources[0].resource.as_ref().unwrap()).name, "default");
    }
    let reconnect = DeltaDiscoveryRequest {
        initial_resource_versions: kept.into_iter().collect(),
        ..subscribe(&["default", "ROOTCA"])
    };
    let (_requests, mut again) = delta(&socket, reconnect).await;
    let names: Vec<_> = next(&mut again).await.resources.into_iter().map(|resource| resource.name).collect();
    assert_eq!(names, ["default"], "the client kept ROOTCA, and an older key pair");
    socket.begin_stop();
    assert_eq!(end(&mut responses).await.code(), Code::Unavailable);
}

/// What a command line client does.
#[tokio::test]
async fn a_client_that_asks_nothing_more_is_served_on() {
    let mut socket = Socket::ready().await;
    let subscribe =
        DeltaDiscoveryRequest { resource_names_subscribe: strings(&["default"]), ..DeltaDiscoveryRequest::default() };
    let mut state =
        sds(&socket).await.stream_secrets(tokio_stream::once(ask(&["default"]))).await.unwrap().into_inner();
    let mut delta = sds(&socket).await.delta_secrets(tokio_stream::once(subscribe)).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(names(&next(&mut state).await), ["default"]);
        assert_eq!(next(&mut delta).await.resources[0].name, "default");
        socket.rotate().await;
    }
    next(&mut state).await;
    next(&mut delta).await;
    socket.begin_stop();
    assert_eq!(end(&mut state).await.code(), Code::Unavailable);
    assert_eq!(end(&mut delta).await.code(), Code::Unavailable);
}

#[tokio::test]
async fn answers_are_held_back_until_there_is_an_identity() {
    let socket = Socket::start(Behaviour::Down, 3600).await;
    let (_requests, mut responses) = stream(&socket, ask(&[])).await;
    let mut client = sds(&socket).await;
    let unary = tokio::spawn(async move { client.fetch_secrets(ask(&["default"])).await });
    socket.publisher.authority.behave(Behaviour::SignFor(id()));
    socket.publisher.renew_now.notify_one();
    assert_eq!(names(&next(&mut responses).await), ["spiffe://cluster.local", ID]);
    assert_eq!(names(&unary.await.unwrap().unwrap().into_inner()), ["default"]);
}

#[tokio::test]
async fn an_expired_key_pair_is_removed_and_the_roots_stay() {
    let socket = Socket::start(Behaviour::SignFor(id()), 2).await;
    let first = DeltaDiscoveryRequest {
        resource_names_subscribe: strings(&["default", "ROOTCA"]),
        ..DeltaDiscoveryRequest::default()
    };
    let (_requests, mut responses) = delta(&socket, first).await;
    assert_eq!(next(&mut responses).await.resources.len(), 2);
    socket.publisher.authority.behave(Behaviour::Down);
    let removed = loop {
        let response = next(&mut responses).await;
        if response.resources.is_empty() {
            break response.removed_resources;
        }
    };
    assert_eq!(removed, ["default"]);
    let mut client = sds(&socket).await;
    assert_eq!(names(&client.fetch_secrets(ask(&["ROOTCA"])).await.unwrap().into_inner()), ["ROOTCA"]);
    assert_eq!(client.fetch_secrets(ask(&["default"])).await.unwrap_err().code(), Code::Unavailable);
    socket.publisher.authority.behave(Behaviour::SignFor(id()));
    assert_eq!(next(&mut responses).await.resources[0].name, "default");
}

#[tokio::test]
async fn unknown_names_are_refused_with_spires_text() {
    let socket = Socket::ready().await;
    let (_requests, mut responses) = stream(&socket, ask(&["zoo", "ROOTCA", "bar"])).await;
    let status = end(&mut responses).await;
    let text = r#"workload is not authorized for the requested identities ["bar" "zoo"]"#;
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    let status = sds(&socket).await.fetch_secrets(ask(&["zoo"])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}
