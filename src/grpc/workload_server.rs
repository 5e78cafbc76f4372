//! The workload socket put together: Workload API, secret discovery, health, reflection.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use tonic::{service::RoutesBuilder, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    phase::{Phase, Phases},
    reflection::add_reflection,
    secret_discovery::{SecretDiscovery, SecretSet, Validation, ValidationContexts},
    unix_listener::WorkloadListener,
    workload_api::{WorkloadApi, WorkloadMessages},
};
use crate::{
    proto::WORKLOAD_DESCRIPTORS,
    service::{
        context_acceptance::AcceptanceBook,
        policy_follower::PeersReceiver,
        svid_publisher::{IdentityReceiver, WorkloadIdentity},
    },
};

/// Why the socket is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The compiled-in descriptors don't load.
    #[error("the descriptors for reflection don't load: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server failed.
    #[error("the workload socket failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The policies that are followed, for validation contexts.
pub struct ServedPolicies {
    /// Whom to accept.
    pub peers: PeersReceiver,
    /// Where it is noted what clients have accepted of that.
    pub book: Arc<AcceptanceBook>,
}

/// Envoy opens a stream per secret, all on one connection.
const MAX_STREAMS: u32 = 100_000;

/// How long clients have to take notice when the socket closes.
const DRAIN: Duration = Duration::from_millis(500);

/// Serves `identity`, and validation contexts if policies are followed, on `listener` until `shutdown` resolves; then every
/// stream ends with `Unavailable`.
///
/// Health of the whole server (`""`) is `SERVING` while an SVID is held that has not expired, `NOT_SERVING` before and
/// after: a probe that passes means that a caller gets an identity. That the socket accepts shows in any answer at all.
///
/// No keepalive and no timeouts: the kernel tells both sides when the other is gone, and streams are idle between rotations.
///
/// # Errors
///
/// When the server can't be set up.
pub async fn serve(
    listener: WorkloadListener,
    identity: IdentityReceiver,
    policies: Option<ServedPolicies>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (peers, book) = policies.map_or_else(Default::default, |policies| (Some(policies.peers), policies.book));
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    let messages = watch::Sender::new(Phase::Starting);
    let secrets = watch::Sender::new(Phase::Starting);
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(WorkloadApi::guarded(Phases::new(messages.subscribe())))
        .add_service(SecretDiscovery::server(Phases::new(secrets.subscribe()), book))
        .add_service(health_server);
    add_reflection(&mut routes, WORKLOAD_DESCRIPTORS)?;
    let router = Server::builder().max_concurrent_streams(MAX_STREAMS).add_routes(routes.routes());

    let (draining, drained) = oneshot::channel();
    let stopping = async move {
        tokio::select! {
            () = shutdown => {}
            () = prepare(identity, peers, &messages, &secrets, &health) => {}
        }
        health.set_service_status("", ServingStatus::NotServing).await;
        messages.send_replace(Phase::Stopping);
        secrets.send_replace(Phase::Stopping);
        _ = draining.send(());
    };
    tokio::select! {
        result = router.serve_with_incoming_shutdown(listener.incoming(), stopping) => Ok(result?),
        () = async { _ = drained.await; sleep(DRAIN).await } => Ok(()),
    }
}

/// Prepares each published identity once for all streams. Never returns: what was published last stays when the publisher
/// is gone.
async fn prepare(
    mut identity: IdentityReceiver,
    mut peers: Option<PeersReceiver>,
    messages: &watch::Sender<Phase<WorkloadMessages>>,
    secrets: &watch::Sender<Phase<SecretSet>>,
    health: &HealthReporter,
) {
    let mut contexts = None;
    loop {
        let published = identity.borrow_and_update().clone();
        if let Some(identity) = published {
            messages.send_replace(Phase::Serving(WorkloadMessages::new(&identity).into()));
            let validation = validation(peers.as_mut(), &identity, &mut contexts);
            secrets.send_replace(Phase::Serving(SecretSet::new(&identity, validation).into()));
            let status = if identity.svid.is_some() { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status("", status).await;
        }
        let changed = async |peers: Option<&mut PeersReceiver>| match peers {
            Some(peers) => peers.changed().await.is_ok(),
            None => false,
        };
        tokio::select! {
            Ok(()) = identity.changed() => {}
            true = changed(peers.as_mut()) => {}
            else => std::future::pending::<()>().await,
        }
    }
}

/// What is served of the policies, beside this identity. `before` is what was.
fn validation(
    peers: Option<&mut PeersReceiver>,
    identity: &WorkloadIdentity,
    before: &mut Option<Arc<ValidationContexts>>,
) -> Validation {
    let Some(peers) = peers else { return Validation::NotServed };
    let Some(known) = peers.borrow_and_update().clone() else { return Validation::Withheld };
    let contexts = Arc::new(ValidationContexts::new(&identity.bundle, &known, before.as_deref()));
    *before = Some(Arc::clone(&contexts));
    Validation::Served(contexts)
}
