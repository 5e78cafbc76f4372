//! The rotation of this pair's authorities, wired: for operators, for other replicas, and by the clock.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Seams, signing::Signing, until};
use crate::{
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        authority_rotation::{AuthorityRotation, Propagation},
        authority_upkeep,
        bundle_distribution::DistributionStatus,
        trust_followers::TrustFollowers,
    },
};

/// Rotates while this replica may sign, and gives what takes orders to whoever takes them.
pub(super) fn start(
    signing: &mut Signing,
    (followers, places): (Arc<TrustFollowers>, Option<watch::Receiver<DistributionStatus>>),
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let endpoint = config.bundle_endpoint.as_ref().map(|endpoint| endpoint.refresh_hint);
    let propagation = Propagation { followers, places, endpoint };
    let (sessions, pair) = (signing.sessions.clone(), Arc::clone(&signing.pair));
    let rotation = AuthorityRotation::new(sessions.clone(), pair, propagation, Arc::clone(&seams.clock));
    let rotation = Arc::new(rotation);
    signing.announcer.rotation = Some(Arc::clone(&rotation));
    supervisor.spawn(
        "authority upkeep",
        until(shutdown, authority_upkeep::keep(sessions, rotation, Arc::clone(&seams.metrics))),
    );
}
