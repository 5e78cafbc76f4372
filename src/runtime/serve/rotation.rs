//! The rotation of this pair's authorities, wired: for operators, for other replicas, and by the clock.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Seams, signing::Signing, trust::ReplicaTrust, until};
use crate::{
    domain::x509::TrustBundle,
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        authority_rotation::{AuthorityRotation, Behind, Propagation},
        authority_upkeep,
        bundle_distribution::DistributionStatus,
        bundle_offers::BundleOffers,
        policy_objects::PolicyObjects,
    },
};

/// Rotates while this replica may sign, and gives what takes orders to whoever takes them.
pub(super) fn start(
    signing: &mut Signing,
    (trust, places): (&ReplicaTrust, Option<watch::Receiver<DistributionStatus>>),
    gateways: Option<Arc<PolicyObjects>>,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let endpoint = config.bundle_endpoint.as_ref().map(|endpoint| Arc::new(BundleOffers::new(endpoint.refresh_hint)));
    if let Some(offers) = endpoint.clone() {
        let told = trust.published.clone();
        supervisor.spawn("bundle offers", until(shutdown, async move { match offers.follow(told).await {} }));
    }
    let followers = Arc::clone(&trust.agents.followers);
    let gateways = gateways.map(|objects| {
        let behind = move |roots: &TrustBundle| objects.behind(roots);
        Box::new(behind) as Behind
    });
    let propagation = Propagation { followers, places, gateways, endpoint };
    let (sessions, pair) = (signing.sessions.clone(), Arc::clone(&signing.pair));
    let rotation = AuthorityRotation::new(sessions.clone(), pair, propagation, Arc::clone(&seams.clock));
    let rotation = Arc::new(rotation);
    signing.announcer.rotation = Some(Arc::clone(&rotation));
    supervisor.spawn(
        "authority upkeep",
        until(shutdown, authority_upkeep::keep(sessions, rotation, Arc::clone(&seams.metrics))),
    );
}
