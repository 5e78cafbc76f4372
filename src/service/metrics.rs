//! What is counted and measured. Families are registered once, all with the prefix `countersign_`; labels are enums, so
//! that no caller's text ever becomes a time series.

mod expiring;
mod federation;
mod istiod;
mod policies;
mod renewals;

use std::{
    fmt,
    fmt::Write,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

pub use self::{
    expiring::ExpiringCertificate,
    istiod::IstiodOutcome,
    outputs::{NoticeOutcome, OutputOutcome},
    policy_objects::{EventOutcome, ObjectWriteOutcome, PolicyObjectState},
    renewals::RenewalOutcome,
};
use self::{
    federation::FederationMetrics, istiod::IstiodMetrics, outputs::Outputs, policies::PolicyMetrics,
    policy_objects::PolicyObjectMetrics, renewals::RenewalMetrics,
};
use super::svid_publisher::RenewalStats;
use crate::domain::{clock::Timestamp, leadership::Term};

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Label<RequestOutcome>, Counter>,
    jwt_svids: Family<Label<RequestOutcome>, Counter>,
    forwarded: Family<Label<ForwardOutcome>, Counter>,
    token_reviews: Family<Label<ReviewOutcome>, Counter>,
    istiod: IstiodMetrics,
    held: Gauge,
    active: Gauge,
    state_altered: Gauge,
    term: Gauge<u64, AtomicU64>,
    renewals: RenewalMetrics,
    authority_reloads: Family<Label<ReloadOutcome>, Counter>,
    root_writes: Family<Label<RootWriteOutcome>, Counter>,
    root_places: Family<PlaceLabels, Gauge>,
    expiry: Family<Label<ExpiringCertificate>, Gauge>,
    outputs: Outputs,
    policies: PolicyMetrics,
    policy_objects: PolicyObjectMetrics,
    federation: FederationMetrics,
}

/// A request that waits for somebody to become active; counted until it is dropped.
#[derive(Debug)]
pub struct HeldRequest(Gauge);

/// One label with its name.
type Label<V> = [(&'static str, V); 1];

/// An enum of outcomes, each with its text as a label value.
macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}

// they need the macro
mod outputs;
mod policy_objects;

outcomes! {
    /// How a request for an SVID ended here: with one, withheld, or refused with a gRPC code.
    RequestOutcome {
        /// It was sent.
        Issued = "issued",
        /// It was signed, but the term had ended before it could be sent.
        Withheld = "withheld",
        /// The proof was refused.
        Unauthenticated = "unauthenticated",
        /// The request was refused.
        InvalidArgument = "invalid_argument",
        /// Nobody could sign in time.
        Unavailable = "unavailable",
        /// Signing failed.
        Internal = "internal",
        /// It was passed on, and the active refused it.
        RefusedByActive = "refused_by_active",
        /// It was passed on, and istiod refused it.
        RefusedByIstiod = "refused_by_istiod",
    }
}

outcomes! {
    /// How passing a request on to the active replica ended.
    ForwardOutcome {
        /// It answered, whatever the answer.
        Answered = "answered",
        /// It could not be reached, or did not answer in time.
        Failed = "failed",
    }
}

outcomes! {
    /// How a token that only the API server can judge was judged.
    ReviewOutcome {
        /// The API server accepted it.
        Accepted = "accepted",
        /// The API server refused it.
        Refused = "refused",
        /// There was no answer, or no place to wait for one.
        Unavailable = "unavailable",
        /// An answer that was kept.
        Kept = "kept",
    }
}

outcomes! {
    /// What came of a change of the plugged-in authority's files.
    ReloadOutcome {
        /// What is there now signs.
        Loaded = "loaded",
        /// The last good ones stay in use.
        Refused = "refused",
    }
}

outcomes! {
    /// What came of fetching another trust domain's bundle.
    FetchOutcome {
        /// It is another one than before.
        Updated = "updated",
        /// It is the same.
        Unchanged = "unchanged",
        /// The endpoint could not be asked, or is not who it should be.
        Unreachable = "unreachable",
        /// It answered no bundle of that trust domain.
        Invalid = "invalid",
        /// It answered an old one.
        Outdated = "outdated",
        /// It could not be kept.
        NotKept = "not_kept",
    }
}

outcomes! {
    /// What came of writing the roots into one place of the cluster.
    RootWriteOutcome {
        /// They stand there.
        Written = "written",
        /// What stood there had just been changed; it is looked at again.
        Outdated = "outdated",
        /// It was refused, or there was no answer.
        Failed = "failed",
    }
}

outcomes! {
    /// How it stands with the places of the cluster that are to hold the roots.
    RootPlaceState {
        /// All of them.
        Wanted = "wanted",
        /// They hold the roots.
        Right = "right",
        /// They hold other people's roots.
        Conflict = "conflict",
        /// Another writer insists on other roots.
        Fight = "fight",
        /// They could not be written.
        Failing = "failing",
    }
}

/// Kinds of places that hold the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlaceKind {
    /// One in each namespace.
    ConfigMap,
    /// One for the cluster.
    ClusterTrustBundle,
}

impl EncodeLabelValue for PlaceKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::ConfigMap => "config_map",
            Self::ClusterTrustBundle => "cluster_trust_bundle",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaceLabels {
    kind: PlaceKind,
    state: RootPlaceState,
}

