//! From a request to evidence. Nothing is believed here.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::Semaphore;
use tonic::{Extensions, metadata::MetadataMap};
use zeroize::Zeroizing;

use crate::domain::{attestation::Evidence, x509::CertificateChain};

/// What is known of a connection from its TLS handshake.
#[derive(Clone, Debug)]
pub(super) struct PeerConnection {
    /// Where from.
    pub address: std::net::SocketAddr,
    /// The client certificate whose key the peer holds, if it presented one.
    pub presented: Option<CertificateChain>,
    /// Bounds the requests of this connection that may wait.
    pub held: Arc<Semaphore>,
}

impl PeerConnection {
    /// Where from, without the port.
    pub(super) fn source(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }
}

/// What the caller brought: the first `authorization` value of exactly the form `Bearer TOKEN`, the one `clusterid`, and the
/// client certificate.
pub(super) fn evidence_of(metadata: &MetadataMap, extensions: &Extensions) -> Evidence {
    let connection = extensions.get::<PeerConnection>();
    Evidence {
        token: bearer_token(metadata),
        cluster: stated_cluster(metadata),
        presented: connection.and_then(|connection| connection.presented.clone()),
        source: connection.map(PeerConnection::source),
        ..Evidence::NONE
    }
}

/// As istiod: several values say nothing.
fn stated_cluster(metadata: &MetadataMap) -> String {
    let mut values = metadata.get_all("clusterid").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        _ => String::new(),
    }
}

fn bearer_token(metadata: &MetadataMap) -> Option<Zeroizing<String>> {
    // white space at the ends is forgiven: ztunnel sends its token file as it is
    metadata
        .get_all("authorization")
        .iter()
        .find_map(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .map(|token| Zeroizing::new(token.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(values: &[&'static str]) -> Option<String> {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append("authorization", value.parse().unwrap());
        }
        evidence_of(&metadata, &Extensions::default()).token.map(|token| token.to_string())
    }

    #[test]
    fn takes_the_cluster_only_if_there_is_exactly_one() {
        let stated = |values: &[&'static str]| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("clusterid", value.parse().unwrap());
            }
            evidence_of(&metadata, &Extensions::default()).cluster
        };
        assert_eq!(stated(&["Kubernetes"]), "Kubernetes");
        assert_eq!(stated(&[]), "");
        assert_eq!(stated(&["a", "b"]), "");
        assert_eq!(stated(&["Kubernetes", "Kubernetes"]), "");
    }

    #[test]
    fn takes_the_first_value_of_exactly_that_form() {
        assert_eq!(token_of(&["Basic x", "Bearer a", "Bearer b"]).as_deref(), Some("a"));
        assert_eq!(token_of(&["Bearer a "]).as_deref(), Some("a"));
        for refused in ["bearer a", "BEARER a", "Istio a", "Bearera", ""] {
            assert_eq!(token_of(&[refused]), None, "{refused:?}");
        }
    }
}
