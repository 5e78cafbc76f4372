//! Other trust domains, wired.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Seams, ServeFailed, until};
use crate::{
    grpc::{bundle_tls::towards_endpoint, pair_client::PairClient},
    http::bundle_client::BundleClient,
    runtime::{
        config::{FederationConfig, ServeConfig},
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        federation::{Bootstrap, ConfiguredPartner, Federation, Parts},
        signing_session::SigningSession,
    },
    storage::{NamedBundleFiles, read_file},
};

/// Reads what the configuration hands over.
pub(super) fn federation(
    config: &ServeConfig,
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    pair: &Arc<PairClient>,
    Seams { clock, random, metrics, .. }: &Seams,
) -> Result<Arc<Federation>, ServeFailed> {
    let configured = config.federation.iter().map(configured).collect::<Result<_, _>>()?;
    Ok(Arc::new(Federation::new(Parts {
        session,
        trust_domain: config.trust_domain.clone(),
        configured,
        fetcher: Arc::new(BundleClient::new(towards_endpoint, Arc::clone(clock))),
        files: Arc::new(NamedBundleFiles),
        pair: Arc::clone(pair) as _,
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        metrics: Arc::clone(metrics),
    })))
}

/// Has the active fetch bundles.
pub(super) fn start(federation: &Arc<Federation>, (shutdown, supervisor): (&Shutdown, &mut Supervisor)) {
    let federation = Arc::clone(federation);
    supervisor.spawn("federation", until(shutdown, async move { match federation.run().await {} }));
}

fn configured(config: &FederationConfig) -> Result<ConfiguredPartner, ServeFailed> {
    let FederationConfig { relationship, bootstrap_file } = config;
    let trust_domain = &relationship.trust_domain;
    let read = bootstrap_file.as_deref().map(|file| {
        let content = read_file(file).map_err(|error| error.to_string());
        let read = content.and_then(|content| Bootstrap::read(trust_domain.clone(), &content));
        read.map_err(|error| {
            ServeFailed(format!("federation with {trust_domain}: bootstrapFile {}: {error}", file.display()))
        })
    });
    Ok(ConfiguredPartner { relationship: relationship.clone(), bootstrap: read.transpose()? })
}
