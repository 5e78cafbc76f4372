//! The signing side of a replica, wired: log, use case, election.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ServeFailed, announce::Announcer, histories::AllHistories, place::Place, proofs};
use crate::{
    domain::{
        clock::Clock,
        jwt::TokenIssuer,
        leadership::{HolderId, Machine, Tenure, Term},
        random::SecureRandom,
    },
    grpc::pair_client::PairClient,
    runtime::config::ServeConfig,
    service::{
        create_certificate::{CreateCertificate, Parts, SigningPolicy},
        denial::IssuanceDenial,
        issuance_history::IssuanceHistory,
        leadership::{Hints, Leadership, Standing},
        metrics::Metrics,
        readiness::Readiness,
        signing_session::SigningSession,
        signing_state::{Origin, SigningState, root_of},
    },
    storage::{
        embedded_election::EmbeddedElection, history::OwnHistory, issuance_log::EmbeddedIssuanceLog,
        retention::Retention,
    },
};

/// What signs, and what decides whether it may.
pub(super) struct Signing {
    pub(super) create: Arc<CreateCertificate>,
    pub(super) log: Arc<EmbeddedIssuanceLog>,
    /// Of this replica alone.
    pub(super) history: Arc<dyn IssuanceHistory>,
    pub(super) leadership: Leadership,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    pub(super) announcer: Announcer,
    pub(super) announced: watch::Receiver<Option<Term>>,
    pub(super) pair: Arc<PairClient>,
    pub(super) readiness: Readiness,
}

pub(super) fn assemble(
    config: &ServeConfig,
    place: &Place,
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn SecureRandom>,
    metrics: &Arc<Metrics>,
    origin: Origin,
    configured: Vec<TokenIssuer>,
) -> Result<Signing, ServeFailed> {
    let issuers = std::iter::once(proofs::embedded_issuer(&place.data_dir)?).chain(configured).collect();
    let slot = place.slot.slot();
    let log = EmbeddedIssuanceLog::open(&place.data_dir, place.slot.lock(), Retention::default(), Arc::clone(clock));
    let log = Arc::new(log.map_err(ServeFailed::of)?);
    let history: Arc<dyn IssuanceHistory> = Arc::new(OwnHistory::new(Arc::clone(&log), slot));
    let (session, sessions) = watch::channel(None);
    let (bundle, bundles) = watch::channel(None);
    let replica = place.slot.replica().to_owned();
    let pair = Arc::new(PairClient::new(Arc::new(place.pair.clone()), replica.clone()));
    let create = Arc::new(CreateCertificate::new(Parts {
        policy: SigningPolicy {
            trust_domain: config.trust_domain.clone(),
            issuers,
            ttl: config.ttl,
            server_names: config.dns_names.clone(),
            istiod: None,
            reserved: proofs::reserved_ids(&config.trust_domain),
            replica: replica.clone(),
        },
        cluster: None,
        session: sessions.clone(),
        bundle: bundles,
        log: Arc::clone(&log) as _,
        pair: Arc::clone(&pair) as _,
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        metrics: Arc::clone(metrics),
    }));
    let election = EmbeddedElection::new(place.data_dir.clone());
    let opener = election.clone();
    let open = Box::new(move || opener.open_store(root_of));
    let state = SigningState::new(open, origin, config.trust_domain.clone(), Arc::clone(clock), Arc::clone(random));
    let state = Arc::new(state);
    let denial =
        IssuanceDenial::new(sessions.clone(), Arc::clone(&state), config.trust_domain.clone(), Arc::clone(clock));
    let holder = HolderId::parse(&replica).map_err(ServeFailed::of)?;
    let machine = Machine::new(Tenure::Lock, holder, clock.boot());
    let (leadership, standing) =
        Leadership::new(machine, Arc::new(election), state, session, Hints::new(), Arc::clone(clock));
    let (announce, announced) = watch::channel(None);
    let announcer = Announcer {
        data_dir: place.data_dir.clone(),
        pair: place.pair.clone(),
        entry: place.entry.clone(),
        bundle,
        announced: announce,
        history: Arc::new(AllHistories { data_dir: place.data_dir.clone(), own: Some((slot, Arc::clone(&history))) }),
        denial: Arc::new(denial),
    };
    let readiness = Readiness::default();
    Ok(Signing { create, log, history, leadership, standing, sessions, announcer, announced, pair, readiness })
}
