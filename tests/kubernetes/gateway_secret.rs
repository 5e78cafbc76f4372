//! The Secret of a gateway that takes its client certificate from one: kept by the active, with the shipped rights alone.

use std::{
    fs,
    path::Path,
    slice,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, TokenFor, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::{MESH_ROOTS, roots_of},
        replicas::Replicas,
    },
    pair::{TRUST_DOMAIN, install, install_with, shipped},
    support::{
        authority::{Authority, Kind},
        countersign::{Serve, countersign},
        http::{self, loopback},
        observe::{readiness, wait_for},
        svid_set::SvidSet,
        wait::wait_until,
    },
};

pub(crate) const NAMESPACE: &str = "gateways";
pub(crate) const NAME: &str = "mesh-certificate";
/// As in the shipped rights.
pub(crate) const FLAG: [&str; 2] = ["--gateway-secret", "gateways/mesh-certificate=gateway"];
const ID: &str = "spiffe://gateways.test/ns/gateways/sa/gateway";
const MARK: &str = "countersign.io/published";
const SOON: Duration = Duration::from_secs(20);
/// What was missing is noticed between two attempts, four seconds apart, and then signed and written.
const BACK: Duration = Duration::from_secs(8);
const LONG: Duration = Duration::from_secs(120);
const FAILED: &str = "countersign_output_writes_total{output=\"gateways/mesh-certificate\",outcome=\"failed\"}";

fn secrets(cluster: &Cluster) -> Api<Secret> {
    Api::namespaced(cluster.admin(), NAMESPACE)
}

/// The Secret as it is, if there is one.
pub(crate) fn secret(cluster: &Cluster) -> Result<Secret, String> {
    let found = block_on(async { secrets(cluster).get_opt(NAME).await });
    found.map_err(|error| error.to_string())?.ok_or_else(|| "there is none".to_owned())
}

/// Removes it.
pub(crate) fn delete(cluster: &Cluster) {
    block_on(async { secrets(cluster).delete(NAME, &DeleteParams::default()).await.map(drop) }).unwrap();
}

/// One of its keys.
pub(crate) fn key(secret: &Secret, name: &str) -> String {
    let content = secret.data.as_ref().and_then(|data| data.get(name)).map(|content| content.0.clone());
    String::from_utf8(content.unwrap_or_default()).unwrap()
}

/// What it holds, which is never torn.
pub(crate) fn set(secret: &Secret) -> Result<SvidSet, String> {
    SvidSet::of(&key(secret, "tls.crt"), &key(secret, "tls.key"), &key(secret, "ca.crt"))
}

/// With serial numbers as [`SvidSet`] has them: without a leading zero.
fn serials(text: &str) -> String {
    text.replace("serial 0", "serial ")
}

/// Waits for a whole set that is not `old`.
fn next(cluster: &Cluster, old: Option<&SvidSet>) -> SvidSet {
    wait_until(SOON, "another set in the Secret", || match set(&secret(cluster)?) {
        Ok(set) if Some(&set) == old => Err("the old one".to_owned()),
        found => found,
    })
}

fn edit(cluster: &Cluster, change: serde_json::Value) {
    block_on(async { secrets(cluster).patch(NAME, &PatchParams::default(), &Patch::Merge(change)).await.map(drop) })
        .unwrap();
}

fn start(cluster: &Cluster, ttl: &str) -> Replicas {
    let account = block_on(install(cluster));
    let flags = [FLAG[0], FLAG[1], "--trust-domain", TRUST_DOMAIN, "--svid-ttl", ttl];
    Replicas::start(cluster, &account, [&flags, &flags])
}

fn make_namespace(cluster: &Cluster) {
    block_on(async {
        cluster.namespace_named(NAMESPACE, &[]).await;
        cluster.apply_file(&shipped("rbac-gateway-secret.yaml")).await;
    });
}

fn issued(data: &Path) -> String {
    let list = countersign().args(["issuance", "list", "--data-dir"]).arg(data).output().unwrap();
    String::from_utf8_lossy(&list.stdout).into_owned()
}

fn data_of(cluster: &Cluster, number: usize) -> std::path::PathBuf {
    cluster.folder().join(format!("countersign-{number}-data"))
}

fn page(serve: &Serve) -> String {
    http::get(loopback(serve.admin_port), "/metrics").unwrap()
}

