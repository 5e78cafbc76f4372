//! A TCP proxy that can stop forwarding without closing anything, as a network that drops packets does.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Forwards until it is dropped.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    /// Connections whose number is lower than this one forward nothing any more.
    cut_below: watch::Sender<usize>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    pub(super) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut_below, cut) = watch::channel(0);
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(forward(client, target, number, cut.clone()));
            }
        });
        Self { address, cut_below, accepted }
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// From now on nothing is forwarded on the connections that there are. New ones work.
    pub(super) fn drop_what_there_is(&self) {
        self.cut_below.send_replace(self.accepted());
    }

    /// Nothing is forwarded on any connection, also not on new ones, until [`let_new_ones_through`](Self::let_new_ones_through).
    pub(super) fn drop_everything(&self) {
        self.cut_below.send_replace(usize::MAX);
    }

    /// Ends [`drop_everything`](Self::drop_everything), for connections made from now on.
    pub(super) fn let_new_ones_through(&self) {
        self.drop_what_there_is();
    }
}

async fn forward(client: TcpStream, target: SocketAddr, number: usize, cut: watch::Receiver<usize>) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = tokio::spawn(copy(from_client, to_server, number, cut.clone()));
    copy(from_server, to_client, number, cut).await?;
    up.await.unwrap()
}

/// Once cut, it holds both halves and never reads again: neither end learns of it.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    mut cut: watch::Receiver<usize>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        tokio::select! {
            biased;
            cut_now = async { cut.wait_for(|below| number < *below).await.is_ok() } => {
                if cut_now {
                    std::future::pending::<()>().await;
                }
                return Ok(());
            }
            read = from.read(&mut buffer) => match read? {
                0 => return Ok(()),
                length => to.write_all(&buffer[..length]).await?,
            },
        }
    }
}
