//! What the active writes for gateways, and what every replica looks at for it, wired.

use std::sync::Arc;

use super::{
    identities::OwnIdentities,
    signing::Signing,
    surroundings::{PlannedObjects, PlannedProbes},
    until,
};
use crate::{
    grpc::mutual_tls_probe::MutualTlsProbe,
    runtime::{shutdown::Shutdown, supervisor::Supervisor},
    service::{policy_events::PolicyEvents, policy_probes::PolicyProbes, svid_publisher::IdentityReceiver},
};

/// Writes it while this replica may sign.
pub(super) fn start(
    planned: Option<PlannedObjects>,
    signing: &Signing,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some(PlannedObjects { objects, plans, .. }) = planned else { return };
    let latch = signing.readiness.latch("policy objects", "not begun");
    let writing = objects.run(signing.sessions.clone(), |session| session.authority_changes(), plans, latch);
    supervisor.spawn("policy objects", until(shutdown, async move { match writing.await {} }));
}

/// Says on the objects themselves what begins to hold.
pub(super) fn start_events(
    events: Option<PolicyEvents>,
    signing: &Signing,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some(events) = events else { return };
    let saying = events.run(signing.sessions.clone());
    supervisor.spawn("policy events", until(shutdown, async move { match saying.await {} }));
}

/// Asks pods whether they speak mutual TLS, by the certificate that this replica serves with.
pub(super) fn start_probes(
    planned: Option<PlannedProbes>,
    serving: IdentityReceiver,
    identities: &OwnIdentities,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some(PlannedProbes { publisher, changes, plans }) = planned else { return };
    let OwnIdentities { clock, random, metrics, .. } = identities;
    let tls = Arc::new(MutualTlsProbe::new(serving, Arc::clone(clock)));
    let seams = (Arc::clone(clock), Arc::clone(random), Arc::clone(metrics));
    let probes = PolicyProbes::new((publisher, changes), tls, seams.0, seams.1, seams.2);
    supervisor.spawn("policy probes", until(shutdown, async move { match probes.run(plans).await {} }));
}
