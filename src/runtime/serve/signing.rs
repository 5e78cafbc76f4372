//! The signing side of a replica, wired: log, use case, election.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    Seams, ServeFailed,
    announce::Announcer,
    proofs,
    surroundings::{PairPort, Ports, Surroundings},
};
use crate::{
    domain::{
        leadership::{HolderId, Machine, Term},
        x509::TrustBundle,
    },
    grpc::pair_client::PairClient,
    runtime::config::ServeConfig,
    service::{
        authority_export::AuthorityExport,
        create_certificate::{CreateCertificate, Parts, SigningPolicy},
        denial::IssuanceDenial,
        issuance_history::IssuanceHistory,
        leadership::{Leadership, Standing},
        policy_publisher::PolicyAccess,
        ports::Pair as _,
        readiness::Readiness,
        signing_session::SigningSession,
        signing_state::{OpenStore, Origin, SigningState, StateSettings},
    },
    storage::{
        history::OwnHistory, issuance_log::EmbeddedIssuanceLog, replica_slot::ReplicaSlot, retention::Retention,
    },
};

/// What signs, and what decides whether it may.
pub(super) struct Signing {
    pub(super) slot: ReplicaSlot,
    pub(super) ports: Ports,
    pub(super) pair_port: PairPort,
    pub(super) create: Arc<CreateCertificate>,
    pub(super) log: Arc<EmbeddedIssuanceLog>,
    /// Of this replica alone.
    pub(super) history: Arc<dyn IssuanceHistory>,
    pub(super) leadership: Leadership,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    /// Where it is told by what client certificates are verified.
    pub(super) proving: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(super) announcer: Announcer,
    /// The term that is announced.
    pub(super) announced: watch::Receiver<Option<Term>>,
    pub(super) pair: Arc<PairClient>,
    pub(super) denial: Arc<IssuanceDenial>,
    pub(super) readiness: Readiness,
    pub(super) policy: Option<PolicyAccess>,
}

pub(super) fn assemble(
    config: &ServeConfig,
    mut surroundings: Surroundings,
    origin: Origin,
    seams: &Seams,
) -> Result<Signing, ServeFailed> {
    let policy = policy(config, &mut surroundings);
    let Surroundings { data_dir, slot, replica, ports, pair_port, pair, announced, readiness, .. } = surroundings;
    let Seams { clock, random, metrics, .. } = seams;
    let log = EmbeddedIssuanceLog::open(&data_dir, slot.lock(), Retention::default(), Arc::clone(clock));
    let log = Arc::new(log.map_err(ServeFailed::of)?);
    let history: Arc<dyn IssuanceHistory> = Arc::new(OwnHistory::new(Arc::clone(&log), slot.slot()));
    let ((session, sessions), (proving, proving_roots)) = (watch::channel(None), watch::channel(None));
    let Surroundings { election, hints, open_state, .. } = surroundings;
    let state = state(config, open_state, origin, seams);
    let machine = Machine::new(surroundings.tenure, HolderId::parse(&replica).map_err(ServeFailed::of)?, clock.boot());
    let (leadership, standing) =
        Leadership::new(machine, election, Arc::clone(&state), session, hints, Arc::clone(clock));
    let create = Arc::new(CreateCertificate::new(Parts {
        policy,
        cluster: surroundings.cluster,
        session: sessions.clone(),
        bundle: proving_roots,
        log: Arc::clone(&log) as _,
        pair: Arc::clone(&pair) as _,
        standing: standing.clone(),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        metrics: Arc::clone(metrics),
    }));
    let (operators, trust_domain) = (Arc::clone(&pair) as _, config.trust_domain.clone());
    let denial = IssuanceDenial::new(sessions.clone(), Arc::clone(&state), operators, trust_domain, Arc::clone(clock));
    let denial = Arc::new(denial);
    let (kept, active, (written, announced_term)) = (surroundings.kept_state, pair.active(), watch::channel(None));
    let export = AuthorityExport::new(sessions.clone(), state, kept, active, Arc::clone(clock), Arc::clone(random));
    let announcer = Announcer {
        data_dir,
        announced,
        written,
        history: (surroundings.histories)(Arc::clone(&history)),
        denial: Arc::clone(&denial),
        export: Arc::new(export),
        rotation: None,
        federation: super::federation::federation(config, sessions.clone(), &pair, seams)?,
        policy: surroundings.policy.as_ref().map(|access| Arc::clone(&access.publisher)),
    };
    Ok(Signing {
        slot,
        ports,
        pair_port,
        create,
        log,
        history,
        leadership,
        standing,
        sessions,
        proving,
        announcer,
        announced: announced_term,
        pair,
        denial,
        readiness,
        policy: surroundings.policy,
    })
}

fn state(config: &ServeConfig, open: OpenStore, origin: Origin, seams: &Seams) -> Arc<SigningState> {
    let (clock, random) = (Arc::clone(&seams.clock), Arc::clone(&seams.random));
    let state = SigningState::new(open, origin, config.trust_domain.clone(), clock, random);
    Arc::new(state.with_settings(settings(config)))
}

fn settings(config: &ServeConfig) -> StateSettings {
    let (default_ttl, max_ttl) = (config.ttl.default_ttl(), config.ttl.max_ttl());
    let jwt_ttl = config.jwt_svid_ttl;
    StateSettings { refresh_hint: refresh_hint(config), default_ttl, max_ttl, jwt_ttl }
}

/// Of the bundle that is published.
pub(super) fn refresh_hint(config: &ServeConfig) -> Duration {
    config.bundle_endpoint.as_ref().map_or(StateSettings::default().refresh_hint, |endpoint| endpoint.refresh_hint)
}

fn policy(config: &ServeConfig, surroundings: &mut Surroundings) -> SigningPolicy {
    SigningPolicy {
        trust_domain: config.trust_domain.clone(),
        issuers: std::mem::take(&mut surroundings.issuers),
        ttl: config.ttl,
        server_names: std::mem::take(&mut surroundings.server_names),
        istiod: surroundings.istiod.take(),
        reserved: proofs::reserved_ids(&config.trust_domain),
        replica: surroundings.replica.clone(),
    }
}
