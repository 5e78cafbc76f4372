//! Every family of time series: its name, what it means, its labels, and which processes have it. From this list families are
//! registered, and `docs/metrics.md` is made.

use prometheus_client::metrics::MetricType;

use self::{
    LabelValues::{OneOf, Text},
    Process::{Active, Agent, BeforeIstiod, Standby},
};
use super::{
    label_values::{
        EventOutcome, ExpiringCertificate, FetchOutcome, FollowerState, ForwardOutcome, IstiodOutcome, NoticeOutcome,
        ObjectWriteOutcome, OutputOutcome, PlaceKind, PolicyObjectState, ReloadOutcome, RenewalOutcome, RequestOutcome,
        ReviewOutcome, RootPlaceState, RootWriteOutcome, SignError, SvidKind,
    },
    policies::PROBE_OUTCOMES,
};

/// What is told of a family.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// As queries have it, without a counter's `_total`.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: MetricType,
    /// Its labels.
    pub labels: &'static [Label],
    /// Which processes can have it.
    pub on: &'static [Process],
    /// What it means.
    pub help: &'static str,
}

/// A label.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: LabelValues,
}

/// What a label may say.
#[derive(Clone, Copy, Debug)]
pub enum LabelValues {
    /// One of these.
    OneOf(&'static [&'static str]),
    /// What is described so, of which an operator determines how many there are.
    Text(&'static str),
}

/// Those that have metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A replica with an authority, while it holds the term.
    Active,
    /// Such a replica while another one does.
    Standby,
    /// A replica in front of istiod.
    BeforeIstiod,
    /// An agent.
    Agent,
}

/// Those with an authority.
pub(super) const PAIR: &[Process] = &[Active, Standby];
const REPLICAS: &[Process] = &[Active, Standby, BeforeIstiod];
const ACTIVES: &[Process] = &[Active, BeforeIstiod];
/// Those that serve a workload socket.
const SOCKETS: &[Process] = &[Active, Standby, Agent];
const EVERYBODY: &[Process] = &[Active, Standby, BeforeIstiod, Agent];

const OUTPUT: LabelValues = Text("its name: `socket`, `files`, or a Secret as `NAMESPACE/NAME`");
const RENEWED: LabelValues = OneOf(&["svid", "serving"]);
/// Of a key nothing tells since when there is one.
const BEGUN: LabelValues = OneOf(&[
    "svid",
    "root",
    "last_root",
    "authority",
    "intermediate",
    "serving",
    "pair",
    "pair_authority",
    "bundle_endpoint",
    "istiod",
]);
const IDENTITY: LabelValues = Text("the hint of an identity beside an agent's first one, which has no such label");
const PARTNER: LabelValues = Text("another trust domain");
const OBJECT_KINDS: LabelValues = OneOf(&["ConfigMap", "Secret", "BackendTLSPolicy"]);

macro_rules! names {
    ($($name:ident: $kind:ident $text:literal { $($label:ident: $values:expr),* } $on:expr, $help:literal;)+) => {
        /// A family by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum MetricName { $(#[doc = $help] $name,)+ }

        impl MetricName {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// What is told of it.
            pub const fn described(self) -> Described {
                match self { $(Self::$name => Described {
                    name: $text,
                    kind: MetricType::$kind,
                    labels: &[$(Label { name: stringify!($label), values: $values }),*],
                    on: $on,
                    help: $help,
                },)+ }
            }
        }
    };
}

