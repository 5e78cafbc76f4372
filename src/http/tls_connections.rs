//! The same connections under TLS. Handshakes run beside each other, and wait while there is no certificate yet.

use std::{io, net::SocketAddr, sync::Arc};

use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::connections::{Connection, Connections, UNANSWERED_LIMIT};

/// Their handshakes done.
pub(super) struct TlsConnections {
    ready: mpsc::Receiver<Secured>,
    address: io::Result<SocketAddr>,
}

type Secured = (TlsStream<Connection>, SocketAddr);

impl TlsConnections {
    /// Accepts until this is dropped, at most so many at the same time, each under the newest configuration.
    pub(super) fn of(tcp: TcpListener, most: usize, config: watch::Receiver<Option<Arc<ServerConfig>>>) -> Self {
        let address = tcp.local_addr();
        let (secured, ready) = mpsc::channel(1);
        tokio::spawn(accept(Connections::of(tcp, most), config, secured));
        Self { ready, address }
    }
}

async fn accept(
    mut connections: Connections,
    mut config: watch::Receiver<Option<Arc<ServerConfig>>>,
    secured: mpsc::Sender<Secured>,
) {
    tokio::select! {
        () = secured.closed() => return,
        // before there is a certificate, connections wait in the kernel's queue
        configured = config.wait_for(Option::is_some) => if configured.is_err() { return },
    }
    loop {
        let (connection, address) = tokio::select! {
            () = secured.closed() => return,
            accepted = connections.accept() => accepted,
        };
        let Some(config) = config.borrow().clone() else { continue };
        let secured = secured.clone();
        // at most as many as there are places for connections
        tokio::spawn(async move {
            match timeout(UNANSWERED_LIMIT, TlsAcceptor::from(config).accept(connection)).await {
                Ok(Ok(stream)) => drop(secured.send((stream, address)).await),
                Ok(Err(error)) => debug!(event = "handshake_failed", peer = %address, %error),
                Err(_elapsed) => debug!(event = "handshake_timed_out", peer = %address),
            }
        });
    }
}

impl Listener for TlsConnections {
    type Io = TlsStream<Connection>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Secured {
        match self.ready.recv().await {
            Some(secured) => secured,
            // whoever was to configure TLS has ended, and says so itself
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|error| error.kind().into())
    }
}
