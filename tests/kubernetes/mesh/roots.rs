//! The mesh's root is replaced under load.

use std::time::Duration;

use super::{
    BACKEND, GATEWAY, Mesh, Roots, WARM_UP, gateway::Gateway, pair::Pair, traffic::Traffic, wait_until_through,
};
use crate::{
    envoy::Secrets,
    istio::objects::{MESH_ROOTS, roots_of},
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
fn another_root_of_istiod_fails_no_request_with_agents_at_it_or_at_a_pair_before_it() {
    let name = "mesh::roots::another_root_of_istiod_fails_no_request_with_agents_at_it_or_at_a_pair_before_it";
    in_own_network(name, |network| {
        let swap = RootSwap::new();
        let mesh = Mesh::start(network, &swap.old, &swap.first, TTL);
        let pair = Pair::start(&mesh);
        let by_pair = mesh.place.agent_at("gateway-by-pair", TTL, pair.agent_flags(), Roots::Watched);
        let agents = [("agent, istiod", mesh.agent("gateway", TTL)), ("agent, pair, istiod", by_pair)];
        let gateways = agents.each_ref().map(|(_, agent)| {
            let name = format!("envoy-of-{}", agent.socket.file_stem().unwrap().display());
            mesh.place.gateway(&name, &agent.socket, mesh.backend.service())
        });
        gateways.iter().for_each(|gateway| wait_until_through(gateway, WARM_UP));
        let traffic = gateways.each_ref().map(|gateway| Traffic::start(gateway.address));
        let check = |step: &str| {
            for ((way, _), traffic) in agents.iter().zip(&traffic) {
                traffic.wait_for_more(100);
                println!("{step}: {way}: {} requests, none failed", traffic.check());
            }
        };
        swap.run(&mesh, &gateways.each_ref(), || (), check);
        for ((way, _), gateway) in agents.iter().zip(&gateways) {
            let held = gateway.secrets().unwrap().chain;
            wait_until(TTL, &format!("{way}: another certificate, with nothing left of the old root"), || {
                if gateway.secrets()?.chain == held { Err("the one of before".to_owned()) } else { Ok(()) }
            });
            let issuers = gateway.log().distinct(BACKEND, "issuer");
            assert!(issuers.len() == 2, "{way}: the gateway saw certificates of {issuers:?}");
        }
        check("the new root alone, later");
        let issuers = mesh.backend.log().distinct(GATEWAY, "issuer");
        assert!(issuers.len() == 2, "the sidecar saw certificates of {issuers:?}");
    });
}

/// From one root to another by way of both, as istiod's documents say.
pub(crate) struct RootSwap {
    pub(crate) old: Authority,
    pub(crate) first: Authority,
    new: Authority,
    pub(crate) second: Authority,
    /// What the sidecar believes besides the mesh's roots, in PEM.
    pub(crate) beside: String,
}

impl RootSwap {
    pub(crate) fn new() -> Self {
        let (old, new) = (Authority::root("old"), Authority::root("new"));
        let (first, second) = (old.below("istiod of old", Kind::P256), new.below("istiod of new", Kind::P256));
        Self { old, first, new, second, beside: String::new() }
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
            let believed = roots.to_owned() + &self.beside;
            wait_until(STEP, &format!("{step}: at the sidecar"), || has(mesh.backend.secrets(), signer, &believed));
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

/// Sorted.
pub(crate) fn serials(roots: &str) -> Vec<String> {
    let mut serials: Vec<String> = Certificate::from_pem(roots).into_iter().map(|root| root.serial).collect();
    serials.sort();
    serials
}
