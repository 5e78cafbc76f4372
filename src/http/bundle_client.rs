//! Other trust domains' bundle endpoints, as SPIFFE Federation 5 says how they are asked.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    domain::{bundle::EndpointUrl, clock::Clock},
    service::{
        causes::with_causes,
        federation::{BundleFetcher, EndpointAuthentication},
        ports::BoxFuture,
    },
};

/// Makes the TLS configuration by which an endpoint is believed, or says why it can't. Reads files, maybe.
pub type TowardsEndpoint = fn(&EndpointAuthentication, &Arc<dyn Clock>) -> Result<Arc<ClientConfig>, String>;

/// Asks over HTTP/1.1, each time on a connection of its own.
pub struct BundleClient {
    tls: TowardsEndpoint,
    clock: Arc<dyn Clock>,
}

/// Of a document: what is longer is no bundle.
const MAX_BYTES: usize = 1 << 20;
/// Of a place that it redirects to: people are told of it.
const MAX_LOCATION: usize = 2048;
/// One that leads on and on leads in a circle.
const MAX_REDIRECTS: usize = 5;
const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

impl BundleClient {
    /// Over TLS as `tls` makes it.
    pub const fn new(tls: TowardsEndpoint, clock: Arc<dyn Clock>) -> Self {
        Self { tls, clock }
    }

    /// Redirects are followed, each to an endpoint that proves itself in the same way, and never remembered (5.1).
    async fn document(&self, url: &EndpointUrl, authentication: EndpointAuthentication) -> Result<Vec<u8>, String> {
        let (tls, clock) = (self.tls, Arc::clone(&self.clock));
        let config =
            spawn_blocking(move || tls(&authentication, &clock)).await.map_err(|error| error.to_string())??;
        let mut place = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            match ask(&place, Arc::clone(&config)).await.map_err(|error| format!("{place}: {error}"))? {
                Answer::Document(document) => return Ok(document),
                Answer::Redirect(location) => {
                    let next = place.redirected(&location);
                    place = next.map_err(|error| format!("{place} redirects to {location:?}: {error}"))?;
                }
            }
        }
        Err(format!("{url} redirects more than {MAX_REDIRECTS} times"))
    }
}

impl BundleFetcher for BundleClient {
    fn fetch<'a>(
        &'a self,
        url: &'a EndpointUrl,
        authentication: EndpointAuthentication,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>> {
        Box::pin(self.document(url, authentication))
    }
}

enum Answer {
    Document(Vec<u8>),
    Redirect(String),
}

async fn ask(place: &EndpointUrl, config: Arc<ClientConfig>) -> Result<Answer, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connected(place, config).await?)).await.map_err(|error| with_causes(&error))?;
    let request = Request::get(place.target())
        .header(header::HOST, place.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, AGENT)
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| with_causes(&error))?;
        read(response).await
    };
    // what becomes of the connection, the exchange hears of as well
    let driven = async {
        drop(connection.await);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = exchange => answer,
        never = driven => match never {},
    }
}

async fn connected(place: &EndpointUrl, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(place.host().to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((place.host(), place.port())).await.map_err(|error| error.to_string())?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| with_causes(&error))
}

async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status();
    if is_redirect(status) {
        let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| format!("it answers {} and no place", status.as_u16()))?;
        if location.len() > MAX_LOCATION {
            return Err(format!("it redirects to a place of more than {MAX_LOCATION} bytes"));
        }
        return Ok(Answer::Redirect(location.to_owned()));
    }
    if status != StatusCode::OK {
        return Err(format!("it answers {}", status.as_u16()));
    }
    let document = to_bytes(Body::new(response.into_body()), MAX_BYTES).await;
    let document =
        document.map_err(|_long_or_broken| format!("it breaks off, or answers more than {MAX_BYTES} bytes"))?;
    Ok(Answer::Document(document.to_vec()))
}

const fn is_redirect(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

#[cfg(test)]
mod tests;
