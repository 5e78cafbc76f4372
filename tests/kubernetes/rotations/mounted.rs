//! The Secret as the kubelet mounts it, without its delay: read again and again, judged, and swapped in whenever it has changed.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::SOON;
use crate::{
    cluster::{Cluster, client_of},
    gateway_secret::{NAME, NAMESPACE, key, set},
    support::{mount::Mount, wait::wait_until},
};

const PAUSE: Duration = Duration::from_millis(50);
const KEYS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// A mounted Secret.
pub(super) struct Mounted {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    reads: AtomicU64,
    torn: Mutex<Vec<String>>,
}

impl Mounted {
    /// Mounts it, and waits until there is something in it.
    pub(super) fn start(cluster: &Cluster) -> Self {
        let (shared, path) = (Arc::<Shared>::default(), cluster.folder().join("mounted"));
        let mount = Mount::at(path.clone());
        let (kubeconfig, work) = (cluster.admin_kubeconfig(), Arc::clone(&shared));
        let thread = thread::spawn(move || work.follow(&kubeconfig, &mount));
        let mounted = Self { path, shared, thread: Some(thread) };
        wait_until(SOON, "the Secret", || if mounted.path.join("tls.crt").exists() { Ok(()) } else { Err("none") });
        mounted
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if it was ever torn. How often it was read.
    pub(super) fn check(&self) -> u64 {
        let torn = self.shared.torn.lock().unwrap();
        assert!(torn.is_empty(), "{torn:#?}");
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.check()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn follow(&self, kubeconfig: &Path, mount: &Mount) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let secrets = Api::<Secret>::namespaced(client_of(kubeconfig), NAMESPACE);
        drop(inside);
        let mut version = None;
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok(Some(secret)) = runtime.block_on(secrets.get_opt(NAME)) {
                match set(&secret) {
                    Ok(_) => _ = self.reads.fetch_add(1, Ordering::Relaxed),
                    Err(error) => self.torn.lock().unwrap().push(error),
                }
                if version != secret.metadata.resource_version {
                    let contents = KEYS.map(|name| (name, key(&secret, name)));
                    mount.swap(contents.iter().map(|(name, content)| (*name, content.as_bytes())));
                    version.clone_from(&secret.metadata.resource_version);
                }
            }
            thread::sleep(PAUSE);
        }
    }
}
