//! Ten thousand streams at once: all are served, and all get the next rotation.

use std::time::Duration;

use countersign::proto::{
    X509svidRequest,
    envoy::service::{
        discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    support::{DEADLINE, Socket},
    workload_api_client::secured,
};

const CONNECTIONS: usize = 100;
const STREAMS_PER_CONNECTION: usize = 100;

/// Reports each message of a stream.
async fn report<T>(mut stream: Streaming<T>, seen: mpsc::UnboundedSender<Result<(), Status>>) {
    loop {
        let message = stream.message().await.and_then(|message| message.ok_or_else(|| Status::ok("ended with OK")));
        let failed = message.is_err();
        if seen.send(message.map(drop)).is_err() || failed {
            return;
        }
    }
}

async fn svid_stream(channel: Channel, seen: mpsc::UnboundedSender<Result<(), Status>>) {
    match SpiffeWorkloadApiClient::new(channel).fetch_x509svid(secured(X509svidRequest {})).await {
        Ok(response) => report(response.into_inner(), seen).await,
        Err(status) => _ = seen.send(Err(status)),
    }
}

async fn secret_stream(channel: Channel, seen: mpsc::UnboundedSender<Result<(), Status>>) {
    let ask = DiscoveryRequest { resource_names: vec!["default".into()], ..DiscoveryRequest::default() };
    let requests = tokio_stream::once(ask).chain(tokio_stream::pending());
    match SecretDiscoveryServiceClient::new(channel).stream_secrets(requests).await {
        Ok(response) => report(response.into_inner(), seen).await,
        Err(status) => _ = seen.send(Err(status)),
    }
}

/// Waits for one message on each stream.
async fn one_each(seen: &mut mpsc::UnboundedReceiver<Result<(), Status>>) -> Duration {
    let start = Instant::now();
    let total = CONNECTIONS * STREAMS_PER_CONNECTION;
    for count in 0..total {
        match timeout(DEADLINE.saturating_sub(start.elapsed()), seen.recv()).await {
            Ok(message) => message.unwrap().unwrap_or_else(|status| panic!("stream {count} failed: {status}")),
            Err(_) => panic!("{count} of {total} messages within {DEADLINE:?}"),
        }
    }
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_are_served_and_get_the_next_rotation() {
    let mut socket = Socket::ready().await;
    let (report, mut seen) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        let channel = socket.connect().await;
        for number in 0..STREAMS_PER_CONNECTION {
            if number % 2 == 0 {
                tokio::spawn(svid_stream(channel.clone(), report.clone()));
            } else {
                tokio::spawn(secret_stream(channel.clone(), report.clone()));
            }
        }
    }
    println!("10,000 streams opened and served in {:?}", one_each(&mut seen).await);
    for rotation in 1..=3 {
        socket.rotate().await;
        println!("rotation {rotation} pushed to 10,000 streams in {:?}", one_each(&mut seen).await);
    }
}
