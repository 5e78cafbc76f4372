//! The mesh's root is replaced under load of a gateway that has its identity from a Secret. A pair keeps it, and passes nothing
//! else on: of the change it learns from the mesh's ConfigMap alone.

use std::{fs, time::Duration};

use super::{
    BACKEND, Mesh, WARM_UP,
    gateway::{Expected, Gateway},
    pair::Pair,
    roots::{RootSwap, serials},
    traffic::Traffic,
    wait_until_through,
};
use crate::{
    cluster::{Cluster, block_on},
    envoy_config::secrets_of_mounted,
    gateway_secret::{FLAG, NAMESPACE, delete, secret, set},
    istio::objects::{MESH_ROOTS, roots_of},
    network::in_own_network,
    pair::shipped,
    rotations::mounted::Mounted,
    support::{
        observe::{readiness, wait_for},
        svid_set::SvidSet,
        wait::wait_until,
    },
};

const ID: &str = "spiffe://cluster.local/ns/gateways/sa/gateway";
/// Of the sidecar, which knows new roots by its next renewal. What the Secret holds is istiod's to say: a day.
const TTL: Duration = Duration::from_secs(8);
/// From the ConfigMap to the Secret.
const SOON: Duration = Duration::from_secs(5);
/// From there to handshakes of the gateway.
const SEEN: Duration = Duration::from_secs(10);

#[test]
fn a_gateways_secret_follows_the_roots_of_istiod_within_seconds_and_no_replica_puts_older_ones_back() {
    let name = "mesh::secret::a_gateways_secret_follows_the_roots_of_istiod_within_seconds_and_no_replica_puts_older_ones_back";
    in_own_network(name, |network| {
        let swap = RootSwap::new();
        let mesh = Mesh::start(network, &swap.old, &swap.first, TTL);
        let cluster = &mesh.place.cluster;
        let mut pair = pair(&mesh);
        let mounted = Mounted::start(cluster, NAMESPACE);
        let gateway = gateway(&mesh, &mounted);
        wait_until_through(&gateway, WARM_UP);
        let traffic = Traffic::start(gateway.address);

        let deliver = || {
            let published = roots_of(cluster, "prod", MESH_ROOTS);
            let followed = wait_until(SOON, "the roots of the ConfigMap in the Secret", || match held(cluster)? {
                held if serials(&held.roots) == serials(&published) => Ok(held),
                held => Err(format!("{:?}, not {:?}", serials(&held.roots), serials(&published))),
            });
            wait_until_seen(&mesh, &followed);
        };
        let followed = |step: &str| {
            let before = held(cluster).unwrap();
            match step {
                "both roots" => {
                    let heir = pair.kill_the_active();
                    wait_for("the heir", ", renewed at ", || readiness(heir));
                    assert_eq!(held(cluster).unwrap(), before, "what was right has been written anew");
                }
                "signed below the new root" => {
                    assert!(!before.chain.contains(swap.second.certificate.trim()), "it was not due");
                    // as at half of its time: nothing of the old root is in use when that is dropped
                    delete(cluster);
                    let renewed = wait_until(SOON, "another one", || match held(cluster)? {
                        held if held == before => Err("the one of before".to_owned()),
                        held => Ok(held),
                    });
                    assert!(renewed.chain.contains(swap.second.certificate.trim()), "{}", renewed.chain);
                    assert_eq!(serials(&renewed.roots), serials(&before.roots));
                    wait_until_seen(&mesh, &renewed);
                }
                _ => {}
            }
            traffic.wait_for_more(100);
            println!("{step}: {} requests, none failed", traffic.check());
        };
        swap.run(&mesh, &[], deliver, followed);
        let issuers = gateway.log().distinct(BACKEND, "issuer");
        assert!(issuers.len() == 2, "the gateway saw certificates of {issuers:?}");
        println!("the Secret was read {} times, never torn", mounted.stop());
    });
}

/// Both replicas, with the rights that one Secret takes.
fn pair(mesh: &Mesh) -> Pair {
    let cluster = &mesh.place.cluster;
    block_on(async {
        cluster.namespace_named(NAMESPACE, &[]).await;
        cluster.account(NAMESPACE, "gateway").await;
        for rights in ["rbac-gateway-secret.yaml", "rbac-gateway-token.yaml"] {
            cluster.apply_file(&shipped(rights)).await;
        }
    });
    Pair::start_with(mesh, &FLAG)
}

fn gateway(mesh: &Mesh, mounted: &Mounted) -> Gateway {
    let folder = mesh.place.cluster.folder().join("secrets-of-gateway");
    fs::create_dir(&folder).unwrap();
    for (name, secret) in secrets_of_mounted(mounted.path()) {
        fs::write(folder.join(name), secret.to_string()).unwrap();
    }
    let service = mesh.backend.service();
    Gateway::of_files("envoy-of-secret", mesh.place.cluster.folder(), &folder, service, &Expected::Id(BACKEND))
}

fn held(cluster: &Cluster) -> Result<SvidSet, String> {
    set(&secret(cluster)?)
}

/// Whoever shows the certificate has the roots beside it too: both are mounted at once.
fn wait_until_seen(mesh: &Mesh, set: &SvidSet) {
    let bare = |serial: &str| serial.trim_matches('"').trim_start_matches('0').to_lowercase();
    wait_until(SEEN, "the certificate of the Secret at the sidecar", || {
        let seen = mesh.backend.log().distinct(ID, "serial");
        if seen.iter().any(|serial| bare(serial) == bare(&set.leaf.serial)) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}
