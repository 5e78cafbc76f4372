//! The families of istiod's CA, under its names, for dashboards that are there already. They say again what others say, and are
//! made of those when a page is asked for.

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge},
};

use super::{
    ByLabel, Unlabelled,
    label_values::{ExpiringCertificate, RequestOutcome, SignError},
};
use crate::domain::clock::Timestamp;

#[derive(Debug, Default)]
pub(super) struct CitadelMetrics {
    pub(super) csrs: Untyped,
    pub(super) issued: Untyped,
    pub(super) authentication: Untyped,
    /// Of errors that don't occur.
    pub(super) never: Untyped,
    pub(super) signing: Family<ByLabel<SignError>, Untyped>,
    pub(super) root: Expiry,
    pub(super) chain: Expiry,
}

/// Of one certificate; nothing while it is not known.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    pub(super) not_after: Family<Unlabelled, Gauge>,
    pub(super) left: Family<Unlabelled, Gauge>,
}

/// A count that keeps its name: one that is called a counter gets `_total` at its end, which istiod's don't have.
#[derive(Clone, Debug, Default)]
pub(super) struct Untyped(Gauge);

impl TypedMetric for Untyped {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for Untyped {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl CitadelMetrics {
    /// Takes over what has been counted, and what is known at `now`.
    pub(super) fn read(
        &self,
        requests: &Family<ByLabel<RequestOutcome>, Counter>,
        not_after: impl Fn(ExpiringCertificate) -> Option<Timestamp>,
        now: Timestamp,
    ) {
        let count = |outcome| {
            let counted = requests.get(&[("outcome", outcome)]).map_or(0, |counter| counter.get());
            i64::try_from(counted).unwrap_or(i64::MAX)
        };
        // one that is withheld goes on, and ends in another way
        let ended = RequestOutcome::ALL.iter().filter(|outcome| **outcome != RequestOutcome::Withheld);
        self.csrs.0.set(ended.map(|outcome| count(*outcome)).sum());
        self.issued.0.set(count(RequestOutcome::Issued));
        self.authentication.0.set(count(RequestOutcome::Unauthenticated));
        for error in SignError::ALL {
            self.signing.get_or_create(&[("error", *error)]).0.set(count(match error {
                SignError::Csr => RequestOutcome::InvalidArgument,
                SignError::Ttl => RequestOutcome::TtlOverMax,
                SignError::Generation => RequestOutcome::Internal,
                SignError::NotReady => RequestOutcome::Unavailable,
                SignError::Unknown => RequestOutcome::RefusedByActive,
            }));
        }
        self.root.show(not_after(ExpiringCertificate::Root), now);
        self.chain.show(not_after(ExpiringCertificate::Authority), now);
    }
}

impl Expiry {
    fn show(&self, not_after: Option<Timestamp>, now: Timestamp) {
        let Some(not_after) = not_after else {
            self.not_after.clear();
            self.left.clear();
            return;
        };
        self.not_after.get_or_create(&[]).set(not_after.seconds());
        self.left.get_or_create(&[]).set(not_after.seconds() - now.seconds());
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        domain::clock::Timestamp,
        service::metrics::{ExpiringCertificate, Metrics, RequestOutcome},
    };

    #[test]
    fn what_is_counted_is_said_again_under_istiods_names() {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("citadel_server_root_cert_expiry"), "nothing is known yet");
        for outcome in RequestOutcome::ALL {
            metrics.request_ended(*outcome);
        }
        metrics.request_ended(RequestOutcome::Issued);
        metrics.show_expiry(ExpiringCertificate::Root, Some(Timestamp::from_seconds(500)));
        metrics.show_expiry(ExpiringCertificate::Authority, Some(Timestamp::from_seconds(300)));
        let page = metrics.page(Timestamp::from_seconds(100));
        for line in [
            "# TYPE citadel_server_csr_count unknown".to_owned(),
            // the one that was withheld went on
            format!("citadel_server_csr_count {}", RequestOutcome::ALL.len()),
            "citadel_server_success_cert_issuance_count 2".to_owned(),
            "citadel_server_authentication_failure_count 1".to_owned(),
            "citadel_server_csr_parsing_err_count 0".to_owned(),
            "citadel_server_id_extraction_err_count 0".to_owned(),
            "citadel_server_csr_sign_err_count{error=\"TTL_ERROR\"} 1".to_owned(),
            "citadel_server_root_cert_expiry_timestamp{} 500".to_owned(),
            "citadel_server_root_cert_expiry_seconds{} 400".to_owned(),
            "citadel_server_cert_chain_expiry_timestamp{} 300".to_owned(),
            "citadel_server_cert_chain_expiry_seconds{} 200".to_owned(),
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        metrics.forget_expiry(ExpiringCertificate::Authority);
        assert!(!metrics.encode().contains("citadel_server_cert_chain"), "it is another replica's");
    }
}
