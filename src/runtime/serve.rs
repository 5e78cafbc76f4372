//! `countersign serve`: one replica of a pair, put together and supervised.

mod announce;
mod bundle_endpoint;
mod distribution;
mod embedded;
mod federation;
mod gateway_secrets;
mod greeting;
mod health;
pub(super) mod histories;
mod identities;
mod istiod;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod listeners;
mod plugged_in;
#[cfg(feature = "kubernetes")]
mod policy;
mod policy_objects;
pub(super) mod proofs;
mod rotation;
mod signing;
mod surroundings;
mod tasks;
mod trust;

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::watch,
    task::spawn_blocking,
    time::sleep,
};

use self::{
    bundle_endpoint::BundleEndpoint,
    greeting::{greet, greeting},
    health::Health,
    identities::{OwnIdentities, WorkloadSocket, configure_tls, signing_tls},
    plugged_in::Follower,
    signing::Signing,
    surroundings::PairPort,
    tasks::{cut_after_grace, gone, on, until, until_failed},
    trust::{OwnSocketTrust, ReplicaTrust},
};
use super::{
    config::{Environment, ServeConfig},
    seams::{RingRandom, SystemClock},
    shutdown::{self, Shutdown},
    supervisor::Supervisor,
    telemetry,
};
use crate::{
    domain::{clock::Clock, identity::ServiceAccount, jwt::TokenIssuer, random::SecureRandom},
    grpc::{
        ca_server::serve_ca,
        pair_server::{PairServices, serve_pair},
        pair_trust::PairTrustAccess,
    },
    http::admin,
    service::{
        leadership::{Leadership, LeadershipError},
        metrics::{ExpiringCertificate, Metrics},
        policy_publisher::PolicyAccess,
        signing_state::Origin,
    },
    storage::{issuance_log::EmbeddedIssuanceLog, replica_slot::ReplicaSlot},
};

/// Why `serve` ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeFailed(String);

impl ServeFailed {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// What is in progress after the drain may take this long: a connection has 3 s to begin, then a request is held for 10 s at most.
const LEAVE_LIMIT: Duration = Duration::from_secs(15);

/// Runs a replica until it is told to leave, or a critical task ends.
///
/// # Errors
///
/// When it can't start, or a critical task ended.
pub fn run(config: ServeConfig, environment: &Environment) -> Result<(), ServeFailed> {
    // what must go on under any load has a thread of its own
    let control = runtime("control", 1)?;
    let main = runtime("main", std::thread::available_parallelism().map_or(2, std::num::NonZero::get))?;
    let traces =
        telemetry::start("countersign", config.log_format, environment, main.handle()).map_err(ServeFailed::of)?;
    listeners::raise_descriptor_limit();
    let work = async |shutdown| {
        let result = serve(config, shutdown, control.handle()).await;
        traces.end().await;
        result
    };
    let result = main.block_on(shutdown::run(work)).map_err(ServeFailed::of).flatten();
    main.shutdown_background();
    control.shutdown_background();
    result
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, ServeFailed> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().map_err(ServeFailed::of)
}

/// What every part is made with.
struct Seams {
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    metrics: Arc<Metrics>,
    /// The runtime of what load must not starve.
    #[cfg(feature = "kubernetes")]
    control: Handle,
}

impl Seams {
    #[cfg_attr(
        not(feature = "kubernetes"),
        expect(unused_variables, reason = "only a pair in Kubernetes works there itself")
    )]
    fn new(control: &Handle) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(RingRandom::new()),
            metrics: Arc::new(Metrics::new()),
            #[cfg(feature = "kubernetes")]
            control: control.clone(),
        }
    }
}

