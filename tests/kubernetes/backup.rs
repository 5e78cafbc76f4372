//! The Secrets of a running pair are lost: the active saves what it has in memory, and the pair goes on with that, under the
//! same root, without a restart.

use std::{fs, path::Path, process::Output, time::Duration};

use countersign::{domain::x509::PrivateKey, service::ports::CertificateAuthority as _};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};

use crate::{
    cluster::block_on,
    network::in_own_network,
    pair::{NAMESPACE, Pair, TRUST_DOMAIN, load::client, replica::Replica},
    support::{countersign::countersign, wait::wait_until},
};

/// To be noticed by the active, and to step down and be active again.
const TAKEN_UP: Duration = Duration::from_secs(15);

#[test]
fn what_the_active_has_in_memory_is_saved_and_put_back_while_the_pair_runs() {
    let name = "backup::what_the_active_has_in_memory_is_saved_and_put_back_while_the_pair_runs";
    in_own_network(name, |network| {
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

        let saved = run(&pair, &["authority", "export", "--out", "saved"], Some(pair.replicas[active].data()));
        assert!(saved.status.success(), "{}", shown(&saved));
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
