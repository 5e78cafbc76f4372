//! How long requests take.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::Metrics;

/// In seconds: from a signature that is on record at once to a request that was held for as long as it may be.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

#[derive(Debug)]
pub(super) struct Durations {
    pub(super) requests: Histogram,
    pub(super) signing: Histogram,
}

impl Durations {
    pub(super) fn new() -> Self {
        Self { requests: Histogram::new(BOUNDS), signing: Histogram::new(BOUNDS) }
    }
}

impl Metrics {
    /// Shows how long a CreateCertificate request took.
    pub fn request_took(&self, duration: Duration) {
        self.durations.requests.observe(duration.as_secs_f64());
    }

    /// Shows how long it took to sign a certificate and to have it on record.
    pub fn signing_took(&self, duration: Duration) {
        self.durations.signing.observe(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_that_it_fits_and_in_those_above() {
        let metrics = Metrics::new();
        metrics.signing_took(Duration::from_millis(2));
        let page = metrics.encode();
        for line in [
            "countersign_signing_duration_seconds_bucket{le=\"0.001\"} 0",
            "countersign_signing_duration_seconds_bucket{le=\"0.0025\"} 1",
            "countersign_signing_duration_seconds_bucket{le=\"+Inf\"} 1",
            "countersign_signing_duration_seconds_count 1",
            "countersign_certificate_request_duration_seconds_count 0",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
    }
}
