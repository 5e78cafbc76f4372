//! What changes under those who have JWT-SVIDs of a pair before istiod: the key, who may have one, istiod's roots, and other trust
//! domains.

use std::{collections::BTreeSet, fs, time::Duration};

use countersign::domain::x509::Certificate;
use k8s_openapi::api::rbac::v1::Role;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tonic::Code;

use super::{
    jwt_svids::{AUDIENCE, RIGHTS, active, operate},
    stage::{Agent, Stage},
};
use crate::{
    cluster::block_on,
    istiod_agent::gateway::{ID, served},
    pair::NAMESPACE,
    support::{
        authority::Authority,
        http::{self, free_port, loopback},
        observe::{leave_for_alerts, readiness, wait_for},
        wait::wait_until,
        workload_api::x509_bundles,
    },
};

const START: Duration = Duration::from_secs(20);
/// For 15 s after a change of the active nobody knows who follows.
const GATE: Duration = Duration::from_secs(30);
/// By a watch, and a stream.
const TOLD: Duration = Duration::from_secs(20);

fn flags() -> Vec<String> {
    let pair = loopback(free_port()).to_string();
    let flags = [["--jwt-svids", "true"], ["--pair-listen", &pair], ["--pair-address", &pair]];
    flags.concat().into_iter().map(str::to_owned).collect()
}

/// Takes a step, or has something else done: what was said.
fn done(stage: &Stage, arguments: &[&str]) -> Result<String, String> {
    let output = operate(stage, 0, arguments);
    let said = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// The one key that stands so.
fn key(stage: &Stage, phase: &str) -> String {
    let shown = done(stage, &["authority", "jwt", "show"]).unwrap();
    let found = shown.lines().find(|line| line.split_whitespace().nth(1) == Some(phase));
    found.unwrap_or_else(|| panic!("{shown}")).split_whitespace().next().unwrap().to_owned()
}

/// The agent serves these roots of the mesh, in whatever order.
fn wait_for_roots(agent: &Agent, expected: &[&str]) {
    let of = |pem: &str| Certificate::all_from_pem(pem.as_bytes()).unwrap();
    let fingerprints = |all: &[Certificate]| all.iter().map(Certificate::fingerprint).collect::<BTreeSet<_>>();
    let expected = fingerprints(&of(&expected.concat()));
    wait_until(TOLD, "istiod's roots at the agent", || match served(&agent.socket) {
        Ok(served) if fingerprints(&served.bundle) == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// With another trust domain, by hand: nobody answers there, and its root ends in ten minutes, of seventy. Also leaves what is shown for the test of the alert.
fn federate(stage: &Stage, agent: &Agent) {
    let page = || http::get(loopback(stage.replicas[active(stage)].admin_port), "/metrics").unwrap();
    let without = page();
    let partner = Authority::root_for("partner", Duration::from_secs(600));
    let file = stage.cluster.folder().join("partner.pem");
    fs::write(&file, &partner.certificate).unwrap();
    let by_hand = ["--url", "https://localhost:1/", "--bundle", file.to_str().unwrap(), "--reason", "test"];
    done(stage, &[&["federation", "create", "two.example"], by_hand.as_slice()].concat()).unwrap();
    wait_until(TOLD, "the other trust domain at the agent", || match x509_bundles(&agent.socket) {
        Ok(bundles) if bundles.contains_key("spiffe://two.example") => Ok(()),
        other => Err(format!("{:?}", other.map(|bundles| bundles.into_keys().collect::<Vec<_>>()))),
    });
    leave_for_alerts("other_domain_of_istiod_at_its_end", &without, &page());
}

#[test]
fn a_key_is_rotated_an_identity_denied_a_bundle_federated_and_istiods_roots_followed_also_with_nobody_active() {
    let mut stage = Stage::before_istiod(&RIGHTS, flags);
    stage.start_istiod();
    stage.wait_until_ready();
    active(&stage);
    let addresses = stage.replicas.each_ref().map(|replica| loopback(replica.port).to_string());
    let agent = stage.agent(&addresses, &[]);
    let first = wait_until(START, "a token", || agent.fetch(AUDIENCE));
    wait_until(START, "the pair's key", || agent.validate(&first));

    // the key
    let old = key(&stage, "active");
    done(&stage, &["authority", "jwt", "prepare"]).unwrap();
    let next = key(&stage, "prepared");
    wait_until(GATE, "activate", || done(&stage, &["authority", "jwt", "activate", &next]));
    done(&stage, &["authority", "jwt", "taint", &old]).unwrap();
    let second = wait_until(TOLD, "a token by the next key", || match agent.fetch(AUDIENCE) {
        Ok(token) if token.svid != first.svid => Ok(token),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(agent.validate(&first).unwrap().spiffe_id, ID, "until it is revoked");
    let waits = done(&stage, &["authority", "jwt", "revoke", &old]).unwrap_err();
    assert!(waits.contains("end at"), "tokens of five minutes are out: {waits}");
    done(&stage, &["authority", "jwt", "revoke", &old, "--force"]).unwrap();
    wait_until(TOLD, "a token by a key that is revoked is refused", || match agent.validate(&first) {
        Err(refused) if refused.code() == Code::InvalidArgument => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(agent.validate(&second).unwrap().spiffe_id, ID);

    // who may have one: what the agent has kept is not served either
    done(&stage, &["issuance", "deny", "--id", ID, "--reason", "test"]).unwrap();
    let denied = agent.fetch("https://other.example").unwrap_err();
    assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "no identity issued"));
    assert_eq!(agent.fetch(AUDIENCE).unwrap_err().code(), Code::PermissionDenied);
    assert!(served(&agent.socket).is_ok(), "certificates are istiod's to deny");
    done(&stage, &["issuance", "allow", "--id", ID, "--reason", "test"]).unwrap();
    wait_until(TOLD, "a token again", || agent.fetch(AUDIENCE));

    federate(&stage, &agent);

    // istiod's roots
    let [next_root, last_root] = ["next", "last"].map(|name| Authority::root(name).certificate);
    let before = stage.roots.clone();
    stage.istiod = None;
    stage.publish_roots(&[before.as_str(), &next_root].concat());
    wait_for_roots(&agent, &[&before, &next_root]);
    let rights = json!({"rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["istio-ca-root-cert"], "verbs": ["get", "list", "watch"]}
    ]});
    block_on(async {
        let roles = Api::<Role>::namespaced(stage.cluster.admin(), NAMESPACE);
        roles.patch("countersign-istiod", &PatchParams::default(), &Patch::Merge(&rights)).await
    })
    .unwrap();
    for replica in &stage.replicas {
        wait_for("nobody active", "none are signed now, for no replica is active", || readiness(replica));
    }
    stage.publish_roots(&[next_root.as_str(), &last_root].concat());
    // nobody is there who could say that one is gone
    wait_for_roots(&agent, &[&before, &next_root, &last_root]);
}
