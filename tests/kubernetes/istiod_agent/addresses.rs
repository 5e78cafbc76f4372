//! An agent that knows the istiods of two revisions.

use std::time::Duration;

use super::gateway::{Pod, SERVER_NAME};
use crate::{
    cluster::{Cluster, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::MESH_ROOTS,
    },
    support::{
        authority::{Authority, Kind},
        http::free_port,
        wait::wait_until,
    },
};

const TTL: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_secs(10);
/// An address that has failed goes last for 30 s; the renewal after that finds it well.
const BACK: Duration = Duration::from_secs(45);

#[test]
fn a_revision_that_leaves_is_followed_by_the_next_one_and_goes_first_again_when_it_is_back() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let root = Authority::root("mesh");
    let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
    let start = |port: u16| Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default());
    let ports = [free_port(), free_port()];
    // the second revision is installed later
    let first = start(ports[0]);
    let addresses = ports.map(|port| format!("localhost:{port}"));
    let flags = [
        ["--root-config-map", MESH_ROOTS],
        ["--namespace", "default"],
        ["--ca-address", &addresses[0]],
        ["--ca-address", &addresses[1]],
        ["--ca-server-name", SERVER_NAME],
    ];
    let mut agent = pod.start_with(ports[0], TTL, &flags.concat());
    let mut serial = String::new();
    let mut rotate = || serial = agent.wait_for_another(&serial, SOON).leaf.serial().to_string();
    (0..2).for_each(|_| rotate());
    let second = start(ports[1]);
    (0..2).for_each(|_| rotate());
    assert_eq!(second.requests(), 0, "the first one is well");

    drop(first);
    (0..3).for_each(|_| rotate());
    assert!(second.requests() >= 3, "{}", second.requests());

    let first = start(ports[0]);
    wait_until(BACK, "a renewal at the first revision", || match first.requests() {
        0 => Err("none"),
        _ => Ok(()),
    });
    let at_second = second.requests();
    (0..2).for_each(|_| rotate());
    assert_eq!(second.requests(), at_second, "the first one is well again");
    assert_eq!(agent.said("svid_not_renewed"), 0, "{}", agent.process.errors());
    assert_eq!(agent.process.ended(), None);
}