async fn serve(config: ServeConfig, shutdown: Shutdown, control: &Handle) -> Result<(), ServeFailed> {
    if let Some(istiod) = &config.istiod {
        return istiod::serve(&config, istiod, shutdown, control).await;
    }
    let seams = Seams::new(control);
    let plugged_in = match &config.ca_dir {
        Some(directory) => Some(plugged_in::load(directory, &config.trust_domain, &seams).await?),
        None => None,
    };
    let origin = plugged_in.as_ref().map_or(Origin::SelfSigned, |(_, authority)| Origin::PluggedIn(authority.clone()));
    let issuers = proofs::configured_issuers(&config.token_issuers)?;
    let mut surroundings = surroundings(&config, issuers, &seams).await?;
    let mut supervisor = Supervisor::default();
    let (tasks, finding) = (std::mem::take(&mut surroundings.tasks), std::mem::take(&mut surroundings.finding));
    tasks.into_iter().for_each(|(name, task)| supervisor.spawn(name, until(&shutdown, task)));
    let endpoint = BundleEndpoint::bind(config.bundle_endpoint.as_ref(), &seams.clock).await?;
    let greeting = greeting(&config, &surroundings, endpoint.as_ref());
    let distribution = surroundings.distribution.take();
    let policy_objects = surroundings.policy_objects.take();
    let policy_events = surroundings.policy_events.take();
    let probes = policy_objects.as_ref().map(|planned| planned.probes.clone());
    let gateway_secrets = std::mem::take(&mut surroundings.gateway_secrets);
    let leave = std::mem::replace(&mut surroundings.leave, Box::new(|| Ok(())));
    let (pair, kept_trust) = (surroundings.announced.pair(), Arc::clone(&surroundings.kept_trust));
    let mut signing = signing::assemble(&config, surroundings, origin, &seams)?;
    let (log, readiness, sessions) = (Arc::clone(&signing.log), signing.readiness.clone(), signing.sessions.clone());
    let trust = ReplicaTrust::start(&signing, kept_trust, None, (&shutdown, &mut supervisor));
    let published = trust.published.clone();
    seams.metrics.follow_trust(published.clone(), Some(Arc::clone(&trust.agents.followers)));
    let places = distribution::start(distribution, &signing, (&config, &seams), (&shutdown, &mut supervisor));
    let gateways = policy_objects.as_ref().map(|planned| Arc::clone(&planned.objects));
    rotation::start(&mut signing, (&trust, places), gateways, (&config, &seams), (&shutdown, &mut supervisor));
    policy_objects::start(policy_objects, &signing, (&shutdown, &mut supervisor));
    policy_objects::start_events(policy_events, &signing, (&shutdown, &mut supervisor));
    gateway_secrets::start(gateway_secrets, &signing, (&config, &seams), (&shutdown, &mut supervisor))?;
    let identities = OwnIdentities::new(&signing, &config, seams);
    let socket = config.workload_socket.clone().map(|path| WorkloadSocket { path, pair });
    let workload =
        start_workload_socket(socket, &config.workload, &identities, &trust, (&shutdown, &mut supervisor)).await?;
    federation::start(&signing.announcer.federation, (&shutdown, &mut supervisor));
    let Started { serving, slot, left, all_answered } =
        start_signing(signing, trust, &identities, config.drain, &shutdown, control, &mut supervisor);
    finding.into_iter().for_each(|(name, task)| supervisor.spawn(name, until_gone(task, all_answered.clone())));
    let (clock, metrics) = (Arc::clone(&identities.clock), Arc::clone(&identities.metrics));
    let of = bundle_endpoint::Of { trust: published, serving: serving.identity.clone(), clock, metrics, left };
    bundle_endpoint::start(endpoint, of, (&shutdown, &mut supervisor));
    policy_objects::start_probes(probes, serving.identity.clone(), &identities, (&shutdown, &mut supervisor));
    if let Some((files, authority)) = plugged_in {
        let latch = readiness.latch("plugged-in authority", "its files have not been looked at yet");
        supervisor.spawn("CA files", on(control, until(&shutdown, files.run(latch))));
        let followers = workload.into_iter().chain([serving]).collect();
        let renewal = plugged_in::renew_after_changes(authority, sessions, followers);
        supervisor.spawn("renewal after CA changes", until(&shutdown, renewal));
    }
    greet(&greeting)?;
    let result = supervisor.run(&shutdown, config.drain + LEAVE_LIMIT).await.map_err(ServeFailed::of);
    close(log, leave, slot).await?;
    result
}

