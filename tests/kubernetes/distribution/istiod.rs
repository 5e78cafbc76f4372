//! The certificate that istiod serves with, judged by OpenSSL.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use countersign::domain::{
    issuance::IssuanceEvent,
    x509::{Certificate, PrivateKey},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    Duration, MESH, SOON, cluster, has, nothing_was_denied, own_requests,
    replica::{Authority, Replica, mesh_config},
    until,
};
use crate::{cluster::Cluster, pair::shipped};

const NAMESPACE: &str = "istio-system";
const NAME: &str = "istiod-tls";

fn secrets(cluster: &Cluster) -> Api<Secret> {
    Api::namespaced(cluster.admin(), NAMESPACE)
}

fn files(secret: Secret) -> BTreeMap<String, String> {
    secret.data.unwrap().into_iter().map(|(name, content)| (name, String::from_utf8(content.0).unwrap())).collect()
}

/// Waits until there is another certificate than `old`.
async fn renewed(cluster: &Cluster, old: &str) -> BTreeMap<String, String> {
    until(SOON, "another certificate", async || match secrets(cluster).get_opt(NAME).await.unwrap() {
        None => Err("none"),
        Some(secret) => {
            let files = files(secret);
            let found = files.get("tls.crt").is_some_and(|found| found != old && found.contains("BEGIN"));
            if found { Ok(files) } else { Err("the old one") }
        }
    })
    .await
}

fn openssl_verifies(folder: &Path, files: &BTreeMap<String, String>, host: &str) {
    let (leaf, roots) = (folder.join("tls.crt"), folder.join("ca.crt"));
    fs::write(&leaf, &files["tls.crt"]).unwrap();
    fs::write(&roots, &files["ca.crt"]).unwrap();
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", host]);
    let answer = command.arg("-CAfile").arg(&roots).arg(&leaf).output().expect("openssl");
    assert!(answer.status.success(), "{host}: {}", String::from_utf8_lossy(&answer.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn istiod_is_waited_for_and_then_has_a_certificate_that_is_kept_right() {
    // installed before Istio: neither its namespace nor the rights in it are there
    let cluster = cluster(&["rbac.yaml"]).await;
    let authority = Authority::new();
    let replica = Replica::start(&cluster, mesh_config()).await;
    replica.activate(1, &authority);
    replica.says_soon("istiod-tls: ").await;
    assert!(replica.log.0.lock().unwrap().is_empty(), "nothing is signed for a namespace that is not there");
    cluster.namespace_named(NAMESPACE, &[]).await;
    cluster.apply_file(&shipped("rbac-mesh-ca.yaml")).await;
    let first = renewed(&cluster, "").await;
    replica.says("istiod-tls: renewed at", SOON).await;
    has(&cluster, NAMESPACE, MESH, &authority.roots(), Duration::from_secs(20)).await;

    assert_eq!(secrets(&cluster).get(NAME).await.unwrap().type_.as_deref(), Some("kubernetes.io/tls"));
    let leaf = Certificate::all_from_pem(first["tls.crt"].as_bytes()).unwrap().remove(0);
    assert_eq!(leaf.spiffe_id().unwrap().as_str(), "spiffe://cluster.local/ns/istio-system/sa/istiod");
    let names = ["istio-pilot", "istiod-canary", "istiod-remote", "istiod"];
    assert_eq!(leaf.dns_names(), names.map(|name| format!("{name}.istio-system.svc")));
    let key = PrivateKey::from_pem(first["tls.key"].as_bytes()).unwrap();
    assert_eq!(key.public_key_info(), leaf.public_key_info());
    assert_eq!(first["ca.crt"], authority.roots());
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        openssl_verifies(folder.path(), &first, &format!("{name}.istio-system.svc"));
    }

    // deleted; edited by hand, other keys kept; the roots changed
    secrets(&cluster).delete(NAME, &DeleteParams::default()).await.unwrap();
    let second = renewed(&cluster, &first["tls.crt"]).await;
    assert_ne!(second["tls.key"], first["tls.key"]);
    let edit = json!({ "stringData": { "tls.crt": "edited", "other": "kept" } });
    secrets(&cluster).patch(NAME, &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    let third = renewed(&cluster, &second["tls.crt"]).await;
    assert_eq!(third["other"], "kept");
    let roots = authority.publish_also(&Authority::new().certificate);
    let fourth = renewed(&cluster, &third["tls.crt"]).await;
    assert_eq!(fourth["ca.crt"], roots);
    openssl_verifies(folder.path(), &fourth, "istiod.istio-system.svc");

    // each is on record, as istiod's, and the next active leaves the last one alone
    let serials = || {
        let log = replica.log.0.lock().unwrap();
        let issued = log.iter().filter_map(|event| match event {
            IssuanceEvent::Issued(issued) => Some((issued.serial.clone(), issued.proof.to_string())),
            _ => None,
        });
        issued.collect::<Vec<_>>()
    };
    let recorded = serials();
    assert_eq!(recorded.len(), 4, "{recorded:?}");
    assert!(recorded.iter().all(|(_, proof)| proof == "istiod's certificate, written by replica"), "{recorded:?}");
    assert_eq!(recorded[0].0, leaf.serial().to_string());
    replica.stand_by();
    let next = Replica::start(&cluster, mesh_config()).await;
    next.activate(2, &authority);
    next.says("istiod-tls: renewed at", SOON).await;
    assert!(next.log.0.lock().unwrap().is_empty());
    assert_eq!(files(secrets(&cluster).get(NAME).await.unwrap()), fourth);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_others_is_a_conflict_until_it_is_adopted() {
    let cluster = cluster(&["rbac.yaml"]).await;
    cluster.namespace_named(NAMESPACE, &[]).await;
    cluster.apply_file(&shipped("rbac-mesh-ca.yaml")).await;
    let (authority, other) = (Authority::new(), Authority::new());
    let foreign = other.certificate.to_pem();
    let data: [(&str, &[u8]); 3] =
        [("tls.crt", foreign.as_bytes()), ("tls.key", b"theirs"), ("ca.crt", foreign.as_bytes())];
    cluster.secret(NAMESPACE, NAME, &data).await;
    let replica = Replica::start(&cluster, mesh_config()).await;
    replica.activate(1, &authority);
    replica.says_soon("istiod-tls: RootConflict").await;
    // the other parts go on
    has(&cluster, NAMESPACE, MESH, &authority.roots(), SOON).await;
    assert!(own_requests(&cluster).iter().all(|request| request.resource != "secrets" || request.verb != "patch"));
    replica.stand_by();

    let mut config = mesh_config();
    config.adopt = true;
    let adopting = Replica::start(&cluster, config).await;
    adopting.activate(2, &authority);
    let mut last = renewed(&cluster, &foreign).await;
    adopting.says_soon("istiod-tls: renewed at").await;

    // somebody insists
    for _ in 0..2 {
        let edit = json!({ "stringData": { "tls.crt": foreign } });
        secrets(&cluster).patch(NAME, &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
        until(SOON, "an answer to it", async || {
            let found = files(secrets(&cluster).get(NAME).await.unwrap());
            let status = adopting.status.borrow().to_string();
            let is_answered =
                status.contains("fought over") || ![&foreign, &last["tls.crt"]].contains(&&found["tls.crt"]);
            if is_answered { Ok(()) } else { Err(status) }
        })
        .await;
        last = files(secrets(&cluster).get(NAME).await.unwrap());
    }
    adopting.says_soon("istiod-tls: fought over").await;
    assert_eq!(last["tls.crt"], foreign);
    nothing_was_denied(&cluster);
}
