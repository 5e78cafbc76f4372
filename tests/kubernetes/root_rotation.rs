//! The rotation of the root of a pair in Kubernetes: its state is in Secrets, and its roots are in ConfigMaps, each of which has to
//! be read back before anything is signed by the new one.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use countersign::domain::x509::Certificate;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, block_on},
    istio::replicas::Replicas,
    pair::{NAMESPACE, TRUST_DOMAIN, install, roots_in},
    support::{
        authority::Authority,
        countersign::countersign,
        http::{self, loopback},
        observe::leave_for_alerts,
        wait::wait_until,
    },
};

const OBJECT: &str = "countersign-root-cert";
const LABEL: (&str, &str) = ("countersign.io/root-cert", "true");
const LAGGING: &str = "lags";
const PLACES: [&str; 3] = [NAMESPACE, "follows", LAGGING];
const FLAGS: [&str; 6] = ["--trust-domain", TRUST_DOMAIN, "--svid-ttl", "6s", "--max-svid-ttl", "6s"];
/// The longest that a step waits: for what was handed out before, and for a ConfigMap that is tried again.
const GATE: Duration = Duration::from_secs(30);

/// Operators at one replica, be it active or not.
struct Operator(PathBuf);

impl Operator {
    fn order(&self, step: &[&str]) -> Result<String, String> {
        let mut command = countersign();
        let output = command.args(["authority", "x509"]).args(step).arg("--data-dir").arg(&self.0).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// As soon as it is done.
    fn done(&self, step: &[&str]) -> String {
        wait_until(GATE, &format!("{step:?}"), || self.order(step))
    }

    /// The authorities in a phase.
    fn ids(&self, phase: &str) -> Vec<String> {
        let shown: Value = serde_json::from_str(&self.done(&["show", "-o", "json"])).unwrap();
        let all = shown["authorities"].as_array().unwrap().iter();
        all.filter(|one| one["phase"] == phase).map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    fn only(&self, phase: &str) -> String {
        let found = self.ids(phase);
        assert_eq!(found.len(), 1, "{phase}: {found:?}");
        found.into_iter().next().unwrap()
    }
}

fn config_map(cluster: &Cluster, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(cluster.admin(), namespace)
}

/// Has the API server refuse every further write of the roots there.
fn freeze(cluster: &Cluster, namespace: &str) {
    let patch = Patch::Merge(json!({ "immutable": true }));
    block_on(async { config_map(cluster, namespace).patch(OBJECT, &PatchParams::default(), &patch).await }).unwrap();
}

/// Waits until so many roots stand in a namespace: they.
fn wait_for_roots(cluster: &Cluster, namespace: &str, count: usize) -> Vec<Certificate> {
    wait_until(GATE, &format!("{count} roots in {namespace}"), || {
        let roots = Certificate::all_from_pem(roots_in(cluster, namespace).as_bytes()).unwrap();
        if roots.len() == count { Ok(roots) } else { Err(roots.len().to_string()) }
    })
}

fn data_of(folder: &Path, replica: usize) -> PathBuf {
    folder.join(format!("countersign-{replica}-data"))
}

#[test]
fn a_new_root_waits_for_each_config_map_and_stands_alone_in_the_end_though_the_active_dies_in_mid_step() {
    let begun = Instant::now();
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    block_on(async {
        for namespace in &PLACES[1..] {
            cluster.namespace_named(namespace, &[LABEL]).await;
        }
    });
    let mut replicas = Replicas::start(&cluster, &account, [&FLAGS, &FLAGS]);
    let active = replicas.active();
    let operator = Operator(data_of(cluster.folder(), 1 - active));
    let old = PLACES.map(|namespace| wait_for_roots(&cluster, namespace, 1));
    let first = operator.only("active");

    freeze(&cluster, LAGGING);
    operator.done(&["prepare", "--reason", "yearly"]);
    let next = operator.only("prepared");
    let activate = ["activate", next.as_str()];
    let early = operator.order(&activate).expect_err("nothing was read back yet");
    assert!(early.contains(OBJECT), "{early}");
    for namespace in &PLACES[..2] {
        wait_for_roots(&cluster, namespace, 2);
    }
    // once everything else is out of the way, that one alone holds it, by its name
    let held = wait_until(GATE, "one obstacle", || match operator.order(&activate) {
        Ok(done) => panic!("{LAGGING} can't have the new root: {done}"),
        Err(held) if held.contains(&format!("failing: {LAGGING}")) && !held.contains("end at") => Ok(held),
        Err(held) => Err(held),
    });
    assert!(held.contains("2 of 3") && held.contains("--force"), "{held}");
    assert_eq!((operator.only("active"), wait_for_roots(&cluster, LAGGING, 1)), (first.clone(), old[2].clone()));

    block_on(async { config_map(&cluster, LAGGING).delete(OBJECT, &DeleteParams::default()).await }).unwrap();
    wait_for_roots(&cluster, LAGGING, 2);
    wait_until(GATE, "nothing in the way", || match operator.order(&["activate", &next, "--dry-run"])? {
        said if said.contains("would have to wait") => Err(said),
        said => Ok(said),
    });
    // the one who carries it out is killed while he does, or a moment before or after
    let moment =
        Duration::from_millis(u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_micros() % 60));
    let answered = thread::scope(|scope| {
        let ordered = scope.spawn(|| operator.order(&activate));
        thread::sleep(moment);
        replicas.kill_the_active();
        ordered.join().unwrap()
    });
    println!("killed {moment:?} after the command was begun, which said {answered:?}");
    wait_until(GATE, "activated", || match operator.only("active") {
        active if active == next => Ok(()),
        _ => Err(operator.order(&activate).unwrap_or_else(|error| error)),
    });

    operator.done(&["taint", &first, "--reason", "yearly"]);
    operator.done(&["revoke", &first]);
    assert_eq!((operator.ids("old").len(), operator.only("active")), (0, next));
    let new = PLACES.map(|namespace| wait_for_roots(&cluster, namespace, 1));
    assert!(new.iter().all(|roots| *roots == new[0]) && new[0] != old[0], "the new root alone, everywhere");
    println!("{:?}", begun.elapsed());
}

#[test]
fn a_replica_that_hears_of_nothing_is_waited_for_by_name_until_it_does() {
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    let replicas = Replicas::start(&cluster, &account, [&FLAGS, &FLAGS]);
    let active = replicas.active();
    let standby = &replicas.serves[1 - active].process;
    wait_until(GATE, "what the active publishes, at the standby", || match standby.errors() {
        log if log.contains("trust_known") => Ok(()),
        log => Err(log),
    });
    wait_for_roots(&cluster, NAMESPACE, 1);
    let operator = Operator(data_of(cluster.folder(), active));
    let name = format!("countersign-{}", 1 - active);
    let pod = block_on(async { Api::<Pod>::namespaced(cluster.admin(), NAMESPACE).get(&name).await }).unwrap();
    let named = format!("replica {}", pod.metadata.uid.unwrap());

    standby.pause();
    operator.done(&["prepare"]);
    let next = operator.only("prepared");
    let activate = ["activate", next.as_str()];
    // once everything else is out of the way, it holds it alone
    let held = wait_until(GATE, "one obstacle", || match operator.order(&activate) {
        Ok(done) => panic!("{named} has not heard of it: {done}"),
        Err(held) if held.contains(&named) && held.matches(" bundle ").count() == 1 && !held.contains("end at") => {
            Ok(held)
        }
        Err(held) => Err(held),
    });
    println!("{held}");
    let shown = operator.done(&["show"]);
    assert!(shown.contains(&named), "{shown}");
    standby.resume();
    operator.done(&activate);
    assert_eq!(operator.only("active"), next);
}

/// Also leaves what it shows for the test of the alert.
#[test]
fn an_imported_intermediate_at_its_end_is_followed_by_nothing_and_that_is_said() {
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    let replicas = Replicas::start(&cluster, &account, [&FLAGS, &FLAGS]);
    let refused = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("countersign_rotation_refused{authority=\"x509\"}"));
        line.map(ToOwned::to_owned).unwrap_or_default()
    };
    let page_with = |end: &str| {
        let metrics = || http::get(loopback(replicas.serves[replicas.active()].admin_port), "/metrics").unwrap();
        wait_until(GATE, end, || match metrics() {
            page if refused(&page).ends_with(end) => Ok(page),
            page => Err(refused(&page)),
        })
    };
    let before = page_with(" 0");

    // of which more than half is over
    let root = Authority::root("mesh");
    let intermediate = root.below_for("intermediate", Duration::from_secs(1800));
    let texts = [&intermediate.certificate, &intermediate.key, &intermediate.chain.concat(), &root.certificate];
    let names = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];
    let files: Vec<(&str, &[u8])> = names.into_iter().zip(texts.map(|text| text.as_bytes())).collect();
    block_on(async {
        cluster.namespace_named("istio-system", &[]).await;
        cluster.secret("istio-system", "cacerts", &files).await;
    });
    let mut import = countersign();
    import.args(["authority", "import", "--istio-secret", "istio-system/cacerts", "--trust-domain", TRUST_DOMAIN]);
    import.args(["--replace", "--state", "kubernetes", "--namespace", NAMESPACE, "--kubeconfig"]);
    let imported = import.arg(cluster.admin_kubeconfig()).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    leave_for_alerts("imported_at_its_end", &before, &page_with(" 1"));
    let operator = Operator(data_of(cluster.folder(), 0));
    assert_eq!((operator.ids("active").len(), operator.ids("prepared").len()), (1, 0));
}
