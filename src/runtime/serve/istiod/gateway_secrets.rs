//! The Secrets of gateways where istiod signs: the active asks the API server for a token of the gateway's account, and istiod for
//! a certificate with it.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::while_held::{Term, WhileHeld};
use crate::{
    grpc::{
        own_at_istiod::{OwnAtIstiod, OwnToken},
        self_handshake::SelfHandshake,
    },
    k8s::{client::client, tls_secret::ClusterTlsSecret, token_request::RequestedTokens},
    runtime::{
        config::{IstiodClusterConfig, ServeConfig},
        serve::{Seams, ServeFailed, until},
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        gateway_secrets::{AccountTokens, GatewaySecrets, Parts, Surroundings},
        istiod_pass_on::PassOn,
        mesh_trust::{MeshTrust, tell_terms},
        readiness::Readiness,
    },
};

/// How istiod is asked, and its roots.
pub(super) struct Signer {
    pub(super) pass_on: Arc<PassOn>,
    pub(super) trust: MeshTrust,
    /// As istiod calls this cluster.
    pub(super) cluster_id: Option<String>,
}

/// As long as istiod gives without being asked for more.
const ITS_DEFAULT: Duration = Duration::ZERO;

/// Keeps them while this replica is active.
pub(super) async fn start<T: Term>(
    (namespace, held): (&str, watch::Receiver<Option<Arc<T>>>),
    cluster: &IstiodClusterConfig,
    Signer { pass_on, trust, cluster_id }: Signer,
    readiness: &Readiness,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<(), ServeFailed> {
    if cluster.gateway_secrets.is_empty() {
        return Ok(());
    }
    let client = client(cluster.kubeconfig.as_deref()).await.map_err(ServeFailed::of)?;
    let tokens: Arc<dyn AccountTokens> = Arc::new(RequestedTokens::new(client.clone()));
    let parts = cluster.gateway_secrets.iter().map(|of| {
        let token = OwnToken::Made(Arc::clone(&tokens), of.account.clone());
        Parts {
            secret: Arc::new(ClusterTlsSecret::new(client.clone(), of.namespace(), &of.name)),
            authority: Arc::new(OwnAtIstiod::new(Arc::clone(&pass_on), token, cluster_id.clone())),
            of: of.clone(),
        }
    });
    let all = Surroundings {
        trust_domain: config.trust_domain.clone(),
        ttl: ITS_DEFAULT,
        publisher: namespace.to_owned(),
        check: Arc::new(SelfHandshake::new(Arc::clone(&seams.clock))),
        clock: Arc::clone(&seams.clock),
        metrics: Arc::clone(&seams.metrics),
    };
    let kept = GatewaySecrets::new(parts.collect(), &all).map_err(ServeFailed::of)?;
    let clock = Arc::clone(&seams.clock);
    let (told, terms) = watch::channel(None);
    let telling = tell_terms(held, trust.object.clone(), told);
    supervisor.spawn("gateway roots", until(shutdown, async move { match telling.await {} }));
    let trusted = move |term: &Arc<T>| WhileHeld::new(term, &clock, &trust);
    let keeping = kept.run(terms, trusted, readiness.latch("gateway secrets", "not begun"));
    supervisor.spawn("gateway secrets", until(shutdown, async move { match keeping.await {} }));
    Ok(())
}
