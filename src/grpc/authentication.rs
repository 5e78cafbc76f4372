//! From a request to evidence. Nothing is believed here.

use std::sync::Arc;

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

/// What the caller brought: the first `authorization` value of exactly the form `Bearer TOKEN`, and the client certificate.
pub(super) fn evidence_of(metadata: &MetadataMap, extensions: &Extensions) -> Evidence {
    let presented = extensions.get::<PeerConnection>().and_then(|connection| connection.presented.clone());
    Evidence { token: bearer_token(metadata), presented, ..Evidence::NONE }
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
    fn takes_the_first_value_of_exactly_that_form() {
        assert_eq!(token_of(&["Basic x", "Bearer a", "Bearer b"]).as_deref(), Some("a"));
        assert_eq!(token_of(&["Bearer a "]).as_deref(), Some("a"));
        for refused in ["bearer a", "BEARER a", "Istio a", "Bearera", ""] {
            assert_eq!(token_of(&[refused]), None, "{refused:?}");
        }
    }
}
