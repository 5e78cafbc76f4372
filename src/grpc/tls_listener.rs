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
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{authentication::PeerConnection, server_tls::presented_chain};
use crate::service::create_certificate::HELD_PER_CONNECTION;

/// One connection, its handshake done.
#[derive(Debug)]
pub(super) struct SecureConnection {
    stream: TlsStream<TcpStream>,
    peer: PeerConnection,
}

/// Handshakes under way at the most; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 4096;
/// A peer that says nothing gives its place up soon.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// Accepts on `tcp` until the stream is dropped, each connection under the newest configuration.
pub(super) fn accept_tls(
    tcp: TcpListener,
    mut config: watch::Receiver<Option<Arc<ServerConfig>>>,
) -> ReceiverStream<io::Result<SecureConnection>> {
    let (ready, connections) = mpsc::channel(64);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        // before there is a certificate, connections wait in the kernel's queue too
        if config.wait_for(Option::is_some).await.is_err() {
            return;
        }
        while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
            let (stream, address) = tokio::select! {
                () = ready.closed() => return,
                accepted = tcp.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // out of descriptors, most likely: give connections time to close instead of spinning
                        warn!(event = "accept_failed", %error);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (config, ready) = (config.clone(), ready.clone());
            tokio::spawn(async move {
                match timeout(HANDSHAKE_LIMIT, handshake(stream, address, config)).await {
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
) -> io::Result<SecureConnection> {
    stream.set_nodelay(true)?;
    let config = config.borrow().clone();
    let config = config.ok_or_else(|| io::Error::other("no serving certificate"))?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let presented = presented_chain(stream.get_ref().1.peer_certificates());
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
