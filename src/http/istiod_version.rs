//! The version endpoint of istiod, on its monitoring port: plain HTTP to a pod, and one line of text.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::Uri,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::service::{causes::with_causes, istio_versions::VersionSource, ports::BoxFuture};

/// Asks istiods over HTTP.
pub struct IstiodVersionEndpoint(Client<HttpConnector, Body>);

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Of an answer: a version has some sixty.
const MAX_BYTES: usize = 1024;

impl IstiodVersionEndpoint {
    /// Keeps no connection: one is asked once in minutes.
    #[expect(clippy::new_without_default, reason = "nothing here is a default of anything")]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self(client)
    }

    async fn ask(&self, place: SocketAddr) -> Result<String, String> {
        let uri = Uri::try_from(format!("http://{place}/version")).map_err(|error| error.to_string())?;
        let answer = self.0.get(uri).await.map_err(|error| format!("{place}: {}", with_causes(&error)))?;
        if !answer.status().is_success() {
            return Err(format!("{place} answers {} to /version", answer.status().as_u16()));
        }
        let too_long = || format!("{place} breaks off, or answers more than {MAX_BYTES} bytes");
        let bytes = to_bytes(Body::new(answer.into_body()), MAX_BYTES).await.map_err(|_long_or_broken| too_long())?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    }
}

impl VersionSource for IstiodVersionEndpoint {
    fn version_at(&self, place: SocketAddr) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(self.ask(place))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What is said of a server that answers so to one request.
    async fn said_of(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let said = IstiodVersionEndpoint::new().version_at(place).await;
        assert!(server.await.unwrap().starts_with("GET /version HTTP/1.1\r\n"));
        said.map_err(|error| error.replace(&place.to_string(), "HERE"))
    }

    #[tokio::test]
    async fn the_first_line_of_a_good_answer_is_the_version() {
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n1.30.1-abc-Clean\nmore";
        assert_eq!(said_of(good).await, Ok("1.30.1-abc-Clean".into()));
        assert_eq!(said_of("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await, Ok(String::new()));
    }

    #[tokio::test]
    async fn other_answers_are_said_as_they_are() {
        let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(said_of(refused).await, Err("HERE answers 403 to /version".into()));
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(said_of(redirect).await, Err("HERE answers 302 to /version".into()));
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n1.30.1";
        assert_eq!(said_of(long).await, Err("HERE breaks off, or answers more than 1024 bytes".into()));
        let place = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = IstiodVersionEndpoint::new().version_at(place).await.unwrap_err();
        assert!(nobody.contains("Connection refused"), "{nobody}");
    }
}
