//! What the active writes for gateways, and what every replica looks at for it, wired.

use std::{convert::Infallible, sync::Arc};

use super::{
    identities::OwnIdentities,
    signing::Signing,
    surroundings::{PlannedObjects, PlannedProbes},
    until,
};
use crate::{
    domain::{clock::Clock, random::SecureRandom},
    grpc::mutual_tls_probe::MutualTlsProbe,
    runtime::{shutdown::Shutdown, supervisor::Supervisor},
    service::{
        metrics::Metrics, policy_events::PolicyEvents, policy_probes::PolicyProbes, svid_publisher::IdentityReceiver,
    },
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
    let Some(planned) = planned else { return };
    let OwnIdentities { clock, random, metrics, .. } = identities;
    let probing = probes(planned, serving, (clock, random, metrics));
    supervisor.spawn("policy probes", until(shutdown, async move { match probing.await {} }));
}

/// The probes, by the certificate of `serving`.
pub(super) fn probes(
    planned: PlannedProbes,
    serving: IdentityReceiver,
    (clock, random, metrics): (&Arc<dyn Clock>, &Arc<dyn SecureRandom>, &Arc<Metrics>),
) -> impl Future<Output = Infallible> + Send + 'static {
    let PlannedProbes { publisher, changes, plans } = planned;
    let tls = Arc::new(MutualTlsProbe::new(serving, Arc::clone(clock)));
    let (clock, random, metrics) = (Arc::clone(clock), Arc::clone(random), Arc::clone(metrics));
    PolicyProbes::new((publisher, changes), tls, clock, random, metrics).run(plans)
}
