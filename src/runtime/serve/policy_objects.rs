//! What the active writes for gateways, wired.

use super::{signing::Signing, surroundings::PlannedObjects, until};
use crate::runtime::{shutdown::Shutdown, supervisor::Supervisor};

/// Writes it while this replica may sign.
pub(super) fn start(
    planned: Option<PlannedObjects>,
    signing: &Signing,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some(PlannedObjects { objects, plans }) = planned else { return };
    let latch = signing.readiness.latch("policy objects", "not begun");
    let writing = objects.run(signing.sessions.clone(), |session| session.authority_changes(), plans, latch);
    supervisor.spawn("policy objects", until(shutdown, async move { match writing.await {} }));
}
