//! The Secrets of gateways, wired: which there are, and who signs for them.

use std::sync::Arc;

use super::{Seams, ServeFailed, signing::Signing, surroundings::PlannedSecrets, until};
use crate::{
    domain::attestation::OwnIdentity,
    grpc::self_handshake::SelfHandshake,
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        gateway_secrets::{self, GatewaySecrets, Parts},
        own_identity::OwnAuthority,
    },
};

/// Keeps them with SVIDs of the own authority while it may sign.
pub(super) fn start(
    PlannedSecrets { publisher, secrets }: PlannedSecrets,
    signing: &Signing,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<(), ServeFailed> {
    if secrets.is_empty() {
        return Ok(());
    }
    let parts = secrets.into_iter().map(|(of, secret)| {
        let own = OwnIdentity::Gateway(of.account.clone());
        Parts { of, secret, authority: Arc::new(OwnAuthority::new(Arc::clone(&signing.create), own)) }
    });
    let all = gateway_secrets::Surroundings {
        trust_domain: config.trust_domain.clone(),
        ttl: config.ttl.default_ttl(),
        publisher,
        check: Arc::new(SelfHandshake::new(Arc::clone(&seams.clock))),
        clock: Arc::clone(&seams.clock),
        metrics: Arc::clone(&seams.metrics),
    };
    let kept = GatewaySecrets::new(parts.collect(), &all).map_err(ServeFailed::of)?;
    let latch = signing.readiness.latch("gateway secrets", "not begun");
    let keeping = kept.run(signing.sessions.clone(), |session| session.authority_changes(), latch);
    supervisor.spawn("gateway secrets", until(shutdown, async move { match keeping.await {} }));
    Ok(())
}
