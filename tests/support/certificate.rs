//! What a test wants to know of a certificate, read by x509-parser and nothing of ours.

use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

/// The parts that tests compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Lower case hex without leading zeros, as Go and Envoy print it.
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
    /// The URI names, in order.
    pub(crate) uris: Vec<String>,
}

impl Certificate {
    /// Reads one DER certificate.
    pub(crate) fn from_der(der: &[u8]) -> Self {
        let (rest, parsed) = X509Certificate::from_der(der).expect("a DER certificate");
        assert!(rest.is_empty(), "{} bytes behind the certificate", rest.len());
        let names = parsed.subject_alternative_name().expect("one subjectAltName at most");
        let uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None });
        Self {
            serial: format!("{:x}", parsed.tbs_certificate.serial),
            not_after: parsed.validity().not_after.timestamp(),
            uris: uris.collect(),
        }
    }

    /// Reads every certificate of a PEM text.
    pub(crate) fn from_pem(text: &str) -> Vec<Self> {
        let blocks = Pem::iter_from_buffer(text.as_bytes());
        blocks.map(|block| Self::from_der(&block.expect("a PEM block").contents)).collect()
    }
}
