//! What is counted and measured. Every family stands in [`MetricName`], and is registered by that.

mod citadel;
mod discovery;
mod durations;
mod federation;
mod istiod;
mod label_values;
mod names;
mod outputs;
mod policies;
mod policy_objects;
#[cfg(test)]
mod reference;
mod registry;
mod renewals;
mod trust;

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use self::{
    citadel::CitadelMetrics,
    discovery::DiscoveryMetrics,
    durations::Durations,
    federation::FederationMetrics,
    istiod::IstiodMetrics,
    names::PAIR,
    outputs::Outputs,
    policies::PolicyMetrics,
    policy_objects::PolicyObjectMetrics,
    renewals::{OfCertificate, RenewalMetrics},
    trust::TrustMetrics,
};
pub use self::{
    discovery::OpenStream,
    label_values::{
        EventOutcome, ExpiringCertificate, FetchOutcome, FollowerState, ForwardOutcome, IstiodOutcome, NoticeOutcome,
        ObjectWriteOutcome, OutputOutcome, PlaceKind, PolicyObjectState, ReloadOutcome, RenewalOutcome, RequestOutcome,
        ReviewOutcome, RootPlaceState, RootWriteOutcome, SignError, SvidKind,
    },
    names::{Described, Label, LabelValues, MetricName, Process},
};
use super::{
    ports::AuthorityKind,
    replica_identity::ReplicaIdentityReceiver,
    svid_publisher::{IdentityReceiver, RenewalStats, WorkloadIdentity},
};
use crate::domain::{clock::Timestamp, leadership::Term, x509::Certificate};

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    build: Family<[(&'static str, &'static str); 1], Gauge>,
    requests: Family<ByLabel<RequestOutcome>, Counter>,
    jwt_svids: Family<ByLabel<RequestOutcome>, Counter>,
    forwarded: Family<ByLabel<ForwardOutcome>, Counter>,
    token_reviews: Family<ByLabel<ReviewOutcome>, Counter>,
    istiod: IstiodMetrics,
    durations: Durations,
    discovery: DiscoveryMetrics,
    held: Gauge,
    active: Gauge,
    state_altered: Gauge,
    term: Gauge<u64, AtomicU64>,
    renewals: RenewalMetrics,
    authority_reloads: Family<ByLabel<ReloadOutcome>, Counter>,
    rotation_refused: Family<ByLabel<SvidKind>, Gauge>,
    root_writes: Family<ByLabel<RootWriteOutcome>, Counter>,
    root_places: Family<PlaceLabels, Gauge>,
    expiry: Family<OfCertificate, Gauge>,
    not_before: Family<OfCertificate, Gauge>,
    outputs: Outputs,
    policies: PolicyMetrics,
    policy_objects: PolicyObjectMetrics,
    trust: TrustMetrics,
    federation: FederationMetrics,
    citadel: CitadelMetrics,
    replica: Mutex<Option<ReplicaIdentityReceiver>>,
    identity: Mutex<Option<IdentityReceiver>>,
    /// Held while a page is made: what is read for one is not half replaced in another.
    page: Mutex<()>,
}

/// A request that waits for somebody to become active; counted until it is dropped.
#[derive(Debug)]
pub struct HeldRequest(Gauge);