impl Metrics {
    /// The families of a certificate authority at zero; expiries appear when they are known.
    pub fn new() -> Self {
        let mut metrics = Self::of_agent();
        let registry = &mut metrics.registry;
        registry.register("certificate_requests", "CreateCertificate requests by outcome", metrics.requests.clone());
        registry.register("jwt_svid_requests", "Requests for JWT-SVIDs by outcome", metrics.jwt_svids.clone());
        registry.register(
            "forwarded_requests",
            "Requests passed on to the active by outcome",
            metrics.forwarded.clone(),
        );
        registry.register("token_reviews", "Tokens for the API server by outcome", metrics.token_reviews.clone());
        registry.register(
            "authority_reloads",
            "Changes of the plugged-in authority's files by outcome",
            metrics.authority_reloads.clone(),
        );
        registry.register(
            "root_writes",
            "Writes of the roots into the cluster by outcome",
            metrics.root_writes.clone(),
        );
        registry.register(
            "root_places",
            "Objects of the cluster that are to hold the roots, by kind and state; on the active replica",
            metrics.root_places.clone(),
        );
        metrics.policy_objects.register(registry);
        metrics.federation.register(registry);
        metrics.policies.register_probes(registry);
        registry.register("held_requests", "Requests that wait for an active replica", metrics.held.clone());
        registry.register("active", "1 while this replica holds the term, else 0", metrics.active.clone());
        registry.register(
            "state_altered",
            "1 while the stored state is not what this replica acknowledged, else 0",
            metrics.state_altered.clone(),
        );
        registry.register("term", "The highest term that this replica knows", metrics.term.clone());
        metrics
    }

    /// The families of an agent, which signs nothing.
    pub fn of_agent() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("countersign"),
            requests: zeroed(RequestOutcome::ALL),
            jwt_svids: zeroed(RequestOutcome::ALL),
            forwarded: zeroed(ForwardOutcome::ALL),
            token_reviews: zeroed(ReviewOutcome::ALL),
            istiod: IstiodMetrics::default(),
            held: Gauge::default(),
            active: Gauge::default(),
            state_altered: Gauge::default(),
            term: Gauge::default(),
            renewals: RenewalMetrics::default(),
            authority_reloads: zeroed(ReloadOutcome::ALL),
            root_writes: zeroed(RootWriteOutcome::ALL),
            root_places: Family::default(),
            expiry: Family::default(),
            outputs: Outputs::new(),
            policies: PolicyMetrics::default(),
            policy_objects: PolicyObjectMetrics::new(),
            federation: FederationMetrics::new(),
        };
        let registry = &mut metrics.registry;
        metrics.renewals.register(registry);
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "NotAfter of the certificates that this process depends on, as Unix time",
            metrics.expiry.clone(),
        );
        metrics.outputs.register(registry);
        metrics.policies.register(registry);
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

    /// Shows the renewals of a certificate from now on, as its publisher counts them.
    pub fn follow(&self, certificate: ExpiringCertificate, stats: Arc<RenewalStats>) {
        self.renewals.follow(certificate, stats);
    }

    /// Shows when a certificate ends.
    pub fn set_expiry(&self, certificate: ExpiringCertificate, not_after: Timestamp) {
        self.expiry.get_or_create(&[("certificate", certificate)]).set(not_after.seconds());
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        self.renewals.read(|certificate, not_after| self.set_expiry(certificate, not_after));
        let mut page = String::new();
        // Writing to a string can't fail.
        let _infallible = text::encode(&mut page, &self.registry);
        page
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

/// With every label value present, so that a rate over the first event is not lost.
fn zeroed<O: EncodeLabelValue + Copy + Eq + std::hash::Hash>(outcomes: &[O]) -> Family<Label<O>, Counter> {
    let family = Family::default();
    for outcome in outcomes {
        drop(family.get_or_create(&[("outcome", *outcome)]));
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(metrics: &Metrics, start: &str) -> Option<String> {
        metrics.encode().lines().find(|line| line.starts_with(start)).map(str::to_owned)
    }

    #[test]
    fn starts_with_every_outcome_at_zero_and_no_expiry() {
        let page = Metrics::new().encode();
        for outcome in ["issued", "withheld", "unauthenticated", "invalid_argument", "unavailable", "internal"] {
            let line = format!("countersign_certificate_requests_total{{outcome=\"{outcome}\"}} 0\n");
            assert!(page.contains(&line), "{page}");
        }
        assert!(!page.contains("countersign_certificate_expiry_timestamp_seconds{"), "{page}");
        assert!(page.lines().all(|line| line.starts_with('#') || line.starts_with("countersign_")), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn counts_and_shows() {
        let metrics = Metrics::new();
        metrics.request_ended(RequestOutcome::Issued);
        metrics.request_ended(RequestOutcome::Issued);
        metrics.forwarded(ForwardOutcome::Failed);
        let stats = Arc::<RenewalStats>::default();
        metrics.follow(ExpiringCertificate::Svid, Arc::clone(&stats));
        metrics.set_role(true, Term::new(7));
        metrics.set_expiry(ExpiringCertificate::Svid, Timestamp::from_seconds(1_800_000_000));
        for expected in [
            "countersign_certificate_requests_total{outcome=\"issued\"} 2",
            "countersign_forwarded_requests_total{outcome=\"failed\"} 1",
            "countersign_svid_renewals_total{outcome=\"renewed\"} 0",
            "countersign_active 1",
            "countersign_term 7",
            "countersign_certificate_expiry_timestamp_seconds{certificate=\"svid\"} 1800000000",
        ] {
            assert_eq!(line(&metrics, expected).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_request_is_held_as_long_as_its_guard_lives() {
        let metrics = Metrics::new();
        let (one, two) = (metrics.hold(), metrics.hold());
        assert_eq!(line(&metrics, "countersign_held_requests ").unwrap(), "countersign_held_requests 2");
        drop((one, two));
        assert_eq!(line(&metrics, "countersign_held_requests ").unwrap(), "countersign_held_requests 0");
    }
}
