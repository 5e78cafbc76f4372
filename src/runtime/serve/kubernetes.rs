//! A replica in Kubernetes: the Lease decides who is active, two Secrets hold the state, the API server says whose tokens are
//! whose, and the replicas speak to each other over the pair port.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::{runtime::Handle, sync::watch};

use super::{
    Seams, ServeFailed,
    announce::Announced,
    listeners::listen,
    policy::{self, Followed},
    signing::refresh_hint,
    surroundings::{AllLogs, PairPort, PlannedObjects, PlannedSecrets, Ports, Surroundings, Tasks},
};
use crate::{
    domain::{
        attestation::ReviewRules,
        identity::{ReplicaId, ServiceAccount},
        jwt::TokenIssuer,
        leadership::{Tenure, Term},
        random::SecureRandom,
    },
    grpc::{
        known_peers::KnownPeers,
        pair_client::PairClient,
        pair_server::CertifiedPeers,
        pair_tls::{PairTls, pair_tls},
    },
    k8s::{
        bundle_places::bundle_places,
        client::{Client, client},
        lease_store::LeaseStore,
        pods::ClusterPods,
        state_store::SecretStateStore,
        tls_secret::ClusterTlsSecret,
        token_review::ClusterTokenReviewer,
    },
    runtime::config::{KubernetesConfig, ServeConfig, TokenReviewConfig},
    service::{
        bundle_distribution::{DistributionConfig, MeshCa},
        caller_attestation::Cluster,
        issuance_history::PairHistories,
        leadership::Hints,
        metrics::Metrics,
        pair_trust::StoredTrust,
        policy_publisher::{PolicyAccess, PolicyPublisher},
        ports::{BoxFuture, StateStore},
        readiness::{Latch, Readiness},
        replica_identity::ReplicaIdentityKeeper,
        signing_state::root_of,
        state_condition::StateCondition,
        state_manifest::StateManifest,
        token_reviews::TokenReviews,
    },
    storage::{data_dir::DataDir, replica_slot::ReplicaSlot},
};

/// The name of the Lease.
pub(super) const LEASE: &str = "countersign";

/// Takes the ports, and makes the clients. Nothing is asked of the API server yet: it may not be there.
pub(super) async fn join(
    config: &ServeConfig,
    kubernetes: &KubernetesConfig,
    issuers: Vec<TokenIssuer>,
    seams: &Seams,
) -> Result<Surroundings, ServeFailed> {
    let data_dir = DataDir::open(&config.data_dir).map_err(ServeFailed::of)?;
    let slot = ReplicaSlot::take_first_free(&data_dir, seams.random.as_ref()).map_err(ServeFailed::of)?;
    let (ca, ca_address) = listen("listen", config.listen.address).await.map_err(ServeFailed::of)?;
    let (admin, admin_address) = listen("adminListen", config.admin_listen.address).await.map_err(ServeFailed::of)?;
    let (port, _) = listen("pairListen", kubernetes.pair.listen).await.map_err(ServeFailed::of)?;
    let replica = format!("{}-{}", kubernetes.replica_uid, suffix(seams.random.as_ref())?);
    let readiness = Readiness::default();
    let (mut tasks, mut finding) = (Tasks::new(), Tasks::new());
    let Tenancy { namespace, lease, store, hints } =
        tenancy(kubernetes, seams, &readiness, (&mut tasks, &mut finding)).await?;
    let Others { pair, tls, peers } =
        others(config, kubernetes, &replica, &lease, &store, seams, (&mut tasks, &mut finding))?;
    let client = client(kubernetes.kubeconfig.as_deref()).await.map_err(ServeFailed::of)?;
    let (policy, policy_objects) = policies(&client, kubernetes, &replica, &pair, seams, &mut tasks);
    let publisher = policy.as_ref().map(|access| Arc::clone(&access.publisher));
    let counted = (&seams.clock, &seams.metrics);
    let policy_events = publisher.as_deref().map(|publisher| policy::events(&client, &replica, publisher, counted));
    let cluster = cluster(&client, &kubernetes.reviews, publisher, seams, &mut tasks);
    let distribution = distribution(config, kubernetes, namespace.clone())?;
    let gateway_secrets = gateway_secrets(kubernetes, &client, &distribution.namespace);
    let own_name = format!("countersign.{namespace}.svc");
    Ok(Surroundings {
        data_dir,
        slot,
        histories: all_logs(replica.clone(), Arc::clone(&pair)),
        replica,
        ports: Ports { ca, ca_address, admin, admin_address },
        gave_way: false,
        pair_port: PairPort::Tls { port, tls, peers },
        pair,
        tenure: Tenure::Lease(kubernetes.lease),
        election: lease,
        hints,
        kept_state: Some(Arc::new(store.clone())),
        kept_trust: Arc::new(StoredTrust::new(
            Arc::new(store.clone()),
            config.trust_domain.clone(),
            refresh_hint(config),
        )),
        open_state: Box::new(move || Ok(Arc::new(store.clone()))),
        issuers,
        cluster: Some(cluster),
        server_names: config.dns_names.iter().cloned().chain([own_name]).collect(),
        istiod: distribution.mesh_ca.as_ref().map(MeshCa::istiod_serving),
        distribution: Some((distribution.clone(), bundle_places(&client, &distribution))),
        gateway_secrets,
        policy,
        policy_objects,
        policy_events,
        announced: Announced::InLease,
        tasks,
        finding,
        readiness,
        leave: Box::new(|| Ok(())),
    })
}

