//! Somebody edits, deletes and restores the pair's objects by hand, one after the other. Each time all goes on by itself or the
//! way back is named, and never is there a second root.

use std::{fs, path::PathBuf, time::Duration};

use countersign::{domain::x509::PrivateKey, service::ports::CertificateAuthority as _};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, block_on},
    network::in_own_network,
    pair::{
        NAMESPACE, Pair, TAKE_OVER, TRUST_DOMAIN,
        load::client,
        replica::{Replica, stop_all},
    },
    support::{countersign::countersign, issuance::Issued, wait::wait_until},
};

const AUTHORITY: &str = "countersign-authority";
const TRUST: &str = "countersign-trust";
const RECOVERY: &str = "countersign recover --state kubernetes";
/// A lease to find out by, another to wait out, and some renewals.
const ACTIVE_AGAIN: Duration = Duration::from_secs(15);
const NOTICED: Duration = Duration::from_secs(12);
/// Longer than a take-over, so that one that must not be would be seen.
const TRIED: Duration = Duration::from_secs(15);

struct Place {
    pair: Pair,
    token: PathBuf,
    roots: PathBuf,
}

#[test]
fn no_hand_in_the_lease_or_the_secrets_leads_to_a_second_root() {
    let name = "hands::no_hand_in_the_lease_or_the_secrets_leads_to_a_second_root";
    in_own_network(name, |network| {
        let pair = Pair::start(network);
        let (token, roots) = (pair.caller("caller"), pair.root_file());
        let mut place = Place { pair, token, roots };
        place.sign();

        place.expect_a_later_term("the Lease deleted", |cluster| {
            block_on(async { leases(cluster).delete("countersign", &DeleteParams::default()).await }).unwrap();
        });
        place.expect_a_later_term("another holder", |cluster| {
            edit_lease(cluster, json!({ "spec": { "holderIdentity": "somebody-else" } }));
        });
        let term = place.pair.active().1;
        let later = place.expect_a_later_term("a term of the future", |cluster| {
            let far = (term + 1000).to_string();
            edit_lease(cluster, json!({ "metadata": { "annotations": { "countersign.io/term": far } } }));
        });
        assert!(later > term + 1000, "term {later} after {}", term + 1000);

        place.expect_recovery_to_be_named("the authority deleted", AUTHORITY, |cluster| {
            block_on(async { secrets(cluster).delete(AUTHORITY, &DeleteParams::default()).await }).unwrap();
        });
        place.expect_recovery_to_be_named("the trust bundle deleted", TRUST, |cluster| {
            block_on(async { secrets(cluster).delete(TRUST, &DeleteParams::default()).await }).unwrap();
        });
        let older = place.saved();
        place.deny_somebody();
        place.expect_recovery_to_be_named("the trust bundle of before", TRUST, |cluster| restore(cluster, &older[1]));

        stop_all(&mut place.pair.replicas);
        let terms = Issued::list_all(&place.pair.replicas.each_ref().map(Replica::data)).check_terms().len();
        assert!(terms > 6, "signed in {terms} terms only");
    });
}

impl Place {
    /// A certificate by way of each replica that runs, under the root of the beginning.
    fn sign(&self) {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/caller").parse().unwrap();
        let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
        for address in self.pair.addresses() {
            let signed = block_on(client(&[address], &self.token, &self.roots).sign(&csr, 600)).unwrap();
            assert_eq!(signed.roots_pem, fs::read_to_string(&self.roots).unwrap(), "another root");
        }
    }

    /// After `hand` one of the two is active again by itself, in a later term, and so is the other one after that one's death: its
    /// term.
    fn expect_a_later_term(&mut self, what: &str, hand: impl FnOnce(&Cluster)) -> u64 {
        let (_, before) = self.pair.active();
        hand(&self.pair.cluster);
        let later = wait_until(ACTIVE_AGAIN, &format!("{what}: one active in a later term"), || {
            let roles = self.pair.replicas.each_ref().map(Replica::role);
            let later = roles.iter().filter_map(|role| role.clone().ok()?).find(|term| *term > before);
            later.ok_or_else(|| format!("{roles:?}, was {before}"))
        });
        self.sign();
        self.pair.replicas.iter().for_each(Replica::wait_until_ready);
        let heir = self.kill_the_active();
        println!("{what}: term {before}, then {later}, and {heir} of another replica");
        heir
    }

