//! A client of a workload socket.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign::proto::X509svid;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;

use crate::support::{wait::wait_until, workload_api::x509_svids};

/// A stream of identities that is watched for as long as this lives.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    updates: AtomicUsize,
    loss: Mutex<Option<String>>,
}

impl Watch {
    /// Opens a stream and waits for its first identity.
    pub(crate) fn open(socket: &Path) -> Self {
        let runtime = runtime();
        let shared = Arc::new(Shared::default());
        let (watched, path) = (Arc::clone(&shared), socket.to_owned());
        runtime.spawn(async move {
            let loss = watched.follow(&path).await;
            *watched.loss.lock().unwrap() = Some(loss);
        });
        let watch = Self { shared, _runtime: runtime };
        watch.wait_for_updates(1);
        watch
    }

    /// Identities so far.
    pub(crate) fn updates(&self) -> usize {
        self.shared.updates.load(Ordering::Relaxed)
    }

    /// Waits until there were so many identities in all.
    pub(crate) fn wait_for_updates(&self, count: usize) {
        wait_until(Duration::from_secs(20), &format!("{count} identities"), || {
            self.check();
            if self.updates() >= count { Ok(()) } else { Err(format!("{} so far", self.updates())) }
        });
    }

    /// Fails if the stream ended or an update came without an identity.
    pub(crate) fn check(&self) {
        assert_eq!(*self.shared.loss.lock().unwrap(), None);
    }
}

impl Shared {
    async fn follow(&self, socket: &Path) -> String {
        let mut stream = match x509_svids(socket).await {
            Ok(stream) => stream,
            Err(status) => return format!("no stream: {status}"),
        };
        loop {
            match stream.message().await {
                Ok(Some(response)) if response.svids.len() == 1 => {
                    self.updates.fetch_add(1, Ordering::Relaxed);
                }
                other => return format!("after {} identities: {other:?}", self.updates.load(Ordering::Relaxed)),
            }
        }
    }
}

/// The identity that a socket serves now.
pub(crate) fn fetch(socket: &Path) -> X509svid {
    runtime().block_on(first(socket)).unwrap()
}

/// The first identity, as soon as there is a socket.
pub(crate) fn fetch_first(socket: &Path) -> X509svid {
    runtime().block_on(async {
        let attempts = async {
            loop {
                if let Ok(svid) = first(socket).await {
                    return svid;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), attempts).await.expect("an identity within 10 s")
    })
}

async fn first(socket: &Path) -> Result<X509svid, Status> {
    let response = x509_svids(socket).await?.message().await?;
    response.and_then(|response| response.svids.into_iter().next()).ok_or_else(|| Status::not_found("no identity"))
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
