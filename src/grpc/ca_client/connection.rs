//! Channels and connections to a CA: TCP, TLS by a configuration of ours, HTTP/2.

use std::{fmt, sync::Arc, time::Duration};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    ClientConfig,
    pki_types::{ServerName, UnixTime},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt as _, service_fn};

use crate::{domain::clock::Timestamp, service::causes::with_causes};

/// A connection is there within this time, its handshake done, or not at all.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Of connections with streams on them.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(1);

/// What bounds the calls on a channel.
pub(super) struct Limits {
    /// Until the head of an answer.
    pub(super) answer: Duration,
    /// Whether the other side is asked for signs of life, as streams need it. Single calls have their limits; and istiod ends
    /// connections on which it is asked more often than each 15 s.
    pub(super) keeps_streams: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::grpc) enum ConnectFailed {
    /// Nobody is there: no address for the name, or nobody listens at it.
    Nobody(String),
    /// Whoever is there is not the CA that was looked for, or no TLS server at all.
    Tls(String),
}

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(why) | Self::Tls(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ConnectFailed {}

/// A channel to `HOST:PORT` that connects when it is needed. Call it within a runtime.
///
/// # Errors
///
/// When the address is none.
pub(super) fn channel(
    address: &str,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    limits: &Limits,
) -> Result<Channel, String> {
    let mut endpoint = endpoint(address)?.timeout(limits.answer);
    if limits.keeps_streams {
        endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_ANSWER);
    }
    Ok(endpoint.connect_with_connector_lazy(connector(server_name, tls)))
}

/// `HOST:PORT` for a [`connector`], which does the TLS.
///
/// # Errors
///
/// When the address is none.
pub(in crate::grpc) fn endpoint(address: &str) -> Result<Endpoint, String> {
    let unusable = |error: &dyn fmt::Display| format!("{address}: {error}");
    let origin: Uri = format!("https://{address}").parse().map_err(|error| unusable(&error))?;
    // tonic has no TLS of its own here, and refuses to be asked for it
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unusable(&error))?;
    Ok(endpoint.origin(origin))
}

/// Makes connections to a server of this name. Each is there within [`CONNECT_LIMIT`], or not at all.
pub(in crate::grpc) fn connector(
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
) -> impl Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = ConnectFailed, Future: Send> + Send + 'static {
    service_fn(move |uri: Uri| {
        let (server_name, tls) = (server_name.clone(), Arc::clone(&tls));
        async move { connect(uri, server_name, tls).await.map(TokioIo::new) }
    })
}

async fn connect(
    uri: Uri,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectFailed> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    let slow = || format!("not within {} s", CONNECT_LIMIT.as_secs());
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let stream = match timeout_at(deadline, tcp.oneshot(uri)).await {
        Ok(stream) => stream.map_err(|error| ConnectFailed::Nobody(with_causes(&error)))?,
        Err(_elapsed) => return Err(ConnectFailed::Nobody(format!("connect: {}", slow()))),
    };
    let connecting = TlsConnector::from(tls).connect(server_name, stream.into_inner());
    match timeout_at(deadline, connecting).await {
        Ok(connected) => connected.map_err(|error| ConnectFailed::Tls(in_words(&error))),
        Err(_elapsed) => Err(ConnectFailed::Tls(format!("TLS handshake: {}", slow()))),
    }
}

/// What went wrong in a handshake; a clock that is wrong is called that. The time of now is left out: what is wrong stays the same.
fn in_words(error: &std::io::Error) -> String {
    use rustls::{
        CertificateError::{ExpiredContext, NotValidYetContext},
        Error::InvalidCertificate,
    };
    let at = |time: UnixTime| Timestamp::from_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(InvalidCertificate(NotValidYetContext { not_before, .. })) => {
            format!("ClockSkew: the certificate of the server is valid only from {} on", at(*not_before))
        }
        Some(InvalidCertificate(ExpiredContext { not_after, .. })) => {
            format!("the certificate of the server expired at {}", at(*not_after))
        }
        _ => error.to_string(),
    }
}
