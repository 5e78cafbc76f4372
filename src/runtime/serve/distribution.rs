//! What the active writes into the cluster of the trust bundle, wired.

use std::sync::Arc;

use super::{Seams, signing::Signing, until};
use crate::{
    grpc::self_handshake::SelfHandshake,
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::bundle_distribution::{BundleDistribution, DistributionConfig, Parts, Places},
};

/// Writes it while this replica may sign.
pub(super) fn start(
    distribution: Option<(DistributionConfig, Places)>,
    signing: &Signing,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some((of, places)) = distribution else { return };
    let create = Arc::clone(&signing.create);
    let (clock, metrics) = (Arc::clone(&seams.clock), Arc::clone(&seams.metrics));
    let check = Arc::new(SelfHandshake::new(Arc::clone(&clock)));
    let parts = Parts { config: of, places, create, ttl: config.ttl, check, clock, metrics };
    let latch = signing.readiness.latch("distribution", "not begun");
    let distribution = BundleDistribution::new(parts).run(signing.sessions.clone(), latch);
    supervisor.spawn("distribution", until(shutdown, async move { match distribution.await {} }));
}