names! {
    BuildInfo: Gauge "countersign_build_info" { version: Text("as `countersign --version` says") } EVERYBODY,
        "1 for the version of this process";

    Active: Gauge "countersign_active" {} REPLICAS,
        "1 while this replica holds the term, else 0";
    Term: Gauge "countersign_term" {} REPLICAS,
        "The highest term that this replica knows";
    StateAltered: Gauge "countersign_state_altered" {} PAIR,
        "1 while the stored state is not what this replica acknowledged, else 0";

    CertificateRequests: Counter "countersign_certificate_requests" { outcome: OneOf(RequestOutcome::TEXTS) } REPLICAS,
        "CreateCertificate requests by outcome, counted where the caller asked; each that was withheld is counted again with what it ended with";
    JwtSvidRequests: Counter "countersign_jwt_svid_requests" { outcome: OneOf(RequestOutcome::TEXTS) } PAIR,
        "Requests for JWT-SVIDs by outcome";
    RequestDuration: Histogram "countersign_certificate_request_duration_seconds" {} REPLICAS,
        "How long CreateCertificate requests took, counted where the caller asked: waiting, passing on and refusals included";
    SigningDuration: Histogram "countersign_signing_duration_seconds" {} PAIR,
        "How long it took to sign a certificate and to have it on record; on the active alone it grows";
    HeldRequests: Gauge "countersign_held_requests" {} PAIR,
        "Requests that wait for an active replica";
    ForwardedRequests: Counter "countersign_forwarded_requests" { outcome: OneOf(ForwardOutcome::TEXTS) } PAIR,
        "Requests passed on to the active by outcome";
    TokenReviews: Counter "countersign_token_reviews" { outcome: OneOf(ReviewOutcome::TEXTS) } REPLICAS,
        "Tokens for the API server by outcome";
    AuthorityReloads: Counter "countersign_authority_reloads" { outcome: OneOf(ReloadOutcome::TEXTS) } PAIR,
        "Changes of the plugged-in authority's files by outcome";

    IstiodRequests: Counter "countersign_istiod_requests" { outcome: OneOf(IstiodOutcome::TEXTS) } &[BeforeIstiod],
        "Requests for istiod by outcome";
    IstiodReachable: Gauge "countersign_istiod_reachable" {} &[BeforeIstiod],
        "1 while an address of istiod can be reached, else 0";

    CertificateExpiry: Gauge "countersign_certificate_expiry_timestamp_seconds" { certificate: OneOf(ExpiringCertificate::TEXTS), identity: IDENTITY } EVERYBODY,
        "NotAfter of the certificates that this process depends on, as Unix time; of `root` and `intermediate` the first to expire, of `last_root` the last; of `authority`, `intermediate`, `jwt_key`, those that are `prepared`, and `istiod` on the active alone; an `svid` or `serving` that has expired stays until there is another one";
    CertificateNotBefore: Gauge "countersign_certificate_not_before_timestamp_seconds" { certificate: BEGUN, identity: IDENTITY } EVERYBODY,
        "NotBefore of the same certificates, as Unix time: what is left of one, divided by the time between both, is the share of its life that is left";
    CertificateRenewal: Gauge "countersign_certificate_renewal_timestamp_seconds" { certificate: RENEWED, identity: IDENTITY } EVERYBODY,
        "When a certificate that this process has of an authority is to be renewed, or that is to be tried again, as Unix time";
    SvidRenewals: Counter "countersign_svid_renewals" { outcome: OneOf(RenewalOutcome::TEXTS), identity: IDENTITY } EVERYBODY,
        "Renewals of the own SVID by outcome";
    SvidRejections: Counter "countersign_svid_rejections" {} EVERYBODY,
        "SVIDs that an authority gave and that were not published, because a check failed";
    ClockSkew: Gauge "countersign_clock_skew_seconds" {} EVERYBODY,
        "How long it is until the newest SVID is valid by the clock of this host; 0 if it is";

    OutputWrites: Counter "countersign_output_writes" { output: OUTPUT, outcome: OneOf(OutputOutcome::TEXTS) } EVERYBODY,
        "Writes of an SVID into an output by outcome";
    OutputNotices: Counter "countersign_output_notices" { outcome: OneOf(NoticeOutcome::TEXTS) } EVERYBODY,
        "Commands and signals after a change of the files by outcome";
    OutputExpiry: Gauge "countersign_output_expiry_timestamp_seconds" { output: OUTPUT } EVERYBODY,
        "NotAfter of the SVID that an output holds, as Unix time";
    OutputNotBefore: Gauge "countersign_output_not_before_timestamp_seconds" { output: OUTPUT } EVERYBODY,
        "NotBefore of that SVID, as Unix time";
    OutputVerified: Gauge "countersign_output_verified_timestamp_seconds" { output: OUTPUT } EVERYBODY,
        "When an output was last verified and found to hold the SVID that it should, as Unix time";
    OutputSvid: Gauge "countersign_output_svid" { output: OUTPUT, serial: Text("the serial number in hex, one for each output") } EVERYBODY,
        "1 for the serial number of the SVID that an output holds";

    SdsStreams: Gauge "countersign_sds_streams" {} SOCKETS,
        "Open streams of secret discovery on the socket";
    SdsPushes: Counter "countersign_sds_pushes" {} SOCKETS,
        "Responses sent on such streams";
    SdsNacks: Counter "countersign_sds_nacks" {} SOCKETS,
        "Responses that a client did not accept";

    TrustBundleSequence: Gauge "countersign_trust_bundle_sequence" {} &[Active, Standby, Agent],
        "Sequence of the own trust domain's bundle that this replica publishes, or this agent follows";
    TrustBundleRoots: Gauge "countersign_trust_bundle_roots" {} EVERYBODY,
        "Roots of X.509-SVIDs in the own trust domain's bundle";
    TrustFollowers: Gauge "countersign_trust_followers" { state: OneOf(FollowerState::TEXTS) } PAIR,
        "Those who follow the trust bundle at this replica, its own socket among them, by whether they have acknowledged the newest sequence";
    TrustAcknowledged: Gauge "countersign_trust_acknowledged_sequence" {} PAIR,
        "The lowest sequence that a follower at this replica has acknowledged; nothing while there is none";
    RotationRefused: Gauge "countersign_rotation_refused" { authority: OneOf(SvidKind::TEXTS) } &[Active],
        "1 while an authority is to be replaced by itself and can't be, other than by waiting, else 0";
    RootWrites: Counter "countersign_root_writes" { outcome: OneOf(RootWriteOutcome::TEXTS) } PAIR,
        "Writes of the roots into the cluster by outcome";
    RootPlaces: Gauge "countersign_root_places" { kind: OneOf(PlaceKind::TEXTS), state: OneOf(RootPlaceState::TEXTS) } &[Active],
        "Objects of the cluster that are to hold the roots, by kind and state";

    FederatedFetches: Counter "countersign_federated_bundle_fetches" { outcome: OneOf(FetchOutcome::TEXTS) } PAIR,
        "Fetches of other trust domains' bundles by outcome";
    FederatedFetched: Gauge "countersign_federated_bundle_fetched_timestamp_seconds" { trust_domain: PARTNER } &[Active],
        "When a good bundle of another trust domain was last had of its endpoint or file, as Unix time";
    FederatedInterval: Gauge "countersign_federated_bundle_interval_seconds" { trust_domain: PARTNER } &[Active],
        "How long after that its endpoint is asked again, as the refresh hint says, or its file is looked at";
    FederatedSequence: Gauge "countersign_federated_bundle_sequence" { trust_domain: PARTNER } &[Active, Standby, Agent],
        "Sequence of another trust domain's bundle that is passed on; nothing if its maker does not count";
    FederatedBundleExpiry: Gauge "countersign_federated_bundle_expiry_timestamp_seconds" { trust_domain: PARTNER } &[Active, Standby, Agent],
        "NotAfter of the last of another trust domain's roots to expire, as Unix time: from then on nobody of it is believed";
    FederatedBundleNotBefore: Gauge "countersign_federated_bundle_not_before_timestamp_seconds" { trust_domain: PARTNER } &[Active, Standby, Agent],
        "NotBefore of that root, as Unix time";
    FederatedRootExpiry: Gauge "countersign_federated_root_expiry_timestamp_seconds" { trust_domain: PARTNER } &[Active, Standby, Agent],
        "NotAfter of the first of another trust domain's roots to expire, as Unix time";

    PolicyConfirmed: Gauge "countersign_policy_confirmed_timestamp_seconds" {} &[Agent],
        "When the policies that the socket serves were last known to be current, as Unix time";
    PolicyServices: Gauge "countersign_policy_services" { enforced: OneOf(&["true", "false"]) } EVERYBODY,
        "Services that require mutual TLS; on replicas by whether it is in force, on agents without that label";
    PolicyProbes: Counter "countersign_policy_probes" { outcome: OneOf(PROBE_OUTCOMES) } PAIR,
        "Connections to pods by what they showed";
    PolicyObjectWrites: Counter "countersign_policy_object_writes" { kind: OBJECT_KINDS, outcome: OneOf(ObjectWriteOutcome::TEXTS) } REPLICAS,
        "Writes and removals of objects for gateways by kind and outcome";
    PolicyObjects: Gauge "countersign_policy_objects" { kind: OBJECT_KINDS, state: OneOf(PolicyObjectState::TEXTS) } ACTIVES,
        "Objects for gateways by kind and state; on the active replica alone";
    GatewayConditions: Gauge "countersign_gateway_conditions" { reason: Text("why it is not as it should be, as docs/policy.md has it") } ACTIVES,
        "Services and Gateways for which an error or a warning holds, by its reason; on the active replica alone";
    PolicyEvents: Counter "countersign_policy_events" { outcome: OneOf(EventOutcome::TEXTS) } REPLICAS,
        "Events about policies by outcome";

    CitadelCsrs: Unknown "citadel_server_csr_count" {} PAIR,
        "CreateCertificate requests of callers of this replica";
    CitadelIssued: Unknown "citadel_server_success_cert_issuance_count" {} PAIR,
        "Requests that were answered with a certificate";
    CitadelAuthentication: Unknown "citadel_server_authentication_failure_count" {} PAIR,
        "Requests whose proof, or the identity that was asked for, was refused here";
    CitadelCsrParsing: Unknown "citadel_server_csr_parsing_err_count" {} PAIR,
        "Always 0, as istiod's: `CSR_ERROR` counts such requests";
    CitadelIdExtraction: Unknown "citadel_server_id_extraction_err_count" {} PAIR,
        "Always 0, as istiod's: an identity comes from the proof";
    CitadelSigning: Unknown "citadel_server_csr_sign_err_count" { error: OneOf(SignError::TEXTS) } PAIR,
        "Requests that failed otherwise; `UNKNOWN` is what the active refused when it was passed on";
    CitadelRootExpiry: Gauge "citadel_server_root_cert_expiry_timestamp" {} PAIR,
        "NotAfter of the first root to expire, as Unix time";
    CitadelRootLeft: Gauge "citadel_server_root_cert_expiry_seconds" {} PAIR,
        "Seconds until the first root expires";
    CitadelChainExpiry: Gauge "citadel_server_cert_chain_expiry_timestamp" {} &[Active],
        "NotAfter of the signing authority's certificate, as Unix time";
    CitadelChainLeft: Gauge "citadel_server_cert_chain_expiry_seconds" {} &[Active],
        "Seconds until the signing authority's certificate expires";
}