/// The last things of all.
async fn close(
    log: Arc<EmbeddedIssuanceLog>,
    leave: Box<dyn FnOnce() -> std::io::Result<()> + Send>,
    slot: ReplicaSlot,
) -> Result<(), ServeFailed> {
    let closed = spawn_blocking(move || {
        log.close();
        let left = leave();
        drop(slot);
        left
    });
    closed.await.map_err(ServeFailed::of)?.map_err(ServeFailed::of)
}

async fn surroundings(
    config: &ServeConfig,
    issuers: Vec<TokenIssuer>,
    seams: &Seams,
) -> Result<surroundings::Surroundings, ServeFailed> {
    match &config.kubernetes {
        #[cfg(feature = "kubernetes")]
        Some(kubernetes) => kubernetes::join(config, kubernetes, issuers, seams).await,
        #[cfg(not(feature = "kubernetes"))]
        Some(_) => Err(ServeFailed("state: kubernetes is not in this build".into())),
        None => embedded::join(config, issuers, seams.random.as_ref()).await,
    }
}

async fn start_workload_socket(
    socket: Option<WorkloadSocket>,
    account: &ServiceAccount,
    identities: &OwnIdentities,
    trust: &ReplicaTrust,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<Option<Follower>, ServeFailed> {
    let Some(socket) = socket else { return Ok(None) };
    let bound = socket.bind().await.map_err(ServeFailed::of)?;
    let id = account.spiffe_id(&identities.trust_domain).map_err(ServeFailed::of)?;
    let own = OwnSocketTrust::new(trust);
    let jwt = identities.jwt_of(account.clone(), trust.agents.trust.clone());
    let (publisher, identity) = identities.workload(account.clone(), own.roots());
    identities.metrics.follow(ExpiringCertificate::Svid, publisher.stats());
    let follower = Follower { renew_now: publisher.renew_now(), identity: identity.clone() };
    trust.renew(&follower, identities, (shutdown, &mut *supervisor));
    supervisor.spawn("workload identity", until(shutdown, publisher.run()));
    let served = (own.serve(id, (shutdown, &mut *supervisor)), jwt);
    supervisor.spawn(
        "workload socket",
        socket.serve(bound, identity, served, Arc::clone(&identities.metrics), shutdown.clone()),
    );
    Ok(Some(follower))
}

/// What goes on for as long as a replica serves.
struct Started {
    serving: Follower,
    slot: ReplicaSlot,
    /// Turns true when the term is released and the drain is over.
    left: watch::Receiver<bool>,
    /// Turns true when what was in progress then is answered.
    all_answered: watch::Receiver<bool>,
}

fn start_signing(
    signing: Signing,
    trust: ReplicaTrust,
    identities: &OwnIdentities,
    drain: Duration,
    shutdown: &Shutdown,
    control: &Handle,
    supervisor: &mut Supervisor,
) -> Started {
    let Signing { create, log, history, leadership, standing, sessions, announcer, announced, pair, .. } = signing;
    let Signing { slot, ports, pair_port, denial, readiness, policy, .. } = signing;
    let rotation = announcer.rotation.clone();
    let (follower, tls_configs) = start_serving_certificate(identities, shutdown, supervisor);
    trust.renew(&follower, identities, (shutdown, &mut *supervisor));
    let ReplicaTrust { agents, replicas, .. } = trust;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health {
        readiness: readiness.clone(),
        standing,
        sessions: sessions.clone(),
        announced,
        log_writable: log.writable(),
        pair: Arc::clone(&pair),
        metrics: Arc::clone(&identities.metrics),
        serving: tls_configs.clone(),
        reporter,
    };
    let (own_sessions, enforcement) = (sessions.clone(), policy.as_ref().map(PolicyAccess::enforcement));
    let federation = Arc::clone(&announcer.federation);
    supervisor.spawn("announcements", on(control, until(shutdown, announcer.run(sessions))));

    let left = start_election(leadership, drain, shutdown, control, supervisor);
    let admin = admin::serve(
        ports.admin,
        (Arc::clone(&identities.metrics), Arc::clone(&identities.clock)),
        readiness,
        gone(left.clone()),
    );
    supervisor.spawn("admin port", on(control, cut_after_grace(admin, left.clone())));
    supervisor.spawn("health", on(control, until_gone(health.run(), left.clone())));
    supervisor.spawn("issuance log", on(control, until_unwritable(log.writable(), shutdown)));
    // what is still in progress after that needs to know who is active
    let (answered, all_answered) = watch::channel(false);
    let signers = (Arc::clone(&create), Arc::clone(&identities.mint));
    let serving = serve_ca(ports.ca, tls_configs, signers, health_service, agents, policy, gone(left.clone()));
    supervisor.spawn("signing API", async move {
        let result = serving.await;
        answered.send_replace(true);
        result
    });
    let (mint, federation) = (Arc::clone(&identities.mint), Some(federation));
    let services = PairServices { create, mint, history, denial, rotation, federation, enforcement };
    let pair_server = serve_others(pair_port, services, replicas, gone(left.clone()));
    supervisor.spawn("pair", cut_after_grace(pair_server, left.clone()));
    let watching = async move { pair.follow(own_sessions).await };
    supervisor.spawn("pair watch", on(control, until_gone(watching, all_answered.clone())));
    Started { serving: follower, slot, left, all_answered }
}

async fn until_gone(task: impl Future<Output = ()>, left: watch::Receiver<bool>) -> Result<(), ServeFailed> {
    tokio::select! {
        () = task => Err(ServeFailed("it came to its end".into())),
        () = gone(left) => Ok(()),
    }
}

/// Nothing may be signed that can't be put on record: ending lets a replica take over whose log can be written.
fn until_unwritable(
    mut writable: watch::Receiver<bool>,
    shutdown: &Shutdown,
) -> impl Future<Output = Result<(), ServeFailed>> + Send + 'static {
    until_failed(shutdown, async move {
        let _written_no_more = writable.wait_for(|writable| !writable).await.is_ok();
        "the issuance log can't be written: see the log lines above; make room on the disk, or mend it"
    })
}

