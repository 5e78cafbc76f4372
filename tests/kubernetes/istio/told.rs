//! Istiods as replicas see them: a pod as its chart makes it, and what its monitoring port says.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::istiod::NAMESPACE;
use crate::cluster::Cluster;

/// What answers every request with a version, as istiod's monitoring port does `/version`.
pub(crate) struct Monitoring {
    pub(crate) port: u16,
    version: Arc<Mutex<Option<&'static str>>>,
}

impl Monitoring {
    /// At one of the addresses of this process. Without a version requests are taken and not answered.
    pub(crate) fn start(address: IpAddr, version: Option<&'static str>) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let version = Arc::new(Mutex::new(version));
        let said = Arc::clone(&version);
        thread::spawn(move || {
            let mut unanswered = Vec::new();
            for mut stream in listener.incoming().map(Result::unwrap) {
                let Some(version) = *said.lock().unwrap() else {
                    unanswered.push(stream);
                    continue;
                };
                let _asked = stream.read(&mut [0; 1024]);
                let length = version.len();
                let _written = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{version}");
            }
        });
        Self { port, version }
    }

    /// From now on.
    pub(crate) fn say(&self, version: &'static str) {
        *self.version.lock().unwrap() = Some(version);
    }
}

/// Makes a pod that does not run yet.
pub(crate) async fn create(cluster: &Cluster, name: &str, revision: &str, port: u16, variables: &[(&str, &str)]) {
    let env: Vec<_> = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let labels = json!({ "app": "istiod", "istio.io/rev": revision });
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
        "spec": { "serviceAccountName": "istiod", "containers": [{
            "name": "discovery", "image": "registry.example/pilot:1.30.1-distroless", "env": env,
            "ports": [{ "name": "http-monitoring", "containerPort": port }],
        }] },
    }))
    .unwrap();
    cluster.pods(NAMESPACE).create(&PostParams::default(), &pod).await.unwrap();
}

/// It runs from now on, at that address.
pub(crate) async fn run(cluster: &Cluster, name: &str, address: IpAddr) {
    let status = json!({ "name": "discovery", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
        "containerID": "containerd://1", "state": { "running": { "startedAt": "2026-11-27T00:00:00Z" } } });
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "containerStatuses": [status] } });
    let pods = cluster.pods(NAMESPACE);
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}
