//! Connections to other replicas: Unix sockets, or mutual TLS over TCP.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::pair_tls::server_name;
use crate::service::ports::PairEndpoint;

/// A connection is there within this time, its handshake done, or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A peer whose packets vanish is noticed after both: requests that were sent to it fail then, and do not hang.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(1);
/// More than a pair has replicas; the oldest channel gives way.
const KEPT: usize = 32;

/// Channels to replicas, one each, which reconnect by themselves. Each belongs to the runtime on which it was made.
pub(super) struct PairChannels {
    /// For TCP.
    tls: Option<watch::Receiver<Option<Arc<ClientConfig>>>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    channels: Vec<KeptChannel>,
    numbers: u64,
}

struct KeptChannel {
    endpoint: PairEndpoint,
    /// As whom it connects: a new certificate is shown at once.
    tls: Option<Arc<ClientConfig>>,
    line: Line,
}

/// A channel, told apart from its successor to the same endpoint.
#[derive(Clone)]
pub(super) struct Line {
    number: u64,
    pub(super) channel: Channel,
}

impl PairChannels {
    /// Connects over TCP by the newest configuration in `tls`, if there is any.
    pub(super) fn new(tls: Option<watch::Receiver<Option<Arc<ClientConfig>>>>) -> Self {
        Self { tls, kept: Mutex::default() }
    }

    /// The same for another runtime.
    pub(super) fn with_own_channels(&self) -> Self {
        Self::new(self.tls.clone())
    }

    /// The channel to an endpoint. Call it within a runtime.
    pub(super) fn to(&self, endpoint: &PairEndpoint) -> Result<Line, String> {
        let tls = match endpoint {
            PairEndpoint::Unix(_) => None,
            PairEndpoint::Tcp(_) => Some(self.client_config()?),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.channels.iter().position(|kept| kept.endpoint == *endpoint);
        if let Some(at) = known {
            match kept.channels.get(at) {
                Some(kept) if is_same(kept.tls.as_ref(), tls.as_ref()) => return Ok(kept.line.clone()),
                _ => drop(kept.channels.remove(at)),
            }
        }
        let channel = match (endpoint, &tls) {
            (PairEndpoint::Tcp(address), Some(tls)) => over_tcp(*address, Arc::clone(tls)),
            (PairEndpoint::Unix(path), _) => over_socket(path)?.connect_lazy(),
            (PairEndpoint::Tcp(_), None) => return Err(NO_CERTIFICATE.into()),
        };
        kept.numbers += 1;
        let line = Line { number: kept.numbers, channel };
        kept.channels.push(KeptChannel { endpoint: endpoint.clone(), tls, line: line.clone() });
        if kept.channels.len() > KEPT {
            kept.channels.remove(0);
        }
        Ok(line)
    }

    /// Something went wrong on this line: the next request gets a fresh connection. A successor stays.
    pub(super) fn forget(&self, line: &Line) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.channels.retain(|kept| kept.line.number != line.number);
    }

    /// Whatever there is to an endpoint is of the past.
    pub(super) fn forget_all_to(&self, endpoint: &PairEndpoint) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.channels.retain(|kept| kept.endpoint != *endpoint);
    }

    fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let config = self.tls.as_ref().and_then(|tls| tls.borrow().clone());
        config.ok_or_else(|| NO_CERTIFICATE.to_owned())
    }
}

const NO_CERTIFICATE: &str = "this replica has no certificate for the others yet";

fn is_same(one: Option<&Arc<ClientConfig>>, other: Option<&Arc<ClientConfig>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// How to reach a socket.
pub(super) fn over_socket(socket: &Path) -> Result<Endpoint, String> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map(|endpoint| endpoint.connect_timeout(CONNECT_LIMIT))
        .map_err(|error| format!("{}: {error}", socket.display()))
}

fn over_tcp(address: SocketAddr, tls: Arc<ClientConfig>) -> Channel {
    let connect = move |_uri| {
        let tls = Arc::clone(&tls);
        async move { Ok::<_, io::Error>(TokioIo::new(connect(address, tls).await?)) }
    };
    // the name is only for the `:authority` of requests
    Endpoint::from_static("http://replica.countersign")
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(service_fn(connect))
}

async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(tls).connect(server_name(), stream).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_kept_until_it_is_forgotten_and_its_successor_is_another() {
        let channels = PairChannels::new(None);
        let endpoint = PairEndpoint::Unix("/nowhere".into());
        let number = |channels: &PairChannels| channels.to(&endpoint).unwrap().number;
        let first = channels.to(&endpoint).unwrap();
        assert_eq!(number(&channels), first.number);
        channels.forget(&first);
        let second = channels.to(&endpoint).unwrap();
        assert_ne!(second.number, first.number);
        // many requests fail on one line: only the first of them costs it
        channels.forget(&first);
        assert_eq!(number(&channels), second.number);
        channels.forget_all_to(&endpoint);
        assert_ne!(number(&channels), second.number);
    }

    #[tokio::test]
    async fn there_are_never_many_and_none_over_the_network_without_a_certificate() {
        let channels = PairChannels::new(None);
        for number in 0..KEPT * 2 {
            channels.to(&PairEndpoint::Unix(format!("/nowhere/{number}").into())).unwrap();
        }
        assert_eq!(channels.kept.lock().unwrap().channels.len(), KEPT);
        let refused = channels.to(&PairEndpoint::Tcp(([127, 0, 0, 1], 1).into())).err();
        assert_eq!(refused.as_deref(), Some(NO_CERTIFICATE));
    }
}