    /// The other one takes over, under the same root: its term.
    fn kill_the_active(&mut self) -> u64 {
        let (active, term) = self.pair.active();
        self.pair.replicas[active].process.kill();
        let heir = self.pair.replicas[1 - active].wait_until_active(TAKE_OVER * 2);
        assert!(heir > term, "term {heir} after {term}");
        self.pair.replicas[active].restart();
        self.pair.replicas[active].wait_until_ready();
        self.sign();
        heir
    }

    /// After `hand` in the Secret of this name the active says so and goes on; when it is killed nobody takes over, and the way
    /// back is named. Once that Secret is put back as it was, one is active again, without a restart.
    fn expect_recovery_to_be_named(&mut self, what: &str, touched: &str, hand: impl FnOnce(&Cluster)) {
        self.pair.replicas.iter().for_each(Replica::wait_until_ready);
        let (active, term) = self.pair.active();
        let saved = self.saved();
        hand(&self.pair.cluster);
        wait_until(NOTICED, &format!("{what}: the active says so"), || {
            let log = self.pair.replicas[active].process.errors();
            let said = log.lines().rev().find(|line| line.contains("state_altered") && line.contains(RECOVERY));
            said.map(drop).ok_or("nothing in its log")
        });
        self.sign();
        self.pair.replicas[active].process.kill();
        let standby = &self.pair.replicas[1 - active];
        wait_until(TRIED, &format!("{what}: the standby names the way back"), || {
            assert!(!matches!(standby.role(), Ok(Some(_))), "{what}: it became active");
            let log = standby.process.errors();
            let said = log.lines().any(|line| line.contains(RECOVERY));
            if said { Ok(()) } else { Err(format!("readiness: {:?}", standby.role())) }
        });
        for (name, before) in [AUTHORITY, TRUST].into_iter().zip(&saved) {
            let found = block_on(async { secrets(&self.pair.cluster).get_opt(name).await }).unwrap();
            let content = |secret: &Secret| secret.data.clone().and_then(|mut data| data.remove("state"));
            if let Some(found) = found.filter(|_| name == AUTHORITY) {
                assert_eq!(content(&found), content(before), "{what}: another authority");
            }
        }
        // The other one may be of a later claim by now, and at once after this.
        let before = saved.iter().find(|secret| secret.metadata.name.as_deref() == Some(touched)).unwrap();
        restore(&self.pair.cluster, before);
        let later = standby.wait_until_active(ACTIVE_AGAIN);
        assert!(later > term, "term {later} after {term}");
        self.pair.replicas[active].restart();
        self.pair.replicas[active].wait_until_ready();
        self.sign();
        let heir = self.kill_the_active();
        println!("{what}: said, not taken over, active again in term {later} once restored, and then in {heir}");
    }

    /// Both Secrets as they are now: authority, trust.
    fn saved(&self) -> [Secret; 2] {
        [AUTHORITY, TRUST].map(|name| block_on(async { secrets(&self.pair.cluster).get(name).await }).unwrap())
    }

    /// A change of the state that an older copy knows nothing of.
    fn deny_somebody(&self) {
        let (active, _) = self.pair.active();
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/denied");
        let mut command = countersign();
        command.args(["issuance", "deny", "--id", &id, "--reason", "a test", "--data-dir"]);
        let done = command.arg(self.pair.replicas[active].data()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.admin(), NAMESPACE)
}

fn secrets(cluster: &Cluster) -> Api<Secret> {
    Api::namespaced(cluster.admin(), NAMESPACE)
}

fn edit_lease(cluster: &Cluster, patch: Value) {
    block_on(async {
        leases(cluster).patch("countersign", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    });
}

/// Puts a Secret back as it was, as from a backup.
fn restore(cluster: &Cluster, saved: &Secret) {
    let mut secret = saved.clone();
    (secret.metadata.resource_version, secret.metadata.uid) = (None, None);
    let name = secret.metadata.name.clone().unwrap();
    block_on(async {
        let secrets = secrets(cluster);
        if secrets.get_opt(&name).await.unwrap().is_some() {
            secrets.delete(&name, &DeleteParams::default()).await.unwrap();
        }
        secrets.create(&PostParams::default(), &secret).await.unwrap();
    });
}
