//! An istiod that takes long for an answer, and a CA that is not the right one.

use std::{
    fs,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::gateway::Pod;
use crate::{
    cluster::{Cluster, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::MESH_ROOTS,
    },
    support::{authority::Authority, http::free_port, wait::wait_until},
};

const TTL: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(10);
/// istiod ends a connection on which it is asked for signs of life each 2 s after 8 s.
const OPEN: Duration = Duration::from_secs(10);
/// The agent tries each second at least.
const ATTEMPTS: u64 = 12;

#[test]
fn a_call_that_istiod_takes_long_for_is_one_call_and_its_connection_stays() {
    let mut cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let (port, root) = (free_port(), Authority::root("mesh"));
    let files = root.cacerts(&root.certificate);
    let istiod = Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default());
    let file = pod.folder.join("istio/root-cert.pem");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, &root.certificate).unwrap();

    // istiod asks it whose the token is; the agent goes by the file meanwhile
    cluster.pause();
    let agent = pod.start(port, TTL);
    wait_until(SOON, "the request at istiod", || match istiod.requests() {
        0 => Err(agent.readiness()),
        _ => Ok(()),
    });
    let asked = Instant::now();
    wait_until(OPEN * 2, "a call that has been open for long", || match asked.elapsed() {
        so_far if so_far >= OPEN => Ok(()),
        so_far => Err(format!("{so_far:?}")),
    });
    cluster.resume();
    agent.wait_for_another("", SOON);
    assert_eq!(agent.failures(), 0, "{}", agent.process.errors());
    assert_eq!(istiod.requests(), 1);
}

#[test]
fn a_ca_that_can_not_be_verified_costs_the_api_server_hardly_anything() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let object = ConfigMap {
        metadata: ObjectMeta { name: Some(MESH_ROOTS.to_owned()), ..ObjectMeta::default() },
        data: Some([("root-cert.pem".to_owned(), Authority::root("mesh").certificate)].into()),
        ..ConfigMap::default()
    };
    let config_maps =
        async { Api::namespaced(cluster.admin(), "default").create(&PostParams::default(), &object).await };
    block_on(config_maps).unwrap();
    // a TLS server by another root: the API server itself
    let port = cluster.url().rsplit(':').next().unwrap().parse().unwrap();
    let agent = pod.start(port, TTL);
    agent.wait_for_readiness("invalid peer certificate", SOON);
    wait_until(SOON * 3, "further attempts", || match agent.failures() {
        ATTEMPTS.. => Ok(()),
        failures => Err(format!("{failures}")),
    });
    let requests = cluster.requests();
    let own = requests.iter().filter(|request| request.user == "system:serviceaccount:default:gateway");
    let lists = own.filter(|request| request.verb == "list").count();
    println!("{lists} lists in {ATTEMPTS} attempts");
    assert!((1..=4).contains(&lists), "{lists} lists");
}
