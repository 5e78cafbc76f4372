//! The connections of a Unix socket until they have begun HTTP/2.

use std::{future::pending, sync::Arc};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tonic::transport::server::{Connected as _, UdsConnectInfo};

use super::WorkloadListener;
use crate::{
    grpc::begun::{BEGIN_LIMIT, Begun},
    service::ports::BoxFuture,
};

/// Connections open at the most; each of a gateway's processes makes one.
pub(super) const CONNECTIONS: usize = 4096;
/// A quarter of the file descriptors: the signing API may have half of them.
pub(super) const SHARE: u64 = 4;

/// One connection of a permitted caller.
pub(crate) type LocalConnection = Begun<UnixStream, UdsConnectInfo>;

/// The connections of a listener, from the first byte on.
pub(super) struct Incoming {
    listener: WorkloadListener,
    places: Arc<Semaphore>,
    /// Each ends within a limit; there are at most as many as places.
    beginning: FuturesUnordered<BoxFuture<'static, Option<LocalConnection>>>,
}

impl Incoming {
    /// At most so many `connections` at a time.
    pub(super) fn of(listener: WorkloadListener, connections: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections)), beginning: FuturesUnordered::new() }
    }

    pub(super) async fn next(&mut self) -> LocalConnection {
        let Self { listener, places, beginning } = self;
        loop {
            tokio::select! {
                Some(begun) = beginning.next() => if let Some(connection) = begun {
                    return connection;
                },
                (stream, place) = admitted(listener, places) => {
                    let info = stream.connect_info();
                    let begins = timeout(BEGIN_LIMIT, Begun::by(stream, info, place));
                    beginning.push(Box::pin(async { begins.await.ok()?.ok() }));
                }
            }
        }
    }
}

async fn admitted(listener: &WorkloadListener, places: &Arc<Semaphore>) -> (UnixStream, OwnedSemaphorePermit) {
    let Ok(place) = Arc::clone(places).acquire_owned().await else { return pending().await };
    (listener.accept().await, place)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use tempfile::tempdir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::grpc::{begun::PREFACE, unix_listener::SocketAccess};

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn listening(path: &Path, connections: usize) -> Incoming {
        Incoming::of(WorkloadListener::bind(path, SocketAccess::default()).await.unwrap(), connections)
    }

    #[tokio::test]
    async fn who_says_nothing_is_cut_and_who_speaks_is_heard_from_the_first_byte() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut incoming = listening(&path, 8).await;
        let mut silent = UnixStream::connect(&path).await.unwrap();
        let mut stops = UnixStream::connect(&path).await.unwrap();
        stops.write_all(PREFACE.split_at(10).0).await.unwrap();
        let mut speaks = UnixStream::connect(&path).await.unwrap();
        let said = [PREFACE, b"and more"].concat();
        speaks.write_all(&said).await.unwrap();

        let mut connection = timeout(DEADLINE, incoming.next()).await.expect("a connection that speaks");
        let mut heard = vec![0; said.len()];
        timeout(DEADLINE, connection.read_exact(&mut heard)).await.expect("what was said").unwrap();
        assert_eq!(heard, said);
        let cut = async {
            for stream in [&mut silent, &mut stops] {
                assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            }
        };
        tokio::select! {
            _ = incoming.next() => panic!("nobody else has spoken"),
            cut = timeout(DEADLINE, cut) => cut.expect("cut"),
        }
    }

    #[tokio::test]
    async fn more_than_there_are_places_for_wait_until_one_is_free() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("socket");
        let mut incoming = listening(&path, 2).await;
        let mut callers = Vec::new();
        for _ in 0..3 {
            let mut caller = UnixStream::connect(&path).await.unwrap();
            caller.write_all(PREFACE).await.unwrap();
            callers.push(caller);
        }
        let first = timeout(DEADLINE, incoming.next()).await.expect("the first");
        let _second = timeout(DEADLINE, incoming.next()).await.expect("the second");
        assert_eq!(incoming.places.available_permits(), 0);
        assert!(timeout(Duration::from_millis(100), incoming.next()).await.is_err(), "there is no third place");
        drop(first);
        timeout(DEADLINE, incoming.next()).await.expect("the third");
    }
}
