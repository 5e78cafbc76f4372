//! What goes with each request beside proof and CSR.

use std::fmt;

use prost_types::{Struct, Value, value::Kind};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// An HTTP/2 header for the CA, of a gateway or proxy in front of it perhaps. Its value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct CaHeader {
    name: AsciiMetadataKey,
    value: AsciiMetadataValue,
}

/// What a CA may want to know beside proof and CSR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaExtras {
    /// The cluster that the token is of: sent as `clusterid`, by which istiod finds the API server to ask.
    pub cluster_id: Option<String>,
    /// Sent as they are.
    pub headers: Vec<CaHeader>,
    /// Which of its signers a registration authority is to use.
    pub cert_signer: Option<String>,
}

const CLUSTER_ID: &str = "clusterid";
/// They are ours, or gRPC's own.
const RESERVED: [&str; 5] = ["authorization", CLUSTER_ID, "content-type", "te", "user-agent"];

impl CaHeader {
    /// From a name, upper or lower case, and its value.
    ///
    /// # Errors
    ///
    /// When either can't be sent. Does not show the value.
    pub fn new(name: &str, value: &str) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        let key: AsciiMetadataKey = lower.parse().map_err(|_malformed| format!("{name:?} is no name of a header"))?;
        if RESERVED.contains(&lower.as_str()) || lower.starts_with("grpc-") {
            return Err(format!("the header {name:?} is set by countersign or by gRPC itself: choose another one"));
        }
        let mut value: AsciiMetadataValue =
            value.parse().map_err(|_malformed| format!("the value of {name:?} holds characters that no header may"))?;
        value.set_sensitive(true);
        Ok(Self { name: key, value })
    }
}

impl fmt::Debug for CaHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaHeader({})", self.name.as_str())
    }
}

impl CaExtras {
    /// Adds headers and cluster. A cluster's name that no header can carry is left out; configurations don't accept one.
    pub(super) fn add_to(&self, metadata: &mut MetadataMap) {
        for CaHeader { name, value } in &self.headers {
            metadata.insert(name.clone(), value.clone());
        }
        if let Some(Ok(cluster)) = self.cluster_id.as_ref().map(|id| id.parse()) {
            metadata.insert(CLUSTER_ID, cluster);
        }
    }

    /// The metadata inside the message.
    pub(super) fn message_metadata(&self) -> Option<Struct> {
        let signer = self.cert_signer.clone()?;
        let fields = [("CertSigner".to_owned(), Value { kind: Some(Kind::StringValue(signer)) })];
        Some(Struct { fields: fields.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_sent_in_lower_case_and_never_shown() {
        let header = CaHeader::new("X-Tenant", "secret").unwrap();
        assert_eq!(format!("{header:?}"), "CaHeader(x-tenant)");
        let extras = CaExtras { cluster_id: Some("east".into()), headers: vec![header], cert_signer: None };
        let mut metadata = MetadataMap::new();
        extras.add_to(&mut metadata);
        assert_eq!(metadata.get("x-tenant").unwrap(), "secret");
        assert_eq!(metadata.get("clusterid").unwrap(), "east");
        assert!(!format!("{metadata:?}").contains("secret"));
        assert_eq!(extras.message_metadata(), None);
    }

    #[test]
    fn refuses_what_can_not_be_sent_or_is_not_the_users() {
        for (name, value) in
            [("", "x"), ("a b", "x"), ("a", "x\ny"), ("Authorization", "x"), ("clusterid", "x"), ("grpc-timeout", "x")]
        {
            let refused = CaHeader::new(name, value).unwrap_err();
            assert!(!refused.contains('\n') && refused.contains(&format!("{name:?}")), "{refused}");
        }
        assert!(CaHeader::new("a-bin", "x").is_err(), "binary values are no texts");
    }
}
