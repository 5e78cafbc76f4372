//! The agent is there before the API server, the ConfigMap, Istio's kinds of objects and istiod.

use std::time::{Duration, Instant};

use countersign::{domain::clock::Clock as _, runtime::seams::SystemClock};

use super::gateway::{ID, Pod, check_requests};
use crate::{
    cluster::{Cluster, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::{MESH_ROOTS, roots_of},
    },
    support::{
        authority::{Authority, Kind},
        certificate::Certificate,
        http::free_port,
        openssl,
        wait::wait_until,
    },
};

/// From the moment at which istiod says that it is ready.
const CONVERGED: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_agent_that_was_there_first_waits_and_has_an_identity_seconds_after_istiod() {
    let mut cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    cluster.kill();
    let istiod_port = free_port();
    let mut agent = pod.start(istiod_port, Duration::from_secs(3600));
    agent.wait_for_readiness("IstioNotDetected: ", SOON);
    assert!(agent.served().is_err());

    cluster.restart();
    cluster.wait_until_ready();
    let api_server_ready = SystemClock.now().to_string();
    agent.wait_for_readiness("ConfigMap default/istio-ca-root-cert: not found", SOON);
    let account = block_on(istiod::prepare(&cluster));
    let root = Authority::root("mesh");
    let ca = root.below("istiod", Kind::P256);
    let files = ca.cacerts(&root.certificate);
    let _istiod = Istiod::start_on(istiod_port, &cluster, &account, Ca::Own(&files), &Default::default());
    let ready = Instant::now();
    let served =
        wait_until(CONVERGED, "an SVID", || agent.served().map_err(|why| format!("{why}; {}", agent.readiness())));
    println!("an identity {:?} after istiod was ready", ready.elapsed());

    assert_eq!(served.leaf.uri_names(), [ID]);
    let roots = roots_of(&cluster, "default", MESH_ROOTS);
    let bundle: String = served.bundle.iter().map(|root| root.to_pem()).collect();
    assert_eq!(Certificate::from_pem(&bundle), Certificate::from_pem(&roots));
    openssl::verify(&served.leaf.to_pem(), &ca.certificate, &roots);
    agent.wait_for_readiness(&format!("identity: ready ({ID} until"), SOON);
    assert_eq!(agent.process.ended(), None);
    let log = agent.process.errors();
    assert_eq!(agent.said("istio_not_detected"), 1, "said once, however long it took: {log}");
    check_requests(&cluster, "configmaps", &api_server_ready);
}
