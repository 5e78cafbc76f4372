//! What is shown of the places where gateways get their SVIDs. The operator has named them, in flags.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::{ByLabel, ByName, Metrics, NoticeOutcome, OutputOutcome, zeroed};
use crate::domain::{clock::Timestamp, x509::Certificate};

/// Families by output: `socket`, `files`, or a Secret as `NAMESPACE/NAME`.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) writes: Family<WriteLabels, Counter>,
    pub(super) notices: Family<ByLabel<NoticeOutcome>, Counter>,
    pub(super) expiry: Family<ByName, Gauge>,
    pub(super) not_before: Family<ByName, Gauge>,
    pub(super) verified: Family<ByName, Gauge>,
    pub(super) held: Family<[(&'static str, String); 2], Gauge>,
    /// The serial number that is shown of each output: only one is.
    serials: Mutex<HashMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WriteLabels {
    output: String,
    outcome: OutputOutcome,
}

impl Outputs {
    pub(super) fn new() -> Self {
        let (writes, expiry, not_before, verified, held, serials) = Default::default();
        Self { writes, notices: zeroed(NoticeOutcome::ALL), expiry, not_before, verified, held, serials }
    }

    /// Shows this serial number of an output in place of the one before.
    fn show_serial(&self, output: &str, serial: Option<&str>) {
        let labels = |serial: String| [("output", output.to_owned()), ("serial", serial)];
        let mut serials = self.serials.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = serials.remove(output).filter(|before| serial != Some(before)) {
            self.held.remove(&labels(before));
        }
        if let Some(serial) = serial {
            self.held.get_or_create(&labels(serial.to_owned())).set(1);
            serials.insert(output.to_owned(), serial.to_owned());
        }
    }
}

impl Metrics {
    /// Shows an output that is going to be kept.
    pub fn output_begins(&self, output: &str) {
        for outcome in OutputOutcome::ALL {
            let labels = WriteLabels { output: output.to_owned(), outcome: *outcome };
            drop(self.outputs.writes.get_or_create(&labels));
        }
    }

    /// Counts a write of an output.
    pub fn output_written(&self, output: &str, outcome: OutputOutcome) {
        self.outputs.writes.get_or_create(&WriteLabels { output: output.to_owned(), outcome }).inc();
    }

    /// Shows that an output was verified at `now`, which SVID it holds, and from when until when that is valid.
    pub fn output_verified(&self, output: &str, svid: &Certificate, now: Timestamp) {
        self.outputs.show_serial(output, Some(&svid.serial().to_string()));
        let labels = [("output", output.to_owned())];
        self.outputs.expiry.get_or_create(&labels).set(svid.not_after().seconds());
        self.outputs.not_before.get_or_create(&labels).set(svid.not_before().seconds());
        self.outputs.verified.get_or_create(&labels).set(now.seconds());
    }

    /// Shows nothing of an output any more: it holds nothing, or it is another replica that keeps it.
    pub fn forget_output(&self, output: &str) {
        let labels = [("output", output.to_owned())];
        self.outputs.expiry.remove(&labels);
        self.outputs.not_before.remove(&labels);
        self.outputs.verified.remove(&labels);
        self.outputs.show_serial(output, None);
    }

    /// Counts an attempt to tell a gateway of its new files.
    pub fn output_notified(&self, outcome: NoticeOutcome) {
        self.outputs.notices.get_or_create(&[("outcome", outcome)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::authority;

    #[test]
    fn shows_what_an_output_holds_until_it_is_forgotten() {
        let metrics = Metrics::of_agent();
        metrics.output_begins("files");
        metrics.output_written("files", OutputOutcome::Written);
        metrics.output_notified(NoticeOutcome::Failed);
        let [before, held] = [authority(), authority()].map(|authority| authority.certificate().clone());
        metrics.output_verified("files", &before, Timestamp::from_seconds(4));
        metrics.output_verified("files", &held, Timestamp::from_seconds(5));
        let page = metrics.encode();
        let (serial, begin, end) = (held.serial(), held.not_before().seconds(), held.not_after().seconds());
        for line in [
            "countersign_output_writes_total{output=\"files\",outcome=\"written\"} 1".to_owned(),
            "countersign_output_writes_total{output=\"files\",outcome=\"failed\"} 0".to_owned(),
            "countersign_output_notices_total{outcome=\"failed\"} 1".to_owned(),
            format!("countersign_output_expiry_timestamp_seconds{{output=\"files\"}} {end}"),
            format!("countersign_output_not_before_timestamp_seconds{{output=\"files\"}} {begin}"),
            "countersign_output_verified_timestamp_seconds{output=\"files\"} 5".to_owned(),
            format!("countersign_output_svid{{output=\"files\",serial=\"{serial}\"}} 1"),
        ] {
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(&before.serial().to_string()), "{page}");
        metrics.forget_output("files");
        assert!(!metrics.encode().contains("output_svid{"));
        assert!(!metrics.encode().contains("timestamp_seconds{output="));
    }
}
