//! The Secrets of gateways, wired: which there are, and who signs for them.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Seams, ServeFailed, until};
use crate::{
    domain::attestation::OwnIdentity,
    runtime::{config::ServeConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        bundle_distribution::TlsSecret,
        create_certificate::CreateCertificate,
        gateway_secrets::{self, GatewaySecret, GatewaySecrets, Parts},
        own_identity::OwnAuthority,
        readiness::Readiness,
        signing_session::SigningSession,
    },
};

/// Those that were asked for.
#[derive(Default)]
pub(super) struct Planned {
    /// The pair's namespace.
    pub(super) publisher: String,
    pub(super) secrets: Vec<(GatewaySecret, Arc<dyn TlsSecret>)>,
}

/// Keeps them with SVIDs of the own authority while it may sign.
pub(super) fn start(
    Planned { publisher, secrets }: Planned,
    create: &Arc<CreateCertificate>,
    sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    readiness: &Readiness,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<(), ServeFailed> {
    if secrets.is_empty() {
        return Ok(());
    }
    let parts = secrets.into_iter().map(|(of, secret)| {
        let own = OwnIdentity::Gateway(of.account.clone());
        Parts { of, secret, authority: Arc::new(OwnAuthority::new(Arc::clone(create), own)) }
    });
    let all = gateway_secrets::Surroundings {
        trust_domain: config.trust_domain.clone(),
        ttl: config.ttl.default_ttl(),
        publisher,
        clock: Arc::clone(&seams.clock),
        metrics: Arc::clone(&seams.metrics),
    };
    let kept = GatewaySecrets::new(parts.collect(), &all).map_err(ServeFailed::of)?;
    let latch = readiness.latch("gateway secrets", "not begun");
    let keeping = kept.run(sessions, |session| session.authority_changes(), latch);
    supervisor.spawn("gateway secrets", until(shutdown, async move { match keeping.await {} }));
    Ok(())
}
