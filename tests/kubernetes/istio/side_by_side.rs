//! The pair as an intermediate of the mesh's root, beside an istiod that is one as well.

use std::{fs, path::Path, time::Duration};

use super::{
    istiod::{self, Ca, Istiod},
    objects::{MESH_ROOTS, check_nothing_of_istio_was_asked_for, check_nothing_was_refused, istios_own, roots_of},
    pilot_agent::PilotAgent,
    replicas::Replicas,
};
use crate::{
    cluster::{Cluster, block_on},
    pair::{NAMESPACE, install, token_file},
    support::{
        authority::{Authority, CaDir, Kind},
        openssl,
        peer::peer,
        process::Process,
        sidecar::Wanted,
        wait::wait_until,
    },
};

const OWN_ROOTS: &str = "countersign-root-cert";
const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(3600);

#[test]
fn certificates_of_either_pass_with_the_others_roots_and_istiods_objects_are_left_alone() {
    let cluster = Cluster::start();
    let istiod_account = block_on(istiod::prepare(&cluster));
    let root = Authority::root("mesh");
    let (istiods, ours) = (root.below("istiod", Kind::P256), root.below("countersign", Kind::P384));
    let istiod =
        Istiod::start(&cluster, &istiod_account, Ca::Own(&istiods.cacerts(&root.certificate)), &Default::default());
    let label = ("countersign.io/root-cert", "true");
    block_on(cluster.namespace_named("apps", &[label]));
    let account = block_on(install(&cluster));
    let namespaces = ["apps", "default", "kube-system", istiod::NAMESPACE, NAMESPACE];
    let mesh_roots = namespaces.map(|namespace| roots_of(&cluster, namespace, MESH_ROOTS));
    let before = istios_own(&cluster);
    assert!(before.len() >= namespaces.len(), "{before:#?}");

    let cas = [(); 2].map(|()| CaDir::mounted(&ours.cacerts(&root.certificate)));
    let mut replicas =
        Replicas::start(&cluster, &account, cas.each_ref().map(CaDir::flags).each_ref().map(<[&str; 2]>::as_slice));
    let own_roots = roots_of(&cluster, "apps", OWN_ROOTS);
    assert_eq!(roots_of(&cluster, NAMESPACE, OWN_ROOTS), own_roots);
    assert_eq!(mesh_roots, [(); 5].map(|()| own_roots.clone()));

    let address = istiod.address();
    let app = block_on(cluster.account("apps", "app"));
    let wanted = Wanted { ca: &address, istiod: &address, roots: &own_roots, ttl: TTL };
    let agent = PilotAgent::start("app-0", &cluster, &app, &wanted);
    istiod.wait_for_proxies(1);
    let theirs = agent.secrets().unwrap();
    assert!(theirs.chain.contains(&istiods.certificate) && !theirs.chain.contains(&ours.certificate));
    let (leaf, above) = openssl::split_leaf(&theirs.chain);
    openssl::verify(leaf, above, &own_roots);

    let caller =
        Caller { token: block_on(token_file(&cluster, "citadel")), roots: &mesh_roots[0], folder: cluster.folder() };
    for replica in &replicas.serves {
        assert_eq!(caller.intermediate(&replica.address()), ours.certificate);
    }
    // the same client, and the roots that the pair publishes, at istiod
    let at_istiod = Caller { roots: &own_roots, ..caller.clone() };
    assert_eq!(at_istiod.intermediate(&address), istiods.certificate);

    // both with the same intermediate
    cas.iter().for_each(|ca| ca.swap(&istiods.cacerts(&root.certificate)));
    for replica in &replicas.serves {
        wait_until(SOON, "certificates by istiod's intermediate", || match caller.intermediate(&replica.address()) {
            found if found == istiods.certificate => Ok(()),
            found => Err(found),
        });
    }
    let active = replicas.active();
    replicas.kill_the_active();
    assert_eq!(caller.intermediate(&replicas.serves[1 - active].address()), istiods.certificate);
    block_on(cluster.namespace_named("later", &[label]));
    assert_eq!(roots_of(&cluster, "later", OWN_ROOTS), own_roots);

    let after = istios_own(&cluster).into_iter().filter(|object| !object.contains("\"namespace\":\"later\""));
    assert_eq!(after.collect::<Vec<_>>(), before);
    check_nothing_was_refused(&cluster);
    check_nothing_of_istio_was_asked_for(&cluster);
}

/// pilot-agent's CA client.
#[derive(Clone)]
struct Caller<'a> {
    token: std::path::PathBuf,
    /// What the server is verified to, and what it gets as well.
    roots: &'a str,
    folder: &'a Path,
}

impl Caller<'_> {
    /// Gets a certificate of `address`, which Go's verifier and OpenSSL accept: the certificate above it.
    fn intermediate(&self, address: &str) -> String {
        let out = tempfile::tempdir_in(self.folder).unwrap();
        let roots = out.path().join("trusted.pem");
        fs::write(&roots, self.roots).unwrap();
        let mut command = peer("citadel-client");
        // as pilot-agent does it, and with it its name for the server
        command.args(["--address", address, "--spiffe-id", "spiffe://cluster.local/ns/default/sa/citadel"]);
        command.arg("--token-file").arg(&self.token).arg("--root-file").arg(roots).arg("--out").arg(out.path());
        Process::start("citadel", out.path(), &mut command).wait_for_success(LIMIT);
        let [leaf, above] =
            ["leaf.pem", "intermediates.pem"].map(|name| fs::read_to_string(out.path().join(name)).unwrap());
        openssl::verify(&leaf, &above, self.roots);
        openssl::split_leaf(&above).0.to_owned()
    }
}
