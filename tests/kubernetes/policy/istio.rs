//! What is seen of Istio itself: the versions that istiods say, a real one among them, and PeerAuthentications.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;

use super::{TEAM, create, label, pod_of, said, service_of};
use crate::{
    cluster::{Cluster, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::check_nothing_was_refused,
        replicas::Replicas,
        told::{self, Monitoring},
    },
    pair::{install, shipped},
    support::{
        authority::{Authority, Kind},
        countersign::countersign,
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(20);
const FLAGS: [&str; 4] = ["--policy", "true", "--trust-domain", "gateways.test"];
const AT_ONCE: Duration = Duration::from_secs(1);

/// Both replicas, as an operator asks them.
struct Asked {
    data: [PathBuf; 2],
}

impl Asked {
    fn explain(&self, subject: &str) -> [String; 2] {
        self.data.each_ref().map(|data| explain(data, subject))
    }

    /// Waits until both say all of this and nothing of that.
    fn wait(&self, subject: &str, texts: &[&str], not: &[&str], within: Duration) {
        wait_until(within, &format!("{texts:?} and none of {not:?}"), || {
            let said = self.explain(subject);
            let is_so = |said: &String| {
                texts.iter().all(|text| said.contains(text)) && !not.iter().any(|text| said.contains(text))
            };
            if said.iter().all(is_so) { Ok(()) } else { Err(said.concat()) }
        });
    }
}

/// Where `Replicas` has its replicas keep their files.
fn folders(cluster: &Cluster) -> [PathBuf; 2] {
    [0, 1].map(|number| cluster.folder().join(format!("countersign-{number}-data")))
}

fn explain(data: &Path, subject: &str) -> String {
    said(&countersign().args(["policy", "explain", subject, "--data-dir"]).arg(data).output().unwrap())
}

/// A pod as istiod's chart makes it, running on loopback.
async fn istiod_pod(cluster: &Cluster, name: &str, revision: &str, port: u16, variables: &[(&str, &str)]) {
    told::create(cluster, name, revision, port, variables).await;
    told::run(cluster, name, Ipv4Addr::LOCALHOST.into()).await;
}

fn peer_authentications(cluster: &Cluster) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
    let resource = ApiResource::from_gvk_with_plural(&kind, "peerauthentications");
    Api::namespaced_with(cluster.admin(), TEAM, &resource)
}

async fn set_mode(cluster: &Cluster, mode: &str) {
    let object = json!({ "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "default" }, "spec": { "mtls": { "mode": mode } } });
    let params = PatchParams::apply("test").force();
    peer_authentications(cluster).patch("default", &params, &Patch::Apply(object)).await.unwrap();
}

#[test]
fn versions_of_istiods_and_modes_of_sidecars_are_seen_as_they_change() {
    let cluster = Cluster::start();
    let account = block_on(async {
        let account = install(&cluster).await;
        cluster.apply_file(&shipped("rbac-policy.yaml")).await;
        cluster.namespace_named(TEAM, &[("istio-injection", "enabled")]).await;
        let client = cluster.admin();
        create(Api::namespaced(client.clone(), TEAM), &service_of(TEAM, "backend")).await;
        let mut pod = pod_of(TEAM, "one", "backend", "v1", true);
        let labels = pod.metadata.labels.as_mut().unwrap();
        labels.insert("security.istio.io/tlsMode".into(), "istio".into());
        create(Api::namespaced(client, TEAM), &pod).await;
        account
    });
    let mut replicas = Replicas::start(&cluster, &account, [&FLAGS, &FLAGS]);
    let asked = Asked { data: folders(&cluster) };
    let backend = format!("{TEAM}/backend");

    // nothing of Istio's is there, not even its kinds of objects
    asked.wait(&backend, &["IstioNotDetected", "PeerAuthentication permissive"], &["IstioVersion"], SOON);
    versions(&cluster, &asked);
    modes(&cluster, &asked, &backend);
    check_nothing_was_refused(&cluster);
    replicas.stop();
}

fn versions(cluster: &Cluster, asked: &Asked) {
    let account = block_on(istiod::prepare(cluster));
    let root = Authority::root("mesh");
    let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
    let istiod = Istiod::start(cluster, &account, Ca::Own(&files), &Default::default());
    block_on(istiod_pod(cluster, "istiod-0", "default", istiod.monitoring_port, &[]));
    // which is what the real one says that it is, built as it was
    let unknown = ["IstioVersionUnknown", "istio-system/istiod-0", "unknown-unknown-unknown", "1.30.1-distroless"];
    asked.wait(TEAM, &unknown, &["IstioNotDetected"], SOON);

    let says = |version| Monitoring::start(Ipv4Addr::LOCALHOST.into(), Some(version)).port;
    let canary = says("1.29.1-5c178358f9c61c50d3d6149a0b05a609a0d7defd-Clean");
    let begin = Instant::now();
    block_on(istiod_pod(cluster, "istiod-canary", "canary", canary, &[]));
    asked.wait(TEAM, &["UnsafeOnThisIstio", "istiod-canary is 1.29.1"], &["IstioVersionUnknown"], SOON);
    println!("an istiod's version, from its pod to an operator of each replica: {:?}", begin.elapsed());

    let deleted = DeleteParams::default().grace_period(0);
    let off = [("PILOT_ENABLE_GATEWAY_API", "false")];
    block_on(async {
        cluster.pods(istiod::NAMESPACE).delete("istiod-canary", &deleted).await.unwrap();
        istiod_pod(cluster, "istiod-canary", "canary", canary, &off).await;
    });
    asked.wait(TEAM, &unknown, &["UnsafeOnThisIstio"], SOON);
    let good = says("1.31.0-abc-Clean");
    block_on(async {
        cluster.pods(istiod::NAMESPACE).delete("istiod-0", &deleted).await.unwrap();
        istiod_pod(cluster, "istiod-1", "default", good, &[]).await;
    });
    asked.wait(TEAM, &["mutual TLS is required"], &["UnsafeOnThisIstio", "IstioVersionUnknown", "warning"], SOON);

    // anybody can make such a pod in a namespace of his own
    let mut foreign = pod_of(TEAM, "not-istiod", "istiod", "v1", false);
    foreign.metadata.labels.as_mut().unwrap().remove("team");
    block_on(async { create(Api::namespaced(cluster.admin(), TEAM), &foreign).await });
    asked.wait(TEAM, &["IstiodElsewhere"], &["UnsafeOnThisIstio", "IstioVersionUnknown"], SOON);
    block_on(cluster.delete_pod(TEAM, "not-istiod"));
}

fn modes(cluster: &Cluster, asked: &Asked, backend: &str) {
    // the kind of object has come while the replicas ran
    block_on(set_mode(cluster, "STRICT"));
    asked.wait(backend, &["PeerAuthentication strict"], &["error"], SOON);
    let begin = Instant::now();
    block_on(set_mode(cluster, "DISABLE"));
    let disabled =
        ["PeerAuthentication disable", "error PolicyModeDisabled", "test-infra/default: DISABLE holds on port 8080"];
    asked.wait(backend, &disabled, &[], AT_ONCE);
    println!("DISABLE, from its write to an operator of each replica: {:?}", begin.elapsed());
    block_on(async { peer_authentications(cluster).delete("default", &DeleteParams::default()).await.map(drop) })
        .unwrap();
    asked.wait(backend, &["PeerAuthentication permissive"], &["PolicyModeDisabled"], SOON);

    block_on(set_mode(cluster, "STRICT"));
    asked.wait(backend, &["PeerAuthentication strict"], &[], SOON);
    block_on(async { label(&cluster.admin(), TEAM, "istio-injection", None).await });
    let plain = ["nothing is required", "error StrictButNotManaged", "a gateway sends plaintext"];
    asked.wait(backend, &plain, &["PeerAuthentication strict"], SOON);
    block_on(async { label(&cluster.admin(), TEAM, "istio-injection", Some("enabled")).await });
    asked.wait(backend, &["mutual TLS is required"], &["StrictButNotManaged"], SOON);
}

#[test]
fn pods_make_a_member_where_that_is_asked_for() {
    let cluster = Cluster::start();
    let account = block_on(async {
        let account = install(&cluster).await;
        cluster.apply_file(&shipped("rbac-policy.yaml")).await;
        cluster.namespace_named(TEAM, &[]).await;
        create(Api::namespaced(cluster.admin(), TEAM), &service_of(TEAM, "backend")).await;
        account
    });
    let auto = [&FLAGS[..], &["--policy-membership", "auto"]].concat();
    let mut replicas = Replicas::start(&cluster, &account, [&auto, &FLAGS]);
    let [auto, by_labels] = folders(&cluster);
    let backend = format!("{TEAM}/backend");
    let member = |what: &str, expected: bool| {
        wait_until(SOON, what, || match explain(&auto, &backend) {
            said if said.contains("notice MemberByPods") == expected => Ok(()),
            said => Err(said),
        });
    };
    member("without pods", false);
    let pod = |name: &str, label: Option<&str>| {
        let mut pod = pod_of(TEAM, name, "backend", "v1", true);
        let labels = pod.metadata.labels.as_mut().unwrap();
        labels.extend(label.map(|value| ("security.istio.io/tlsMode".to_owned(), value.to_owned())));
        block_on(async { create(Api::namespaced(cluster.admin(), TEAM), &pod).await });
    };
    pod("one", Some("istio"));
    member("one pod that shows it", true);
    let said_by_auto = explain(&auto, &backend);
    assert!(said_by_auto.contains(&format!("accepts spiffe://cluster.local/ns/{TEAM}/sa/v1")), "{said_by_auto}");
    assert!(!explain(&by_labels, &backend).contains("accepts"));
    pod("two", None);
    member("one that does not", false);
    block_on(cluster.delete_pod(TEAM, "two"));
    member("it is gone again", true);
    replicas.stop();
}
