//! A pair in front of istiod that signs JWT-SVIDs: it has what a pair with an authority has, but for the authority. Certificates are
//! istiod's as ever, and nothing of this keeps a replica from passing requests for them on.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    OwnCertificate, addresses, gateway_secrets, health::Health, roots, start_passing_on, start_serving_certificate,
    while_held::WhileHeld,
};
use crate::{
    domain::leadership::Role,
    grpc::{
        ca_server::{OwnKeys, serve_pass_on},
        pair_client::PairClient,
        pair_server::PairServices,
    },
    http::admin,
    runtime::{
        config::{IstiodClusterConfig, IstiodConfig, KubernetesConfig, ServeConfig},
        serve::{
            LEAVE_LIMIT, Seams, ServeFailed,
            bundle_endpoint::{self, BundleEndpoint},
            close, cut_after_grace, federation, gone,
            greeting::greet,
            health::{forget_expiry, show_expiry},
            kubernetes, on,
            policy_objects::{probes, start_events},
            rotation, serve_others,
            signing::{self, Signing},
            start_election,
            surroundings::{PlannedObjects, Surroundings, Tasks},
            trust::ReplicaTrust,
            until, until_gone,
        },
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        istiod_pass_on::PassOn,
        leadership::Standing,
        mesh_trust::{MeshTrust, tell_roots},
        metrics::Metrics,
        mint_jwt_svid::MintJwtSvid,
        policy_publisher::PolicyAccess,
        readiness::{Latch, Readiness},
        signing_session::SigningSession,
        signing_state::{MeshRoots, MeshRootsReceiver, Origin},
    },
    storage::{issuance_log::EmbeddedIssuanceLog, replica_slot::ReplicaSlot},
};

/// What signs is another one after a rotation, and who is active may be heard of late.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs it until it is told to leave, or a critical task ends. `pair` is what of `cluster` such a pair goes by.
pub(super) async fn serve(
    config: &ServeConfig,
    (istiod, cluster, pair): (&IstiodConfig, &IstiodClusterConfig, &KubernetesConfig),
    shutdown: Shutdown,
    control: &Handle,
) -> Result<(), ServeFailed> {
    let seams = Seams { metrics: Arc::new(Metrics::before_istiod_with_keys()), ..Seams::new(control) };
    let (readiness, mut supervisor) = (Readiness::default(), Supervisor::default());
    let joined = kubernetes::join(config, pair, Vec::new(), &seams).await?;
    // what is known of the state is of JWT-SVIDs alone: it is said, but certificates don't wait for it
    let mut surroundings = Surroundings { readiness: readiness.clone(), distribution: None, ..joined };
    let (tasks, finding) = (std::mem::take(&mut surroundings.tasks), std::mem::take(&mut surroundings.finding));
    tasks.into_iter().for_each(|(name, task)| supervisor.spawn(name, until(&shutdown, task)));
    let endpoint = BundleEndpoint::bind(config.bundle_endpoint.as_ref(), &seams.clock).await?;
    let greeting = greeting(istiod, &surroundings, endpoint.as_ref());
    let (objects, events) = (surroundings.policy_objects.take(), surroundings.policy_events.take());
    let namespace = std::mem::take(&mut surroundings.gateway_secrets).publisher;
    let leave = std::mem::replace(&mut surroundings.leave, Box::new(|| Ok(())));
    let kept_trust = Arc::clone(&surroundings.kept_trust);

    let roots = roots::start(config, istiod, &shutdown, &mut supervisor).await?;
    let pass_on = start_passing_on(config, istiod, &roots, (&seams, &readiness), (&shutdown, &mut supervisor)).await?;
    let own = start_serving_certificate(config, istiod, &pass_on, &roots, &seams, &shutdown, &mut supervisor);
    let ((told, mesh_roots), (read, read_in)) = (watch::channel(None), watch::channel(None));
    let (trust_domain, known) = (config.trust_domain.clone(), roots.known.clone());
    let mesh = roots.object.clone().map(|object| MeshTrust { trust_domain, object, known });
    let origin = Origin::Istiod(MeshRoots { known: mesh_roots.clone(), read_in });
    let mut signing = signing::assemble(config, surroundings, origin, &seams)?;
    if let Some(mesh) = mesh.clone() {
        let telling = tell_roots(mesh, signing.sessions.clone(), told, read);
        supervisor.spawn("roots for the bundle", until(&shutdown, async move { match telling.await {} }));
    }
    let trust = ReplicaTrust::start(&signing, kept_trust, Some(mesh_roots.clone()), (&shutdown, &mut supervisor));
    seams.metrics.follow_trust(trust.published.clone(), Some(Arc::clone(&trust.agents.followers)));
    rotation::start(&mut signing, (&trust, None), None, (config, &seams), (&shutdown, &mut supervisor));
    federation::start(&signing.announcer.federation, (&shutdown, &mut supervisor));
    start_events(events, &signing, (&shutdown, &mut supervisor));
    start_objects(objects, (&signing, &mesh_roots), &own, &seams, (&shutdown, &mut supervisor));
    if let Some(trust) = mesh {
        let cluster_id = istiod.cluster_id.clone();
        let signer = gateway_secrets::Signer { pass_on: Arc::clone(&pass_on), trust, cluster_id };
        let term = (namespace.as_str(), signing.sessions.clone());
        gateway_secrets::start(term, cluster, signer, &readiness, (config, &seams), (&shutdown, &mut supervisor))
            .await?;
    }

    let front = Front { pass_on, own, endpoint, trust };
    let (log, slot) = start_ports(signing, front, finding, (config, &seams), (&shutdown, &mut supervisor));
    greet(&greeting)?;
    let result = supervisor.run(&shutdown, config.drain + LEAVE_LIMIT).await.map_err(ServeFailed::of);
    close(log, leave, slot).await?;
    result
}