/// What a term hangs on.
struct Tenancy {
    namespace: String,
    lease: Arc<LeaseStore>,
    store: SecretStateStore,
    hints: Hints,
}

/// Lease and state, on the runtime of the election.
async fn tenancy(
    kubernetes: &KubernetesConfig,
    seams: &Seams,
    readiness: &Readiness,
    (tasks, finding): (&mut Tasks, &mut Tasks),
) -> Result<Tenancy, ServeFailed> {
    let Seams { clock, metrics, control, .. } = seams;
    let kubeconfig = kubernetes.kubeconfig.clone();
    let client = control.spawn(async move { client(kubeconfig.as_deref()).await });
    let client = client.await.map_err(ServeFailed::of)?.map_err(ServeFailed::of)?;
    let namespace = kubernetes.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let manifest = Arc::new(StateManifest::default());
    let (timing, own) = (kubernetes.lease, Some(kubernetes.pair.address));
    let lease =
        LeaseStore::new(client.clone(), &namespace, LEASE, timing, own, Arc::clone(&manifest), Arc::clone(clock));
    let lease = Arc::new(lease);
    let store = SecretStateStore::new(client, control.clone(), &namespace, timing.step_down(), manifest, root_of);
    let hints = Hints::new();
    finding.push(("lease watch", on(control, Arc::clone(&lease).watch(hints.clone()))));
    tasks.push(("state watch", on(control, store.clone().watch())));
    tasks.push(("state fences", Box::pin(pass_on_terms(store.higher_term(), hints.clone()))));
    let latch = readiness.latch("stored state", "not looked at yet");
    tasks.push(("state condition", Box::pin(show_condition(store.condition(), latch, Arc::clone(metrics)))));
    Ok(Tenancy { namespace, lease, store, hints })
}

/// The other replicas: how they are asked, and how they ask.
struct Others {
    pair: Arc<PairClient>,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    peers: CertifiedPeers,
}

fn others(
    config: &ServeConfig,
    kubernetes: &KubernetesConfig,
    replica: &str,
    lease: &LeaseStore,
    store: &SecretStateStore,
    seams: &Seams,
    (tasks, finding): (&mut Tasks, &mut Tasks),
) -> Result<Others, ServeFailed> {
    let Seams { clock, random, metrics, .. } = seams;
    let id = ReplicaId::new(&config.trust_domain, &kubernetes.replica_uid).map_err(ServeFailed::of)?;
    let readable: Arc<dyn StateStore> = Arc::new(store.clone());
    let (keeper, identities) = ReplicaIdentityKeeper::new(readable, id, Arc::clone(clock), Arc::clone(random));
    metrics.follow_replica(identities.clone());
    tasks.push(("replica certificate", Box::pin(keeper.run())));
    let (PairTls { server: tls, client: dial }, follow) = pair_tls(identities, Arc::clone(clock));
    tasks.push(("pair TLS", Box::pin(follow)));
    let known = Arc::new(KnownPeers::new(lease.observed(), kubernetes.pair.address));
    if let Some((name, port)) = kubernetes.pair.service.clone() {
        let known = Arc::clone(&known);
        finding.push(("pair Service", Box::pin(async move { known.resolve(&name, port).await })));
    }
    let directory = Arc::clone(&known) as _;
    let pair = Arc::new(PairClient::over_network(directory, replica.to_owned(), kubernetes.pair.address, dial));
    let workload = config.workload_socket.is_some().then(|| config.workload.clone());
    Ok(Others { pair, tls, peers: CertifiedPeers { clock: Arc::clone(clock), known, workload } })
}