/// One label, of an enum.
type ByLabel<V> = [(&'static str, V); 1];
/// One label, of what an operator has named.
type ByName = [(&'static str, String); 1];
/// No label: a family nevertheless, for it may have no value.
type Unlabelled = [(&'static str, &'static str); 0];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaceLabels {
    kind: PlaceKind,
    state: RootPlaceState,
}

impl Metrics {
    /// Of a replica with an authority. What is counted begins at zero; the rest appears when it is known.
    pub fn new() -> Self {
        Self::of(PAIR)
    }

    /// Of a replica in front of istiod.
    pub fn before_istiod() -> Self {
        Self::of(&[Process::BeforeIstiod])
    }

    /// Of one that signs JWT-SVIDs by keys of its own.
    pub fn before_istiod_with_keys() -> Self {
        Self::of(&[Process::Active, Process::Standby, Process::BeforeIstiod])
    }

    /// Of an agent, which signs nothing.
    pub fn of_agent() -> Self {
        Self::of(&[Process::Agent])
    }

    fn of(processes: &[Process]) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            build: Family::default(),
            requests: zeroed(RequestOutcome::ALL),
            jwt_svids: zeroed(RequestOutcome::ALL),
            forwarded: zeroed(ForwardOutcome::ALL),
            token_reviews: zeroed(ReviewOutcome::ALL),
            istiod: IstiodMetrics::new(),
            durations: Durations::new(),
            discovery: DiscoveryMetrics::default(),
            held: Gauge::default(),
            active: Gauge::default(),
            state_altered: Gauge::default(),
            term: Gauge::default(),
            rotation_refused: Family::default(),
            renewals: RenewalMetrics::new(),
            authority_reloads: zeroed(ReloadOutcome::ALL),
            root_writes: zeroed(RootWriteOutcome::ALL),
            root_places: Family::default(),
            expiry: Family::default(),
            not_before: Family::default(),
            outputs: Outputs::new(),
            policies: PolicyMetrics::new(),
            policy_objects: PolicyObjectMetrics::new(),
            trust: TrustMetrics::default(),
            federation: FederationMetrics::new(),
            citadel: CitadelMetrics::default(),
            replica: Mutex::default(),
            identity: Mutex::default(),
            page: Mutex::default(),
        };
        metrics.build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        for name in MetricName::ALL {
            if name.described().on.iter().any(|process| processes.contains(process)) {
                metrics.register(*name);
            }
        }
        metrics
    }

    /// Counts a CreateCertificate request that has ended.
    pub fn request_ended(&self, outcome: RequestOutcome) {
        self.requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request for a JWT-SVID that has ended.
    pub fn jwt_svid_ended(&self, outcome: RequestOutcome) {
        self.jwt_svids.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a change of the plugged-in authority's files.
    pub fn authority_reloaded(&self, outcome: ReloadOutcome) {
        self.authority_reloads.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a write of the roots into a place.
    pub fn root_written(&self, outcome: RootWriteOutcome) {
        self.root_writes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows how many places of a kind are in each state.
    pub fn set_places(&self, kind: PlaceKind, count_in: impl Fn(RootPlaceState) -> usize) {
        for state in RootPlaceState::ALL {
            let labels = PlaceLabels { kind, state: *state };
            self.root_places.get_or_create(&labels).set(i64::try_from(count_in(*state)).unwrap_or(i64::MAX));
        }
    }

    /// Shows no places any more: it is another replica that writes there.
    pub fn forget_places(&self) {
        self.root_places.clear();
    }

    /// Counts an attempt to pass a request on.
    pub fn forwarded(&self, outcome: ForwardOutcome) {
        self.forwarded.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a token that only the API server can judge.
    pub fn token_reviewed(&self, outcome: ReviewOutcome) {
        self.token_reviews.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request as held while the answer lives.
    pub fn hold(&self) -> HeldRequest {
        self.held.inc();
        HeldRequest(self.held.clone())
    }

    /// Shows who this replica is in the pair.
    pub fn set_role(&self, active: bool, term: Term) {
        self.active.set(i64::from(active));
        self.term.set(term.number());
    }

    /// Shows that this replica is not active, and that it knows of no other that is.
    pub fn set_inactive(&self) {
        self.active.set(0);
    }

    /// Shows whether somebody else has changed the state that this replica signs from.
    pub fn set_state_altered(&self, altered: bool) {
        self.state_altered.set(i64::from(altered));
    }

    /// Shows whether the authority of one kind is to be replaced by itself and can't be, other than by waiting.
    pub fn set_rotation_refused(&self, kind: AuthorityKind, refused: bool) {
        let kind = match kind {
            AuthorityKind::X509 => SvidKind::X509,
            AuthorityKind::Jwt => SvidKind::Jwt,
        };
        self.rotation_refused.get_or_create(&[("authority", kind)]).set(i64::from(refused));
    }

    /// Shows when the authority of one kind ends that is prepared, or that there is none.
    pub fn show_prepared(&self, kind: AuthorityKind, not_after: Option<Timestamp>) {
        self.show_expiry(prepared(kind), not_after);
    }

    /// Shows neither any more: it is for another replica to say.
    pub fn forget_rotation(&self) {
        self.rotation_refused.clear();
        [AuthorityKind::X509, AuthorityKind::Jwt].into_iter().for_each(|kind| self.forget_expiry(prepared(kind)));
    }

    /// Shows the renewals of a certificate from now on, as its publisher counts them.
    pub fn follow(&self, certificate: ExpiringCertificate, stats: Arc<RenewalStats>) {
        self.renewals.follow(certificate, Vec::new(), stats);
    }

    /// Shows the renewals of another identity of an agent, beside its first one.
    pub fn follow_other(&self, hint: &str, stats: Arc<RenewalStats>) {
        self.renewals.follow(ExpiringCertificate::Svid, vec![("identity", hint.to_owned())], stats);
    }

    /// Shows what this replica shows the others of its pair from now on.
    pub fn follow_replica(&self, identity: ReplicaIdentityReceiver) {
        *self.replica.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Shows the trust bundle that is served with this identity from now on, whatever the pair publishes.
    pub fn follow_identity(&self, identity: IdentityReceiver) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Shows from when until when a certificate is valid, or that there is none.
    pub fn show_certificate(&self, certificate: ExpiringCertificate, shown: Option<&Certificate>) {
        self.show_expiry(certificate, shown.map(Certificate::not_after));
        if let Some(shown) = shown {
            self.not_before.get_or_create(&of(certificate)).set(shown.not_before().seconds());
        }
    }

    /// Shows when something ends of which no beginning is known, or that there is none.
    pub fn show_expiry(&self, certificate: ExpiringCertificate, not_after: Option<Timestamp>) {
        match not_after {
            Some(not_after) => _ = self.expiry.get_or_create(&of(certificate)).set(not_after.seconds()),
            None => self.forget_expiry(certificate),
        }
    }

    /// Shows nothing of a certificate any more: it is another replica's.
    pub fn forget_expiry(&self, certificate: ExpiringCertificate) {
        self.expiry.remove(&of(certificate));
        self.not_before.remove(&of(certificate));
    }

    /// Everything in the OpenMetrics text format, as it is at `now`.
    pub fn page(&self, now: Timestamp) -> String {
        let _alone = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        self.renewals.read(|of, not_before, not_after| {
            self.not_before.get_or_create(of).set(not_before.seconds());
            self.expiry.get_or_create(of).set(not_after.seconds());
        });
        let published = self.trust.read();
        if let Some(identity) = self.identity() {
            self.show_roots(identity.bundle.roots());
        } else if let Some(published) = published {
            self.show_roots(&published.own.x509_authorities);
        }
        self.read_replica();
        self.citadel.read(&self.requests, |certificate| self.expiry(certificate), now);
        let mut page = String::new();
        // Writing to a string can't fail.
        let _infallible = text::encode(&mut page, &self.registry);
        page
    }

    fn identity(&self) -> Option<Arc<WorkloadIdentity>> {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        identity.as_ref()?.borrow().clone()
    }

    fn show_roots(&self, roots: &[Certificate]) {
        self.trust.show_number(roots);
        self.show_certificate(ExpiringCertificate::Root, trust::first_to_end(roots));
        self.show_certificate(ExpiringCertificate::LastRoot, trust::last_to_end(roots));
    }

    fn read_replica(&self) {
        let replica = self.replica.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(identity) = replica.as_ref().and_then(|replica| replica.borrow().clone()) else { return };
        self.show_certificate(ExpiringCertificate::Pair, Some(identity.svid.leaf()));
        self.show_certificate(ExpiringCertificate::PairAuthority, trust::first_to_end(identity.bundle.roots()));
    }

    fn expiry(&self, certificate: ExpiringCertificate) -> Option<Timestamp> {
        let seconds = self.expiry.get(&of(certificate))?.get();
        Some(Timestamp::from_seconds(seconds))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What this process has one of.
const fn of(certificate: ExpiringCertificate) -> OfCertificate {
    ([("certificate", certificate)], Vec::new())
}

const fn prepared(kind: AuthorityKind) -> ExpiringCertificate {
    match kind {
        AuthorityKind::X509 => ExpiringCertificate::PreparedAuthority,
        AuthorityKind::Jwt => ExpiringCertificate::PreparedJwtKey,
    }
}

/// With every label value present, so that a rate over the first event is not lost.
fn zeroed<O: EncodeLabelValue + Copy + Eq + std::hash::Hash>(outcomes: &[O]) -> Family<ByLabel<O>, Counter> {
    let family = Family::default();
    for outcome in outcomes {
        drop(family.get_or_create(&[("outcome", *outcome)]));
    }
    family
}

#[cfg(test)]
mod tests;
