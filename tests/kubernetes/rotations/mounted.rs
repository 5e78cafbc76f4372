//! The Secret as the kubelet mounts it, without its delay: read again and again, judged, and swapped in whenever it has changed.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::{
    SOON,
    repeated::{Outcomes, Repeated},
};
use crate::{
    cluster::{Cluster, client_of},
    gateway_secret::{NAME, key, set},
    support::{mount::Mount, wait::wait_until},
};

const PAUSE: Duration = Duration::from_millis(50);
const KEYS: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// A mounted Secret. Goes wrong if it is ever torn.
pub(crate) struct Mounted {
    path: PathBuf,
    reads: Repeated,
}

impl Mounted {
    /// Mounts that of a namespace, and waits until there is something in it.
    pub(crate) fn start(cluster: &Cluster, namespace: &'static str) -> Self {
        let path = cluster.folder().join(format!("mounted-{namespace}"));
        let (mount, kubeconfig) = (Mount::at(path.clone()), cluster.admin_kubeconfig());
        let reads = Repeated::start(move |outcomes| follow(&kubeconfig, namespace, &mount, outcomes));
        let mounted = Self { path, reads };
        wait_until(SOON, "the Secret", || if mounted.path.join("tls.crt").exists() { Ok(()) } else { Err("none") });
        mounted
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn reads(&self) -> &Repeated {
        &self.reads
    }

    /// Ends it. How often it was read.
    pub(crate) fn stop(self) -> u64 {
        self.reads.stop()
    }
}

fn follow(kubeconfig: &Path, namespace: &str, mount: &Mount, outcomes: &Outcomes) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = runtime.enter();
    let secrets = Api::<Secret>::namespaced(client_of(kubeconfig), namespace);
    drop(inside);
    let mut version = None;
    while outcomes.go_on() {
        if let Ok(Some(secret)) = runtime.block_on(secrets.get_opt(NAME)) {
            outcomes.note(set(&secret));
            if version != secret.metadata.resource_version {
                let contents = KEYS.map(|name| (name, key(&secret, name)));
                mount.swap(contents.iter().map(|(name, content)| (*name, content.as_bytes())));
                version.clone_from(&secret.metadata.resource_version);
            }
        }
        thread::sleep(PAUSE);
    }
}
