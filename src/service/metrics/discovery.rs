//! Secret discovery on the workload socket.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::Metrics;

#[derive(Debug, Default)]
pub(super) struct DiscoveryMetrics {
    pub(super) streams: Gauge,
    pub(super) pushes: Counter,
    pub(super) nacks: Counter,
}

/// An open stream; counted until it is dropped.
#[derive(Debug)]
pub struct OpenStream(DiscoveryMetrics);

impl Metrics {
    /// Counts a stream as open while the answer lives.
    pub fn open_stream(&self) -> OpenStream {
        let DiscoveryMetrics { streams, pushes, nacks } = &self.discovery;
        streams.inc();
        OpenStream(DiscoveryMetrics { streams: streams.clone(), pushes: pushes.clone(), nacks: nacks.clone() })
    }
}

impl OpenStream {
    /// Counts a response.
    pub fn pushed(&self) {
        self.0.pushes.inc();
    }

    /// Counts a response that the client did not accept.
    pub fn refused(&self) {
        self.0.nacks.inc();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.dec();
    }
}
