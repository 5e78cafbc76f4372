//! What a replica before istiod counts.

use std::{fmt, fmt::Write};

use prometheus_client::{
    encoding::{EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::Metrics;

/// What came of a request that istiod is to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IstiodOutcome {
    /// It signed, and the answer was passed on.
    Answered,
    /// It refused.
    Refused,
    /// An address of it could not be reached, or did not answer in time.
    Unreachable,
    /// Its answer was not what it should be.
    BadAnswer,
    /// It was not asked: an equal request was under way.
    Coalesced,
    /// It was not asked: it had been asked too often.
    Limited,
}

/// The families.
#[derive(Debug, Default)]
pub(super) struct IstiodMetrics {
    requests: Family<[(&'static str, IstiodOutcome); 1], Counter>,
    reachable: Gauge,
}

impl IstiodOutcome {
    const ALL: [Self; 6] =
        [Self::Answered, Self::Refused, Self::Unreachable, Self::BadAnswer, Self::Coalesced, Self::Limited];
}

impl EncodeLabelValue for IstiodOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::BadAnswer => "bad_answer",
            Self::Coalesced => "coalesced",
            Self::Limited => "limited",
        })
    }
}

impl Metrics {
    /// The families of a replica before istiod at zero.
    pub fn before_istiod() -> Self {
        let mut metrics = Self::of_agent();
        let registry = &mut metrics.registry;
        registry.register("certificate_requests", "CreateCertificate requests by outcome", metrics.requests.clone());
        for outcome in IstiodOutcome::ALL {
            drop(metrics.istiod.requests.get_or_create(&[("outcome", outcome)]));
        }
        registry.register("istiod_requests", "Requests for istiod by outcome", metrics.istiod.requests.clone());
        registry.register(
            "istiod_reachable",
            "1 while an address of istiod can be reached, else 0",
            metrics.istiod.reachable.clone(),
        );
        registry.register("token_reviews", "Tokens for the API server by outcome", metrics.token_reviews.clone());
        metrics.policy_objects.register(registry);
        registry.register("active", "1 while this replica holds the term, else 0", metrics.active.clone());
        registry.register("term", "The highest term that this replica knows", metrics.term.clone());
        metrics
    }

    /// Counts what came of asking istiod, or of not asking it.
    pub fn istiod_asked(&self, outcome: IstiodOutcome) {
        self.istiod.requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows whether istiod can be reached.
    pub fn set_istiod_reachable(&self, reachable: bool) {
        self.istiod.reachable.set(i64::from(reachable));
    }
}
