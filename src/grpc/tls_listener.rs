//! TLS connections for a gRPC server. Handshakes run beside each other, and wait while there is no serving certificate yet.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{
    authentication::PeerConnection,
    begun::{BEGIN_LIMIT, Begun, connections_allowed},
    server_tls::presented_chain,
};
use crate::service::create_certificate::HELD_PER_CONNECTION;

/// One connection, its handshake done.
#[derive(Debug)]
pub(super) struct SecureConnection {
    stream: Begun<TlsStream<TcpStream>>,
    peer: PeerConnection,
}

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
    let stream = Begun::by(stream, place).await?;
    let presented = presented_chain(stream.get_ref().get_ref().1.peer_certificates());
    let held = Arc::new(Semaphore::new(HELD_PER_CONNECTION));
    Ok(SecureConnection { stream, peer: PeerConnection { address, presented, held } })
}

impl Connected for SecureConnection {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.peer.clone()
    }
}

impl AsyncRead for SecureConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecureConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
