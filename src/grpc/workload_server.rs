//! The workload socket put together: Workload API, secret discovery, health, reflection.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tonic::{service::RoutesBuilder, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    phase::{Phase, Phases},
    reflection::add_reflection,
    secret_discovery::{Identities, SecretDiscovery, SecretSet, Validation, ValidationContexts},
    served_identities::ServedIdentities,
    unix_listener::WorkloadListener,
    workload_api::{WorkloadApi, WorkloadMessages},
    workload_jwt::ServedJwt,
};
use crate::{
    proto::WORKLOAD_DESCRIPTORS,
    service::{
        context_acceptance::AcceptanceBook,
        metrics::Metrics,
        policy_follower::PeersReceiver,
        published_trust::{PublishedTrust, TrustReceiver},
        svid_publisher::WorkloadIdentity,
        waiting,
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

/// What the pair publishes for others to verify by, if that is followed: bundles of other trust domains and keys of JWT-SVIDs. The
/// own trust domain's roots are the identity's, which knows where it has them from.
pub struct ServedTrust {
    /// What is to be served.
    pub trust: TrustReceiver,
    /// The sequence of the own bundle that is served; 0 until one is.
    pub served: watch::Sender<u64>,
    /// Whether the pair was asked once: until then the first that clients get waits for a moment, since some read no other. `None`
    /// where nobody asks.
    pub was_asked: Option<watch::Receiver<bool>>,
}

/// Envoy opens a stream per secret, all on one connection.
const MAX_STREAMS: u32 = 100_000;

/// How long the first that clients get waits for the pair's trust: a pair that signs answers in milliseconds.
const FIRST_TRUST: Duration = Duration::from_secs(1);

/// How long clients have to take notice when the socket closes.
const DRAIN: Duration = Duration::from_millis(500);

/// Serves `identities`, `trust` beside them, JWT-SVIDs from `jwt`, and validation contexts if policies are followed, on `listener` until
/// `shutdown` resolves; then every stream ends with `Unavailable`. Streams of secret discovery are counted in `metrics`.
///
/// Health of the whole server (`""`) is `SERVING` while an SVID of the first is held that has not expired, `NOT_SERVING` before and
/// after: a probe that passes means that a caller gets an identity. That the socket accepts shows in any answer at all.
///
/// No keepalive and no timeouts: the kernel tells both sides when the other is gone, and streams are idle between rotations.
///
/// # Errors
///
/// When the server can't be set up.
pub async fn serve(
    listener: WorkloadListener,
    identities: impl Into<ServedIdentities>,
    trust: Option<ServedTrust>,
    policies: Option<ServedPolicies>,
    jwt: ServedJwt,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let identities = identities.into();
    let (peers, book) = policies.map_or_else(Default::default, |policies| (Some(policies.peers), policies.book));
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::NotServing).await;
    let messages = watch::Sender::new(Phase::Starting);
    let secrets = watch::Sender::new(Phase::Starting);
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(WorkloadApi::guarded(Phases::new(messages.subscribe()), identities.clone(), jwt))
        .add_service(SecretDiscovery::server(Phases::new(secrets.subscribe()), book, metrics))
        .add_service(health_server);
    add_reflection(&mut routes, WORKLOAD_DESCRIPTORS)?;
    let router = Server::builder().max_concurrent_streams(MAX_STREAMS).add_routes(routes.routes());

    let (draining, drained) = oneshot::channel();
    let stopping = async move {
        tokio::select! {
            () = shutdown => {}
            () = prepare(Sources { identities, trust, peers }, &messages, &secrets, &health) => {}
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

/// What is served, as it comes.
struct Sources {
    identities: ServedIdentities,
    trust: Option<ServedTrust>,
    peers: Option<PeersReceiver>,
}

impl Sources {
    /// Waits for an identity, and for a moment for what is to stand beside it from the beginning.
    async fn first(&mut self) {
        let was_asked = self.trust.as_mut().and_then(|served| served.was_asked.as_mut());
        if let Some(was_asked) = was_asked {
            drop(self.identities.first.identity.wait_for(Option::is_some).await);
            drop(timeout(FIRST_TRUST, was_asked.wait_for(|was_asked| *was_asked)).await);
        }
    }

    /// Waits for a change of anything. Never returns when nothing can change any more: what was published last stays when its
    /// publisher is gone.
    async fn changed(&mut self) {
        let Self { identities, trust, peers } = self;
        tokio::select! {
            () = identities.changed() => {}
            () = next(trust.as_mut().map(|served| &mut served.trust)) => {}
            () = next(peers.as_mut()) => {}
        }
    }
}

async fn next<T>(receiver: Option<&mut watch::Receiver<T>>) {
    match receiver {
        Some(receiver) => waiting::next(receiver).await,
        None => std::future::pending().await,
    }
}

/// Prepares each published identity, and what is served beside it, once for all streams. Never returns.
async fn prepare(
    mut sources: Sources,
    messages: &watch::Sender<Phase<WorkloadMessages>>,
    secrets: &watch::Sender<Phase<SecretSet>>,
    health: &HealthReporter,
) {
    sources.first().await;
    let (mut contexts, mut changes, mut last) = (None, 0, None);
    loop {
        let others = sources.identities.known_others();
        let awaits_others = others.len() < sources.identities.others.len();
        let first = &mut sources.identities.first;
        let (hint, published) = (first.hint.clone(), first.identity.borrow_and_update().clone());
        let trust = sources.trust.as_mut().and_then(|served| served.trust.borrow_and_update().clone());
        if trust != last {
            changes += 1;
            last.clone_from(&trust);
        }
        let trust = trust.as_deref();
        if let Some(identity) = &published {
            messages.send_replace(Phase::Serving(WorkloadMessages::new((&hint, identity), &others, trust).into()));
            let validation = validation(sources.peers.as_mut(), identity, &mut contexts);
            let held = others.iter().map(|(_, other)| &**other).collect::<Vec<_>>();
            let held = Identities { first: identity, others: &held, awaits_others };
            let secret_set = SecretSet::new(&held, trust.map(|trust| (trust, changes)), validation);
            secrets.send_replace(Phase::Serving(secret_set.into()));
            let status = if identity.svid.is_some() { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status("", status).await;
        }
        if let (Some(trust), Some(ServedTrust { served, .. })) = (trust, &sources.trust)
            && is_served(trust, published.as_deref())
        {
            served.send_if_modified(|served| std::mem::replace(served, trust.sequence()) != trust.sequence());
        }
        sources.changed().await;
    }
}

/// Whether a client gets the own bundle as it is here. Before there is an identity nobody has another one.
fn is_served(trust: &PublishedTrust, identity: Option<&WorkloadIdentity>) -> bool {
    identity.is_none_or(|identity| trust.has_roots(&identity.bundle))
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
