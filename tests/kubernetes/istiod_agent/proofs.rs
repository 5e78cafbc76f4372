//! Token and certificate, each when the other is good for nothing.

use std::{fs, time::Duration};

use serde_json::json;

use super::gateway::Pod;
use crate::{
    cluster::{Cluster, block_on},
    istio::istiod::{self, Ca, Istiod},
    support::{authority::Authority, http::free_port, wait::wait_until},
    tokens::forged::Forger,
};

const TTL: Duration = Duration::from_secs(16);
/// A renewal is due at half of it, and may have just begun.
const ROTATED: Duration = Duration::from_secs(14);
/// After something was put right.
const RECOVERED: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_old_token_is_made_up_for_by_the_certificate_and_the_other_way_round() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let port = free_port();
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let start = |root: &Authority| {
        let files = root.cacerts(&root.certificate);
        Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default())
    };
    let istiod = start(&old);
    let mut agent = pod.start(port, TTL);
    let first = agent.wait_for_another("", SOON);

    // frozen, and expired
    let fresh = block_on(pod.token(&cluster));
    let expired = Forger::with_the_clusters_key(cluster.folder()).changed(&fresh, &json!({ "exp": 1_700_000_000 }));
    fs::write(&pod.token_file, &expired).unwrap();
    let mut serial = first.leaf.serial().to_string();
    for _ in 0..2 {
        serial = agent.wait_for_another(&serial, ROTATED).leaf.serial().to_string();
    }
    assert_eq!(agent.said("svid_not_renewed"), 0, "{}", agent.process.errors());

    // a root that does not know the certificate; what is held stays until it expires
    drop(istiod);
    let istiod = start(&new);
    agent.wait_for_readiness("; ", ROTATED);
    wait_until(TTL + SOON, "the end of the last SVID", || match agent.served() {
        Ok(served) => Err(format!("until {}", served.leaf.not_after())),
        Err(why) if why.contains("Unavailable") => Ok(()),
        Err(why) => Err(why),
    });
    agent.wait_for_readiness("the certificate authority refused the proof of identity", SOON);

    // both are good for nothing now; a fresh token is all it takes
    fs::write(&pod.token_file, block_on(pod.token(&cluster))).unwrap();
    let recovered = agent.wait_for_another(&serial, RECOVERED);
    let bundle: Vec<String> = recovered.bundle.iter().map(|root| root.to_pem()).collect();
    assert_eq!(bundle.concat().trim(), new.certificate.trim());

    // and while a token is there, a certificate that is not accepted any more is no hindrance
    drop(istiod);
    let _istiod = start(&old);
    let back = agent.wait_for_another(&recovered.leaf.serial().to_string(), ROTATED);
    let bundle: Vec<String> = back.bundle.iter().map(|root| root.to_pem()).collect();
    assert_eq!(bundle.concat().trim(), old.certificate.trim());
    assert_eq!(agent.process.ended(), None);
}
