//! Policies where istiod signs. Callers are attested for this alone; requests for certificates are passed on as ever. The mesh's
//! roots, as they are followed to verify istiod by, are what certificates of gateways and of other replicas are verified by, and
//! what gateways are given.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::{lease::Member, while_held::WhileHeld};
use crate::{
    domain::x509::TrustBundle,
    grpc::{
        known_peers::KnownPeers,
        pair_client::PairClient,
        pair_server::{MeshPairServices, serve_mesh_pair_port, serve_policy_operator},
        pair_tls::{PairTls, mesh_pair_tls},
        unix_listener::WorkloadListener,
    },
    k8s::client::{Client, client},
    runtime::{
        config::{FollowedPolicy, IstiodClusterConfig, ServeConfig},
        serve::{
            Seams, ServeFailed, cut_after_grace, gone,
            kubernetes::cluster,
            listeners::{listen, private},
            policy::{self, Followed},
            policy_objects::probes,
            proofs::reserved_ids,
            surroundings::{PlannedObjects, Tasks},
            until,
        },
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        caller_attestation::{CallerAttestation, Identify},
        istiod_pass_on::KnownRoots,
        policy_enforcement::PolicyEnforcement,
        policy_publisher::{PolicyAccess, PolicyPublisher},
        readiness::Readiness,
        svid_publisher::IdentityReceiver,
    },
    storage::data_dir::DataDir,
};

/// The operator's socket may be that of a process that is just ending.
const RETRY: Duration = Duration::from_secs(1);

/// What of this replica is there already.
pub(super) struct Of<'a> {
    pub(super) config: &'a ServeConfig,
    pub(super) seams: &'a Seams,
    pub(super) readiness: &'a Readiness,
    /// Turns true when the servers are to end.
    pub(super) left: watch::Receiver<bool>,
    /// The mesh's.
    pub(super) roots: watch::Receiver<KnownRoots>,
    /// What istiod signed for the replica itself.
    pub(super) serving: IdentityReceiver,
}

/// What is told to gateways, and who says which of them it is that asks.
pub(super) type Told = (PolicyAccess, Arc<dyn Identify>);

pub(super) type Bundle = watch::Receiver<Option<Arc<TrustBundle>>>;

/// Follows them, if that is asked for.
pub(super) async fn start(
    member: &Member,
    cluster_config: &IstiodClusterConfig,
    of: Of<'_>,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<Option<Told>, ServeFailed> {
    let Some(followed) = &cluster_config.policy else { return Ok(None) };
    let client = client(cluster_config.kubeconfig.as_deref()).await.map_err(ServeFailed::of)?;
    let (known, bundle) = watch::channel(None);
    supervisor.spawn("policy roots", until(shutdown, tell_bundles(of.roots.clone(), known)));
    let mut tasks = Tasks::new();
    let (access, objects) = follow(&client, (followed, &cluster_config.istio_namespace), member, &of, &mut tasks);
    let callers = callers(&client, followed, member, (&access, &bundle), &of, &mut tasks);
    join_others(followed, member, (access.enforcement(), &bundle), &of, (&mut tasks, supervisor)).await?;
    let Seams { clock, random, metrics, .. } = of.seams;
    let events = policy::events(&client, &member.replica, &access.publisher, (clock, metrics));
    let saying = events.run(member.held.clone());
    tasks.push(("policy events", Box::pin(async move { match saying.await {} })));
    if let Some(PlannedObjects { objects, plans, probes: planned }) = objects {
        let probing = probes(planned, of.serving.clone(), (clock, random, metrics));
        tasks.push(("policy probes", Box::pin(async move { match probing.await {} })));
        let clock = Arc::clone(clock);
        let trusted = move |term: &_| WhileHeld::new(term, &clock, &bundle);
        let latch = of.readiness.latch("policy objects", "not begun");
        let writing = objects.run(member.held.clone(), trusted, plans, latch);
        tasks.push(("policy objects", Box::pin(async move { match writing.await {} })));
    }
    let data_dir = DataDir::open(&of.config.data_dir).map_err(ServeFailed::of)?;
    let publisher = Arc::clone(&access.publisher);
    tasks.push(("operator socket", Box::pin(async move { match serve_operator(data_dir, publisher).await {} })));
    tasks.into_iter().for_each(|(name, task)| supervisor.spawn(name, until(shutdown, task)));
    Ok(Some((access, callers)))
}