/// What is answered from.
struct Front {
    pass_on: Arc<PassOn>,
    own: OwnCertificate,
    endpoint: Option<BundleEndpoint>,
    trust: ReplicaTrust,
}

/// Begins to stand for election, and to answer. Returns what is closed last.
fn start_ports(
    signing: Signing,
    Front { pass_on, own, endpoint, trust }: Front,
    finding: Tasks,
    (config, seams): (&ServeConfig, &Seams),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> (Arc<EmbeddedIssuanceLog>, ReplicaSlot) {
    let Signing { slot, ports, pair_port, create, log, history, leadership, standing, sessions, .. } = signing;
    let Signing { announcer, pair, denial, policy, readiness, .. } = signing;
    let Seams { clock, metrics, control, .. } = seams;
    let left = start_election(leadership, config.drain, shutdown, control, supervisor);
    let (published, serving, until_left) = (trust.published.clone(), own.identity, left.clone());
    let (of_clock, of_metrics) = (Arc::clone(clock), Arc::clone(metrics));
    let of = bundle_endpoint::Of { trust: published, serving, clock: of_clock, metrics: of_metrics, left: until_left };
    bundle_endpoint::start(endpoint, of, (shutdown, supervisor));
    let (rotation, federation) = (announcer.rotation.clone(), Some(Arc::clone(&announcer.federation)));
    supervisor.spawn("announcements", on(control, until(shutdown, announcer.run(sessions.clone()))));
    let latch = readiness.latch("JWT-SVIDs", "the election has not begun");
    let showing = show(standing, sessions.clone(), Arc::clone(&pair), latch, Arc::clone(metrics));
    supervisor.spawn("standing", until(shutdown, async move { match showing.await {} }));
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health { readiness: readiness.clone(), serving: own.tls.clone(), reporter };
    supervisor.spawn("health", on(control, until(shutdown, health.run())));
    let admin = admin::serve(ports.admin, (Arc::clone(metrics), Arc::clone(clock)), readiness, gone(left.clone()));
    supervisor.spawn("admin port", on(control, cut_after_grace(admin, left.clone())));

    let mint = Arc::new(MintJwtSvid::new(Arc::clone(&create), config.jwt_svid_ttl));
    let keys = OwnKeys { mint: Arc::clone(&mint), create: Arc::clone(&create), trust: trust.agents };
    let enforcement = policy.as_ref().map(PolicyAccess::enforcement);
    let policy = policy.map(|access| (access, Arc::clone(&create) as _));
    let serving = serve_pass_on(ports.ca, own.tls, (pass_on, Some(keys)), health_service, policy, gone(left.clone()));
    // what is still in progress after that needs to know who is active
    let (answered, all_answered) = watch::channel(false);
    supervisor.spawn("signing API", async move {
        let result = serving.await;
        answered.send_replace(true);
        result
    });
    let services = PairServices { create, mint, history, denial, rotation, federation, enforcement };
    let others = serve_others(pair_port, services, trust.replicas, gone(left.clone()));
    supervisor.spawn("pair", cut_after_grace(others, left));
    let watching = async move { pair.follow(sessions).await };
    supervisor.spawn("pair watch", on(control, until_gone(watching, all_answered.clone())));
    finding.into_iter().for_each(|(name, task)| supervisor.spawn(name, until_gone(task, all_answered.clone())));
    (log, slot)
}

fn greeting(istiod: &IstiodConfig, surroundings: &Surroundings, endpoint: Option<&BundleEndpoint>) -> String {
    let Surroundings { ports, .. } = surroundings;
    format!(
        "passes requests on to istiod at {}, and signs JWT-SVIDs\n  signing API      {}\n  health, metrics  http://{}/readyz /livez \
         /metrics\n{}",
        addresses::in_words(istiod),
        ports.ca_address,
        ports.admin_address,
        endpoint.map(|endpoint| endpoint.line() + "\n").unwrap_or_default()
    )
}

/// What the active writes for gateways, by the mesh's roots, and what every replica looks at for it.
fn start_objects(
    planned: Option<PlannedObjects>,
    (signing, roots): (&Signing, &MeshRootsReceiver),
    own: &OwnCertificate,
    seams: &Seams,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) {
    let Some(PlannedObjects { objects, plans, probes: planned }) = planned else { return };
    let Seams { clock, random, metrics, .. } = seams;
    let probing = probes(planned, own.identity.clone(), (clock, random, metrics));
    supervisor.spawn("policy probes", until(shutdown, async move { match probing.await {} }));
    let (clock, roots) = (Arc::clone(clock), roots.clone());
    let trusted = move |session: &Arc<SigningSession>| WhileHeld::new(session, &clock, &roots);
    let latch = signing.readiness.latch("policy objects", "not begun");
    let writing = objects.run(signing.sessions.clone(), trusted, plans, latch);
    supervisor.spawn("policy objects", until(shutdown, async move { match writing.await {} }));
}

/// Who signs, and until when what signs does. Never returns.
async fn show(
    mut standing: watch::Receiver<Standing>,
    sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    pair: Arc<PairClient>,
    latch: Latch,
    metrics: Arc<Metrics>,
) -> Infallible {
    loop {
        let Standing { role, term, trouble } = standing.borrow_and_update().clone();
        let own = trouble.map_or_else(String::new, |trouble| format!("; here: {trouble}"));
        if let (Role::Active, Some(term)) = (role, term) {
            metrics.set_role(true, term);
            if let Some(session) = sessions.borrow().as_deref() {
                show_expiry(session, &metrics);
            }
            latch.ready(format!("active in term {term}{own}"));
        } else {
            forget_expiry(&metrics);
            match pair.active_or_why_not() {
                Ok(active) => {
                    metrics.set_role(false, active.term);
                    latch.ready(format!("standby; {} is active in term {}{own}", active.replica, active.term));
                }
                Err(reason) => {
                    metrics.set_inactive();
                    latch.ready(format!("none are signed now, for no replica is active: {reason}{own}"));
                }
            }
        }
        if let Ok(Err(_ended)) = timeout(LOOK_EVERY, standing.changed()).await {
            sleep(LOOK_EVERY).await;
        }
    }
}
