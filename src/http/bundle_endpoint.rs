//! The own trust domain's bundle for everybody who asks (SPIFFE Federation 5): one document, rendered once per change. Nobody has
//! to say who he is, for there is nothing in it that is not public.

use std::{convert::Infallible, fmt::Write as _, future::IntoFuture as _, io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};

use super::tls_connections::TlsConnections;
use crate::{
    domain::bundle::SpiffeBundle,
    service::{descriptors::connections_allowed, published_trust::TrustReceiver},
};

/// Who keeps it asks each time whether it is still the newest: a copy kept anywhere would add to the time in which a change
/// reaches everybody, and steps of a rotation count that time.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("no-cache");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Nobody keeps a place that somebody else may need: each asks seldom.
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Seconds, while the bundle is not known yet.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
/// Connections at the same time, if the limit of file descriptors allows that. Before its handshake is done, one takes up at most
/// some 30 KiB: what the client has sent, and the certificate that waits for it.
const CONNECTIONS: usize = 512;
/// Part of the file descriptors: it is for strangers.
const SHARE: u64 = 8;

/// Answers `GET /` on `listener`, by the newest configuration in `tls`, with the own bundle in `trust`, until `shutdown` ends;
/// then finishes what it has begun.
///
/// # Errors
///
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    trust: TrustReceiver,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (rendered, document) = watch::channel(None);
    let routes = Router::new().route("/", get(bundle)).layer(map_response(close)).with_state(document);
    let connections = TlsConnections::of(listener, connections_allowed(SHARE, CONNECTIONS), tls);
    let serving = axum::serve(connections, routes).with_graceful_shutdown(shutdown);
    tokio::select! {
        result = serving.into_future() => result,
        never = render(trust, rendered) => match never {},
    }
}

/// What is answered, and its name.
struct Document {
    json: Bytes,
    etag: HeaderValue,
}

type DocumentReceiver = watch::Receiver<Option<Arc<Document>>>;

impl Document {
    /// The same on every replica, and so is its name. `None` if that can't be: hex is a header's text.
    fn of(bundle: &SpiffeBundle) -> Option<Self> {
        let json = bundle.to_json();
        let mut etag = String::from('"');
        for byte in digest(&SHA256, json.as_bytes()).as_ref() {
            write!(etag, "{byte:02x}").ok()?;
        }
        etag.push('"');
        Some(Self { json: json.into(), etag: etag.try_into().ok()? })
    }
}

async fn render(mut trust: TrustReceiver, rendered: watch::Sender<Option<Arc<Document>>>) -> Infallible {
    loop {
        let newest = trust.borrow_and_update().clone();
        if let Some(newest) = newest {
            rendered.send_replace(Document::of(&newest.own).map(Arc::new));
        }
        if trust.changed().await.is_err() {
            // whoever was to tell has ended, and says so itself; what is known stays
            std::future::pending::<()>().await;
        }
    }
}

async fn bundle(State(document): State<DocumentReceiver>, asked: HeaderMap) -> Response {
    let newest = document.borrow().clone();
    let Some(newest) = newest else {
        let told = [(header::RETRY_AFTER, RETRY_AFTER), (header::CACHE_CONTROL, CACHE_CONTROL)];
        return (StatusCode::SERVICE_UNAVAILABLE, told, "the trust bundle is not known yet\n").into_response();
    };
    let told = [(header::ETAG, newest.etag.clone()), (header::CACHE_CONTROL, CACHE_CONTROL)];
    if asked.get_all(header::IF_NONE_MATCH).iter().any(|known| is_among(&newest.etag, known)) {
        return (StatusCode::NOT_MODIFIED, told).into_response();
    }
    (told, [(header::CONTENT_TYPE, JSON)], newest.json.clone()).into_response()
}

async fn close(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::CONNECTION, CLOSE);
    answer
}

/// Whether `If-None-Match` names it, by the weak comparison (RFC 9110 13.1.2).
fn is_among(etag: &HeaderValue, known: &HeaderValue) -> bool {
    let (Ok(etag), Ok(known)) = (etag.to_str(), known.to_str()) else { return false };
    let mut names = known.split(',').map(|name| name.trim().trim_start_matches("W/"));
    names.any(|name| name == etag || name == "*")
}

#[cfg(test)]
mod tests;
