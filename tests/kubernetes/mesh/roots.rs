//! The mesh's root is replaced under load.

use std::time::Duration;

use super::{GATEWAY, Mesh, WARM_UP, gateway::Gateway, traffic::Traffic, wait_until_through};
use crate::{
    istio::{
        objects::{MESH_ROOTS, roots_of},
        pilot_agent::Secrets,
    },
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        certificate::Certificate,
        wait::wait_until,
    },
};

/// Each side knows new roots by its next renewal, at half of it.
const TTL: Duration = Duration::from_secs(8);
const STEP: Duration = Duration::from_secs(30);

#[test]
fn another_root_of_istiod_fails_no_request() {
    in_own_network("mesh::roots::another_root_of_istiod_fails_no_request", |network| {
        let swap = RootSwap::new();
        let mesh = Mesh::start(network, &swap.old, &swap.first, TTL);
        let agent = mesh.agent("gateway", TTL);
        let gateway = mesh.place.gateway("envoy", &agent.socket, mesh.backend.service());
        wait_until_through(&gateway, WARM_UP);
        let traffic = Traffic::start(gateway.address);
        swap.run(
            &mesh,
            &[&gateway],
            || (),
            |step| {
                traffic.wait_for_more(100);
                println!("{step}: {} requests, none failed", traffic.check());
            },
        );
        let issuers = mesh.backend.log().distinct(GATEWAY, "issuer");
        assert!(issuers.len() == 2, "the sidecar saw certificates of {issuers:?}");
    });
}

/// From one root to another by way of both, as istiod's documents say.
pub(crate) struct RootSwap {
    pub(crate) old: Authority,
    pub(crate) first: Authority,
    new: Authority,
    second: Authority,
}

impl RootSwap {
    pub(crate) fn new() -> Self {
        let (old, new) = (Authority::root("old"), Authority::root("new"));
        let (first, second) = (old.below("istiod of old", Kind::P256), new.below("istiod of new", Kind::P256));
        Self { old, first, new, second }
    }

    /// Takes each step when both sides have followed the one before. `deliver` mounts what the ConfigMaps hold into gateways.
    pub(crate) fn run(&self, mesh: &Mesh, gateways: &[&Gateway], deliver: impl Fn(), mut followed: impl FnMut(&str)) {
        let (old, new) = (&self.old.certificate, &self.new.certificate);
        let both = old.clone() + new;
        for (step, signer, roots) in [
            ("both roots", &self.first, both.as_str()),
            ("signed below the new root", &self.second, &both),
            ("the new root alone", &self.second, new),
        ] {
            mesh.control_plane.plug_in(&signer.cacerts(roots));
            let published = wait_until(STEP, &format!("{step}: in the ConfigMap"), || {
                let found = roots_of(&mesh.place.cluster, "prod", MESH_ROOTS);
                if serials(&found) == serials(roots) { Ok(found) } else { Err(found) }
            });
            deliver();
            mesh.backend.deliver_roots(&published);
            wait_until(STEP, &format!("{step}: at the sidecar"), || has(mesh.backend.secrets(), signer, roots));
            for gateway in gateways {
                wait_until(STEP, &format!("{step}: at the gateway"), || has(gateway.secrets(), signer, roots));
            }
            followed(step);
        }
    }
}

/// Whether an Envoy has a certificate signed by `signer`, and just these roots.
fn has(secrets: Result<Secrets, String>, signer: &Authority, roots: &str) -> Result<(), String> {
    let Secrets { chain, roots: found } = secrets?;
    let signed = chain.contains(signer.certificate.trim());
    if signed && serials(&found) == serials(roots) {
        Ok(())
    } else {
        Err(format!("signed by it: {signed}; roots {:?}", serials(&found)))
    }
}

fn serials(roots: &str) -> Vec<String> {
    let mut serials: Vec<String> = Certificate::from_pem(roots).into_iter().map(|root| root.serial).collect();
    serials.sort();
    serials
}
