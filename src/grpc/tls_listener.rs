//! TLS connections for a gRPC server. Handshakes run beside each other, and wait while there is no serving certificate yet.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use super::{
    authentication::PeerConnection,
    begun::{BEGIN_LIMIT, Begun},
    server_tls::presented_chain,
};
use crate::service::{create_certificate::HELD_PER_CONNECTION, descriptors::connections_allowed};

/// One connection, its handshake done.
pub(super) type SecureConnection = Begun<TlsStream<TcpStream>, PeerConnection>;

/// Connections open at the most, if the limit of file descriptors allows that; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 16_384;
/// Half of the file descriptors: the rest is for the state, the log, the other replicas and the admin port.
const SHARE: u64 = 2;
/// Handshakes under way at the most; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 4096;

/// Accepts on `tcp` until the stream is dropped, each connection under the newest configuration.
pub(super) fn accept_tls(
    tcp: TcpListener,
    mut config: watch::Receiver<Option<Arc<ServerConfig>>>,
) -> ReceiverStream<io::Result<SecureConnection>> {
    let (ready, connections) = mpsc::channel(64);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let places = Arc::new(Semaphore::new(connections_allowed(SHARE, CONNECTIONS)));
    tokio::spawn(async move {
        // before there is a certificate, connections wait in the kernel's queue too
        if config.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut fails = false;
        while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
            let place = tokio::select! {
                () = ready.closed() => return,
                Ok(place) = Arc::clone(&places).acquire_owned() => place,
            };
            let (stream, address) = tokio::select! {
                () = ready.closed() => return,
                accepted = tcp.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // out of descriptors, most likely: give connections time to close instead of spinning
                        if !std::mem::replace(&mut fails, true) {
                            warn!(event = "accept_failed", %error);
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            fails = false;
            let (config, ready) = (config.clone(), ready.clone());
            tokio::spawn(async move {
                match timeout(BEGIN_LIMIT, handshake(stream, address, config, place)).await {
                    Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                    Ok(Err(error)) => debug!(event = "handshake_failed", peer = %address, %error),
                    Err(_) => debug!(event = "handshake_timed_out", peer = %address),
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake(
    stream: TcpStream,
    address: std::net::SocketAddr,
    config: watch::Receiver<Option<Arc<ServerConfig>>>,
    place: OwnedSemaphorePermit,
) -> io::Result<SecureConnection> {
    stream.set_nodelay(true)?;
    let config = config.borrow().clone();
    let config = config.ok_or_else(|| io::Error::other("no serving certificate"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let presented = presented_chain(stream.get_ref().1.peer_certificates());
    let held = Arc::new(Semaphore::new(HELD_PER_CONNECTION));
    Begun::by(stream, PeerConnection { address, presented, held }, place).await
}

#[cfg(test)]
mod tests;