#[test]
fn a_gateways_secret_is_waited_for_made_put_right_renewed_and_taken_over() {
    let cluster = Cluster::start();
    let mut replicas = start(&cluster, "12s");
    let active = replicas.active();
    wait_for("what it waits for", "gateways/mesh-certificate: ", || readiness(&replicas.serves[active]));
    make_namespace(&cluster);
    let first = next(&cluster, None);
    assert_eq!(first.leaf.uris, [ID]);
    let object = secret(&cluster).unwrap();
    assert_eq!(object.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(object.metadata.annotations.unwrap()[MARK], "countersign");
    wait_for("which one it holds", &format!("serial {}", first.leaf.serial), || {
        serials(&readiness(&replicas.serves[active]))
    });
    let shown = readiness(&replicas.serves[active]);
    assert!(shown.contains("verified at 20") && shown.contains("renewed at 20"), "{shown}");
    let metric = format!("countersign_output_expiry_timestamp_seconds{{output=\"{NAMESPACE}/{NAME}\"}}");
    assert!(page(&replicas.serves[active]).contains(&metric) && !page(&replicas.serves[1 - active]).contains(&metric));
    let list = issued(&data_of(&cluster, active));
    assert!(list.contains("Secret of its gateway, written by"), "{list}");

    // deleted, edited, and by itself at half of its time
    delete(&cluster);
    let second = next(&cluster, Some(&first));
    assert_ne!(second.key, first.key);
    edit(&cluster, json!({ "stringData": { "tls.key": first.key, "other": "kept" } }));
    let third = next(&cluster, Some(&second));
    assert_eq!(key(&secret(&cluster).unwrap(), "other"), "kept");
    let fourth = next(&cluster, Some(&third));

    replicas.kill_the_active();
    let fifth = next(&cluster, Some(&fourth));
    next(&cluster, Some(&fifth));
    let heir = &replicas.serves[1 - active];
    assert!(page(heir).contains(&metric));
}

#[test]
fn a_secret_without_our_mark_is_never_written_over() {
    let cluster = Cluster::start();
    make_namespace(&cluster);
    block_on(async { cluster.secret(NAMESPACE, NAME, &[("tls.crt", b"theirs"), ("tls.key", b"theirs")]).await });
    let before = secret(&cluster).unwrap();
    let replicas = start(&cluster, "1h");
    let active = &replicas.serves[replicas.active()];
    wait_for("the conflict", "gateways/mesh-certificate: RootConflict, it is not ours", || readiness(active));
    // empty is somebody's too
    edit(&cluster, json!({ "stringData": { "tls.crt": "", "tls.key": "" } }));
    let emptied = secret(&cluster).unwrap();
    assert_ne!(emptied, before);
    assert_eq!(wait_until(SOON, "the Secret", || secret(&cluster)), emptied);
    assert!(readiness(active).contains("RootConflict"));
    let written = cluster.requests().into_iter().filter(|request| {
        request.user.ends_with(":countersign") && request.namespace == NAMESPACE && request.verb != "watch"
    });
    let written: Vec<_> = written.filter(|request| !["get", "list"].contains(&&*request.verb)).collect();
    assert!(written.is_empty(), "{written:#?}");
    // handed over, but of a type that no write can change
    edit(&cluster, json!({ "metadata": { "annotations": { MARK: "countersign" } } }));
    wait_for("its type", "gateways/mesh-certificate: it is of type Opaque, which can't be changed: delete it", || {
        readiness(active)
    });
    let handed_over = secret(&cluster).unwrap();
    assert_eq!((&handed_over.data, &handed_over.type_), (&emptied.data, &emptied.type_));
    assert!(active.process.errors().contains("event=\"secret_of_other_type\" secret=\"gateways/mesh-certificate\""));
    delete(&cluster);
    assert_eq!(next(&cluster, None).leaf.uris, [ID]);
    assert_eq!(secret(&cluster).unwrap().type_.as_deref(), Some("kubernetes.io/tls"));
}

/// istiod as the CA, and a pair in front of it that keeps the gateway's Secret.
struct AtIstiod {
    istiod: Istiod,
    replicas: Replicas,
    /// istiod's root.
    root: String,
    id: String,
}

impl AtIstiod {
    /// `variables` are istiod's. The right to have tokens of the gateway's account is not given yet.
    fn start(cluster: &Cluster, variables: &[(&str, &str)]) -> Self {
        let istiod_account = block_on(istiod::prepare(cluster));
        let root = Authority::root("mesh");
        let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
        let (port, serving) = (http::free_port(), Default::default());
        let istiod = Istiod::start_with(port, cluster, &istiod_account, Ca::Own(&files), &serving, variables);
        make_namespace(cluster);
        let account = block_on(install_with(cluster, "rbac-istiod.yaml"));
        let gateway = block_on(cluster.account(NAMESPACE, "gateway"));
        let (root_file, token_file) = (cluster.folder().join("mesh-roots.pem"), cluster.folder().join("own-token"));
        fs::write(&root_file, roots_of(cluster, "default", MESH_ROOTS)).unwrap();
        let asked = TokenFor { audiences: &["istio-ca"], ..TokenFor::default() };
        fs::write(&token_file, block_on(cluster.token(&account, &asked))).unwrap();
        let address = istiod.address();
        let flags = [
            &FLAG[..],
            &["--source", "istiod", "--trust-domain", "cluster.local", "--istiod-address", &address],
            &["--istiod-server-name", istiod::SERVER_NAME, "--istiod-root-file", root_file.to_str().unwrap()],
            &["--istiod-token-file", token_file.to_str().unwrap()],
        ]
        .concat();
        let replicas = Replicas::start(cluster, &account, [&flags, &flags]);
        let id = format!("spiffe://cluster.local/ns/{}/sa/{}", gateway.namespace, gateway.name);
        Self { istiod, replicas, root: root.certificate, id }
    }

    /// The other one takes over when it likes.
    fn kill_the_active(&mut self) {
        let active = wait_until(SOON, "an active", || {
            let pages = self.replicas.serves.each_ref().map(readiness);
            pages.iter().position(|page| page.contains("term: ready (active in")).ok_or_else(|| pages.concat())
        });
        self.replicas.serves[active].process.kill();
    }

    /// Waits until one of the replicas says this of itself.
    fn one_says(&self, text: &str) {
        wait_until(SOON, text, || {
            let pages = self.replicas.serves.each_ref().map(|serve| serials(&readiness(serve)));
            if pages.iter().any(|page| page.contains(text)) { Ok(()) } else { Err(pages.concat()) }
        });
    }
}

/// How many tokens of the gateway's account the pair has got.
fn tokens(cluster: &Cluster) -> usize {
    let tokens = cluster.requests().into_iter().filter(|request| request.resource == "serviceaccounts/token");
    let by_us: Vec<_> = tokens.filter(|request| request.user.ends_with(":countersign") && !request.denied).collect();
    assert!(by_us.iter().all(|request| request.name == "gateway"), "{by_us:#?}");
    by_us.len()
}

#[test]
fn where_istiod_signs_the_active_asks_with_a_token_of_the_gateways_account() {
    let cluster = Cluster::start();
    let at = AtIstiod::start(&cluster, &[]);
    // without the right to have such tokens
    at.one_says(
        "it could not be signed: no certificate authority answered: token of service account gateways/gateway: ",
    );
    // also when it has been tried so often that the pauses have grown as long as they get
    wait_until(LONG, "attempts", || {
        let refused = cluster.requests().into_iter().filter(|request| request.resource == "serviceaccounts/token");
        let refused = refused.filter(|request| request.denied).count();
        if refused >= 7 { Ok(()) } else { Err(format!("{refused}")) }
    });
    block_on(cluster.apply_file(&shipped("rbac-gateway-token.yaml")));
    let granted = Instant::now();
    let set = next(&cluster, None);
    assert!(granted.elapsed() < BACK, "{:?}", granted.elapsed());
    assert_eq!(set.leaf.uris, slice::from_ref(&at.id));
    assert_eq!(set.roots.trim(), at.root.trim());
    at.one_says(&format!("gateways/mesh-certificate: serial {}", set.leaf.serial));
    assert_eq!(tokens(&cluster), 1, "one token for one certificate");
}

#[test]
fn where_istiod_signs_a_secret_is_renewed_each_time_with_a_token_of_its_own_by_either_replica_and_after_an_outage() {
    let cluster = Cluster::start();
    let mut at = AtIstiod::start(&cluster, &[("DEFAULT_WORKLOAD_CERT_TTL", "12s")]);
    block_on(cluster.apply_file(&shipped("rbac-gateway-token.yaml")));
    let mut set = next(&cluster, None);
    let mut sets = 1;
    for _ in 0..4 {
        let began = Instant::now();
        let renewed = next(&cluster, Some(&set));
        assert_ne!(renewed.key, set.key);
        assert_eq!((&renewed.leaf.uris[..], renewed.roots.trim()), (slice::from_ref(&at.id), at.root.trim()));
        assert!(began.elapsed() < Duration::from_secs(9), "after {:?}", began.elapsed());
        (set, sets) = (renewed, sets + 1);
    }
    // each had a token, and nobody asked for more
    let had = tokens(&cluster);
    assert!((sets..=sets + 1).contains(&had), "{had} tokens for {sets} certificates");

    at.kill_the_active();
    for _ in 0..2 {
        set = next(&cluster, Some(&set));
    }
    // silent for so long that the pauses between attempts have grown as long as they get
    at.istiod.pause();
    wait_until(LONG, "attempts in vain", || {
        let failed = at.replicas.serves.iter().filter_map(|serve| {
            let page = http::get(loopback(serve.admin_port), "/metrics").ok()?;
            page.lines().find_map(|line| line.strip_prefix(FAILED)?.trim().parse::<u32>().ok())
        });
        match failed.max() {
            Some(4..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let kept = self::set(&secret(&cluster).unwrap()).unwrap();
    at.istiod.resume();
    let resumed = Instant::now();
    set = next(&cluster, Some(&kept));
    assert!(resumed.elapsed() < BACK, "{:?}", resumed.elapsed());
    next(&cluster, Some(&set));
}
