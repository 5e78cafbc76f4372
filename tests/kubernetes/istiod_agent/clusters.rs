//! Of which cluster a token is, as istiod is told: it asks that one's API server whose it is.

use std::{fs, time::Duration};

use super::gateway::{ID, Pod};
use crate::{
    cluster::{Cluster, block_on},
    istio::istiod::{self, Ca, Istiod},
    support::{authority::Authority, http::free_port},
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn istiod_is_told_of_which_cluster_the_token_is_by_a_proxys_variable_or_by_the_flag_that_goes_before_it() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let (port, root) = (free_port(), Authority::root("mesh"));
    let files = root.cacerts(&root.certificate);
    let _istiod = Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default());

    let elsewhere = pod.start_in("elsewhere", port, &[]);
    elsewhere.wait_for_readiness("the certificate authority refused the proof of identity", SOON);
    assert!(elsewhere.served().is_err());
    drop(elsewhere);
    fs::remove_file(pod.folder.join("agent.sock")).expect("the socket of the one that was killed");

    let here = pod.start_in("elsewhere", port, &["--cluster-id", "Kubernetes"]);
    assert_eq!(here.wait_for_another("", SOON).leaf.uri_names(), [ID]);
}