async fn serve_others(
    port: PairPort,
    services: PairServices,
    trust: PairTrustAccess,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    match port {
        PairPort::Socket(listener) => serve_pair(listener, services, trust, shutdown).await,
        #[cfg(feature = "kubernetes")]
        PairPort::Tls { port, tls, peers } => {
            crate::grpc::pair_server::serve_pair_port(port, tls, services, trust, peers, shutdown).await
        }
    }
}

/// Keeps the serving certificate: what has it renewed at once, and the TLS configuration that belongs to it.
fn start_serving_certificate(
    identities: &OwnIdentities,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> (Follower, watch::Receiver<Option<Arc<ServerConfig>>>) {
    let (publisher, serving) = identities.serving();
    let follower = Follower { renew_now: publisher.renew_now(), identity: serving.clone() };
    identities.metrics.follow(ExpiringCertificate::Serving, publisher.stats());
    let (tls, tls_configs) = watch::channel(None);
    supervisor.spawn("serving certificate", until(shutdown, publisher.run()));
    supervisor
        .spawn("serving TLS", until(shutdown, configure_tls(serving, tls, Arc::clone(&identities.clock), signing_tls)));
    (follower, tls_configs)
}

/// Runs the election. The channel turns true when the term is released and `drain` is over: until then the servers go on,
/// forwarding.
fn start_election(
    leadership: Leadership,
    drain: Duration,
    shutdown: &Shutdown,
    control: &Handle,
    supervisor: &mut Supervisor,
) -> watch::Receiver<bool> {
    let (leave, left) = watch::channel(false);
    let asked = shutdown.clone();
    let election = async move {
        leadership.run(async move { asked.requested().await }).await?;
        sleep(drain).await;
        leave.send_replace(true);
        Ok::<_, LeadershipError>(())
    };
    supervisor.spawn("election", on(control, election));
    left
}

fn absolute(path: &std::path::Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
