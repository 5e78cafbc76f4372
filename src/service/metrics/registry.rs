//! Which value is whose: the compiler sees to it that none is left out.

use prometheus_client::registry::{Metric, Registry, Unit};

use super::{Metrics, names::MetricName as Name};

impl Metrics {
    /// Has a family on the page.
    #[expect(clippy::too_many_lines, reason = "a line for each family")]
    pub(super) fn register(&mut self, name: Name) {
        let registry = &mut self.registry;
        match name {
            Name::BuildInfo => put(registry, name, &self.build),
            Name::Active => put(registry, name, &self.active),
            Name::Term => put(registry, name, &self.term),
            Name::StateAltered => put(registry, name, &self.state_altered),
            Name::CertificateRequests => put(registry, name, &self.requests),
            Name::JwtSvidRequests => put(registry, name, &self.jwt_svids),
            Name::RequestDuration => put(registry, name, &self.durations.requests),
            Name::SigningDuration => put(registry, name, &self.durations.signing),
            Name::HeldRequests => put(registry, name, &self.held),
            Name::ForwardedRequests => put(registry, name, &self.forwarded),
            Name::TokenReviews => put(registry, name, &self.token_reviews),
            Name::AuthorityReloads => put(registry, name, &self.authority_reloads),
            Name::IstiodRequests => put(registry, name, &self.istiod.requests),
            Name::IstiodReachable => put(registry, name, &self.istiod.reachable),
            Name::CertificateExpiry => put(registry, name, &self.expiry),
            Name::CertificateNotBefore => put(registry, name, &self.not_before),
            Name::CertificateRenewal => put(registry, name, &self.renewals.due),
            Name::SvidRenewals => put(registry, name, &self.renewals.renewals),
            Name::SvidRejections => put(registry, name, &self.renewals.rejections),
            Name::ClockSkew => put(registry, name, &self.renewals.skew),
            Name::OutputWrites => put(registry, name, &self.outputs.writes),
            Name::OutputNotices => put(registry, name, &self.outputs.notices),
            Name::OutputExpiry => put(registry, name, &self.outputs.expiry),
            Name::OutputNotBefore => put(registry, name, &self.outputs.not_before),
            Name::OutputVerified => put(registry, name, &self.outputs.verified),
            Name::OutputSvid => put(registry, name, &self.outputs.held),
            Name::SdsStreams => put(registry, name, &self.discovery.streams),
            Name::SdsPushes => put(registry, name, &self.discovery.pushes),
            Name::SdsNacks => put(registry, name, &self.discovery.nacks),
            Name::TrustBundleSequence => put(registry, name, &self.trust.sequence),
            Name::TrustBundleRoots => put(registry, name, &self.trust.roots),
            Name::TrustFollowers => put(registry, name, &self.trust.followers),
            Name::TrustAcknowledged => put(registry, name, &self.trust.acknowledged),
            Name::RotationRefused => put(registry, name, &self.rotation_refused),
            Name::RootWrites => put(registry, name, &self.root_writes),
            Name::RootPlaces => put(registry, name, &self.root_places),
            Name::FederatedFetches => put(registry, name, &self.federation.fetches),
            Name::FederatedFetched => put(registry, name, &self.federation.fetched),
            Name::FederatedInterval => put(registry, name, &self.federation.interval),
            Name::FederatedSequence => put(registry, name, &self.trust.federated_sequence),
            Name::FederatedBundleExpiry => put(registry, name, &self.trust.federated_expiry),
            Name::FederatedBundleNotBefore => put(registry, name, &self.trust.federated_not_before),
            Name::FederatedRootExpiry => put(registry, name, &self.trust.federated_root_expiry),
            Name::PolicyConfirmed => put(registry, name, &self.policies.confirmed),
            Name::PolicyServices => put(registry, name, &self.policies.services),
            Name::PolicyProbes => put(registry, name, &self.policies.probes),
            Name::PolicyObjectWrites => put(registry, name, &self.policy_objects.writes),
            Name::PolicyObjects => put(registry, name, &self.policy_objects.objects),
            Name::GatewayConditions => put(registry, name, &self.policy_objects.conditions),
            Name::PolicyEvents => put(registry, name, &self.policy_objects.events),
            Name::CitadelCsrs => put(registry, name, &self.citadel.csrs),
            Name::CitadelIssued => put(registry, name, &self.citadel.issued),
            Name::CitadelAuthentication => put(registry, name, &self.citadel.authentication),
            Name::CitadelCsrParsing => put(registry, name, &self.citadel.never),
            Name::CitadelIdExtraction => put(registry, name, &self.citadel.never),
            Name::CitadelSigning => put(registry, name, &self.citadel.signing),
            Name::CitadelRootExpiry => put(registry, name, &self.citadel.root.not_after),
            Name::CitadelRootLeft => put(registry, name, &self.citadel.root.left),
            Name::CitadelChainExpiry => put(registry, name, &self.citadel.chain.not_after),
            Name::CitadelChainLeft => put(registry, name, &self.citadel.chain.left),
        }
    }
}

fn put(registry: &mut Registry, name: Name, metric: &(impl Metric + Clone)) {
    let described = name.described();
    match described.name.strip_suffix("_seconds").filter(|_| is_own(described.name)) {
        Some(rest) => registry.register_with_unit(rest, described.help, Unit::Seconds, metric.clone()),
        None => registry.register(described.name, described.help, metric.clone()),
    }
}

/// Names of istiod's are taken as they are.
fn is_own(name: &str) -> bool {
    name.starts_with("countersign_")
}
