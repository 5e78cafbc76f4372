//! The Secrets of a running pair are lost: the active saves what it has in memory, also if its term has ended meanwhile, and the
//! pair goes on with that, under the same root, without a restart.

use std::{fs, path::Path, process::Output, time::Duration};

use countersign::{domain::x509::PrivateKey, service::ports::CertificateAuthority as _};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::block_on,
    network::{Network, in_own_network},
    pair::{NAMESPACE, Pair, TRUST_DOMAIN, load::client, replica::Replica},
    support::{countersign::countersign, wait::wait_until},
};

/// To be noticed by the active, and to step down and be active again.
const TAKEN_UP: Duration = Duration::from_secs(15);

#[test]
fn what_the_active_has_in_memory_is_saved_and_put_back_while_the_pair_runs() {
    let name = "backup::what_the_active_has_in_memory_is_saved_and_put_back_while_the_pair_runs";
    in_own_network(name, |network| lost_and_put_back(network, false));
}

#[test]
fn what_a_replica_held_when_its_term_ended_is_saved_and_put_back() {
    let name = "backup::what_a_replica_held_when_its_term_ended_is_saved_and_put_back";
    in_own_network(name, |network| lost_and_put_back(network, true));
}

fn lost_and_put_back(network: Network, term_ends: bool) {
    let pair = Pair::start(network);
    let (token, roots) = (pair.caller("caller"), pair.root_file());
    let sign = || {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/caller").parse().unwrap();
        let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
        for address in pair.addresses() {
            let signed = block_on(client(&[address], &token, &roots).sign(&csr, 600)).unwrap();
            assert_eq!(signed.roots_pem, fs::read_to_string(&roots).unwrap(), "another root");
        }
    };
    sign();
    let (active, term) = pair.active();
    block_on(async {
        let secrets = Api::<Secret>::namespaced(pair.cluster.admin(), NAMESPACE);
        for name in ["countersign-authority", "countersign-trust"] {
            secrets.delete(name, &DeleteParams::default()).await.unwrap();
        }
    });
    let folder = pair.cluster.folder();
    fs::write(folder.join("passphrase"), "correct horse\n").unwrap();
    let lost = run(&pair, &["authority", "export", "--out", "lost"], None);
    assert!(!lost.status.success() && shown(&lost).contains("countersign-authority is gone"), "{}", shown(&lost));

    let standby = run(&pair, &["authority", "export", "--out", "lost"], Some(pair.replicas[1 - active].data()));
    let named = shown(&standby);
    assert!(!standby.status.success() && named.contains("countersign-authority is gone"), "{named}");
    assert!(named.contains(" is: run `countersign authority export` there"), "{named}");
    if term_ends {
        end_term(&pair, active);
    }
    let saved = run(&pair, &["authority", "export", "--out", "saved"], Some(pair.replicas[active].data()));
    assert!(saved.status.success(), "{}", shown(&saved));
    let of_ended_term = shown(&saved).contains(&format!("held in memory when its term {term} ended, version "));
    assert_eq!(of_ended_term, term_ends, "{}", shown(&saved));
    let back = run(&pair, &["authority", "import", "saved"], None);
    assert!(back.status.success(), "{}", shown(&back));

    let later = wait_until(TAKEN_UP, "one active in a later term", || {
        let roles = pair.replicas.each_ref().map(Replica::role);
        let later = roles.iter().filter_map(|role| role.clone().ok()?).find(|now| *now > term);
        later.ok_or_else(|| format!("{roles:?}, was {term}"))
    });
    sign();
    println!("term {term}, then {later} from what was saved");
    let audit = pair.replicas[active].process.errors();
    assert!(audit.lines().any(|line| line.contains("authority export") && line.contains("audit")), "no audit line");
}

/// Takes the Lease away from the active, which finds the Secrets gone when it wants to have it again.
fn end_term(pair: &Pair, active: usize) {
    block_on(async {
        let leases = Api::<Lease>::namespaced(pair.cluster.admin(), NAMESPACE);
        let patch = json!({ "spec": { "holderIdentity": "somebody-else" } });
        leases.patch("countersign", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    });
    wait_until(TAKEN_UP, "the end of the term", || {
        let log = pair.replicas[active].process.errors();
        if log.contains("term_ended") { Ok(()) } else { Err("the active goes on") }
    });
    wait_until(TAKEN_UP, "a claim that fails", || {
        let logs = pair.replicas.each_ref().map(|replica| replica.process.errors());
        if logs.iter().any(|log| log.contains("claim_failed")) { Ok(()) } else { Err("nobody has claimed") }
    });
}

fn run(pair: &Pair, command: &[&str], data: Option<&Path>) -> Output {
    let mut run = countersign();
    run.args(command).args(["--state", "kubernetes", "--namespace", NAMESPACE, "--passphrase-file", "passphrase"]);
    run.arg("--kubeconfig").arg(pair.cluster.admin_kubeconfig()).current_dir(pair.cluster.folder());
    if let Some(data) = data {
        run.arg("--data-dir").arg(data);
    }
    run.output().unwrap()
}

fn shown(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
