//! A network that can fall silent: nothing that was sent arrives any more, and nothing is reset.

use std::{future::pending, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Between replicas and one of them.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = watch::Sender::new(false);
        let silence = silent.subscribe();
        tokio::spawn(async move {
            loop {
                let (here, _) = listener.accept().await.unwrap();
                let silence = silence.clone();
                tokio::spawn(async move {
                    let Ok(there) = TcpStream::connect(target).await else { return };
                    let ((here_in, here_out), (there_in, there_out)) = (here.into_split(), there.into_split());
                    tokio::join!(pass(here_in, there_out, silence.clone()), pass(there_in, here_out, silence));
                });
            }
        });
        Self { address, silent }
    }

    /// From now on nothing gets through, on connections old and new.
    pub(crate) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// What is new gets through again; what was sent on connections before is lost with them, as far as anybody can tell.
    pub(crate) fn speak_again(&self) {
        self.silent.send_replace(false);
    }
}

/// A connection that has once been silent stays so: that is what a peer sees of a network that lost its packets for long.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut silence: watch::Receiver<bool>) {
    let mut bytes = [0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            () = async { drop(silence.wait_for(|silent| *silent).await) } => return pending().await,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if to.write_all(&bytes[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