/// Follows them, if that is asked for, and has the other replicas told what agents say of them here.
fn policies(
    client: &Client,
    kubernetes: &KubernetesConfig,
    replica: &str,
    pair: &Arc<PairClient>,
    seams: &Seams,
    tasks: &mut Tasks,
) -> (Option<PolicyAccess>, Option<PlannedObjects>) {
    let Some(policy) = &kubernetes.policy else { return (None, None) };
    let followed =
        Followed { policy, trust_domain: &kubernetes.mesh_trust_domain, istio_namespace: &kubernetes.istio_namespace };
    let (access, objects) = policy::start(client, &followed, replica, (&seams.clock, &seams.metrics), tasks);
    let (pair, enforcement) = (Arc::clone(pair), access.enforcement());
    tasks.push(("policy reports", Box::pin(async move { match pair.pass_reports(enforcement).await {} })));
    (Some(access), objects)
}

/// Who says whose tokens and certificates are good.
pub(super) fn cluster(
    client: &Client,
    reviews: &TokenReviewConfig,
    policy: Option<Arc<PolicyPublisher>>,
    seams: &Seams,
    tasks: &mut Tasks,
) -> Cluster {
    let pods = Arc::new(ClusterPods::new(client.clone(), Arc::clone(&seams.clock)).with_policy(policy));
    let followed = Arc::clone(&pods);
    tasks.push(("pods", Box::pin(async move { followed.follow().await })));
    let rules = ReviewRules { cluster: reviews.cluster_id.clone(), audiences: reviews.audiences.clone() };
    let reviewer = Arc::new(ClusterTokenReviewer::new(client.clone()));
    let (clock, metrics) = (Arc::clone(&seams.clock), Arc::clone(&seams.metrics));
    Cluster { reviews: TokenReviews::new(reviewer, rules, reviews.cache, clock, metrics), pods }
}

fn distribution(
    config: &ServeConfig,
    kubernetes: &KubernetesConfig,
    namespace: String,
) -> Result<DistributionConfig, ServeFailed> {
    let mesh_ca = if kubernetes.mesh_ca {
        let istiod = ServiceAccount::new(&kubernetes.istio_namespace, "istiod").map_err(ServeFailed::of)?;
        let (root_config_map, revisions) = (kubernetes.root_config_map.clone(), kubernetes.istiod_revisions.clone());
        Some(MeshCa::new(root_config_map, istiod, revisions, &config.trust_domain).map_err(ServeFailed::of)?)
    } else {
        None
    };
    Ok(DistributionConfig {
        namespace,
        trust_domain: config.trust_domain.clone(),
        mesh_ca,
        cluster_trust_bundle: kubernetes.cluster_trust_bundle,
        adopt: kubernetes.adopt,
    })
}

fn gateway_secrets(kubernetes: &KubernetesConfig, client: &Client, publisher: &str) -> PlannedSecrets {
    let planned = kubernetes.gateway_secrets.iter().map(|of| {
        let secret = ClusterTlsSecret::new(client.clone(), of.namespace(), &of.name);
        (of.clone(), Arc::new(secret) as _)
    });
    PlannedSecrets { publisher: publisher.to_owned(), secrets: planned.collect() }
}

/// A restarted process of the same pod is another replica.
pub(super) fn suffix(random: &dyn SecureRandom) -> Result<String, ServeFailed> {
    let mut bytes = [0; 4];
    random.fill(&mut bytes).map_err(ServeFailed::of)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn all_logs(replica: String, pair: Arc<PairClient>) -> AllLogs {
    Box::new(move |own| Arc::new(PairHistories::new(replica, own, pair)))
}

pub(super) fn on(runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
    let task = runtime.spawn(task);
    Box::pin(async move {
        if let Err(error) = task.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    })
}

/// Whoever finds a higher term in the state tells the election. Never returns.
async fn pass_on_terms(mut seen: watch::Receiver<Term>, hints: Hints) {
    while seen.changed().await.is_ok() {
        hints.higher_term(*seen.borrow_and_update());
    }
    std::future::pending::<()>().await;
}

/// What was done to the stored state by hand does not keep the active from signing: it is said, and counted. Never returns.
async fn show_condition(mut condition: watch::Receiver<StateCondition>, latch: Latch, metrics: Arc<Metrics>) {
    loop {
        let now = condition.borrow_and_update().clone();
        metrics.set_state_altered(matches!(now, StateCondition::Altered(_)));
        latch.ready(now.to_string());
        if condition.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
