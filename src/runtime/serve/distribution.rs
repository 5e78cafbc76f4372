//! What the active writes into the cluster of the trust bundle, wired.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Seams, signing::Signing, until};
use crate::{
    grpc::self_handshake::SelfHandshake,
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::bundle_distribution::{BundleDistribution, DistributionConfig, DistributionStatus, Parts, Places},
};

/// Writes it while this replica may sign. Returns how that stands, if there is anything to be written.
pub(super) fn start(
    distribution: Option<(DistributionConfig, Places)>,
    signing: &Signing,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Option<watch::Receiver<DistributionStatus>> {
    let (of, places) = distribution?;
    let create = Arc::clone(&signing.create);
    let (clock, metrics) = (Arc::clone(&seams.clock), Arc::clone(&seams.metrics));
    let check = Arc::new(SelfHandshake::new(Arc::clone(&clock)));
    let parts = Parts { config: of, places, create, ttl: config.ttl, check, clock, metrics };
    let latch = signing.readiness.latch("distribution", "not begun");
    let distribution = BundleDistribution::new(parts);
    let status = distribution.status();
    let distribution = distribution.run(signing.sessions.clone(), latch);
    supervisor.spawn("distribution", until(shutdown, async move { match distribution.await {} }));
    Some(status)
}