/// The bundles among what is known of the roots. Never returns.
async fn tell_bundles(mut roots: watch::Receiver<KnownRoots>, known: watch::Sender<Option<Arc<TrustBundle>>>) {
    loop {
        let newest = roots.borrow_and_update().bundle.clone();
        known.send_if_modified(|told| {
            let is_news = *told != newest;
            *told = newest;
            is_news
        });
        if roots.changed().await.is_err() {
            // whoever follows them has ended, and says so itself
            std::future::pending::<()>().await;
        }
    }
}

fn follow(
    client: &Client,
    (followed, istio_namespace): (&FollowedPolicy, &str),
    member: &Member,
    of: &Of<'_>,
    tasks: &mut Tasks,
) -> (PolicyAccess, Option<PlannedObjects>) {
    let mesh = Followed { policy: &followed.policy, trust_domain: &of.config.trust_domain, istio_namespace };
    policy::start(client, &mesh, &member.replica, (&of.seams.clock, &of.seams.metrics), tasks)
}

fn callers(
    client: &Client,
    followed: &FollowedPolicy,
    member: &Member,
    (access, bundle): (&PolicyAccess, &Bundle),
    of: &Of<'_>,
    tasks: &mut Tasks,
) -> Arc<dyn Identify> {
    let cluster = cluster(client, &followed.reviews, Some(Arc::clone(&access.publisher)), of.seams, tasks);
    Arc::new(CallerAttestation {
        trust_domain: of.config.trust_domain.clone(),
        issuers: Vec::new(),
        reserved: reserved_ids(&of.config.trust_domain),
        cluster: Some(cluster),
        bundle: bundle.clone(),
        replica: member.replica.clone(),
        clock: Arc::clone(&of.seams.clock),
    })
}

/// The replicas tell each other what agents say to them.
async fn join_others(
    followed: &FollowedPolicy,
    member: &Member,
    (enforcement, bundle): (Arc<PolicyEnforcement>, &Bundle),
    of: &Of<'_>,
    (tasks, supervisor): (&mut Tasks, &mut Supervisor),
) -> Result<(), ServeFailed> {
    let (port, _) = listen("pairListen", followed.pair.listen).await.map_err(ServeFailed::of)?;
    let clock = Arc::clone(&of.seams.clock);
    let (PairTls { server, client }, configuring) =
        mesh_pair_tls(of.serving.clone(), bundle.clone(), Arc::clone(&clock));
    tasks.push(("pair TLS", Box::pin(configuring)));
    let known = Arc::new(KnownPeers::new(member.holder.clone(), followed.pair.address));
    if let Some((name, port)) = followed.pair.service.clone() {
        let known = Arc::clone(&known);
        tasks.push(("pair Service", Box::pin(async move { known.resolve(&name, port).await })));
    }
    let (replica, held) = (member.replica.clone(), member.held.clone());
    let directory = Arc::clone(&known) as _;
    let mut dial = client.clone();
    let pair = Arc::new(PairClient::over_network(directory, replica.clone(), followed.pair.address, client));
    let (asking, own) = (Arc::clone(&pair), held.clone());
    let watching = async move {
        // which may be long: istiod need not be there
        let _certified = dial.wait_for(Option::is_some).await.is_ok();
        asking.follow(own).await;
    };
    tasks.push(("pair watch", Box::pin(watching)));
    let reports = Arc::clone(&enforcement);
    tasks.push(("policy reports", Box::pin(async move { match pair.pass_reports(reports).await {} })));
    let services = MeshPairServices { replica, held, enforcement, known, clock };
    let serving = serve_mesh_pair_port(port, server, services, gone(of.left.clone()));
    supervisor.spawn("pair", cut_after_grace(serving, of.left.clone()));
    Ok(())
}

async fn serve_operator(data_dir: DataDir, publisher: Arc<PolicyPublisher>) -> Infallible {
    loop {
        let failure = match WorkloadListener::bind(&data_dir.admin_socket(), private()).await {
            Ok(listener) => {
                serve_policy_operator(listener, Arc::clone(&publisher)).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = failure {
            warn!(event = "operator_socket_failed", reason);
        }
        sleep(RETRY).await;
    }
}
