//! Certificate revocation lists, as far as a signing authority is given with them: who signed them.

use x509_parser::{certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    Certificate,
    pem::{self, PemError},
};

/// The lists of one file; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationLists(Vec<Vec<u8>>);

/// Why a text is not revocation lists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationListError {
    /// Not PEM.
    #[error("not a PEM revocation list: {0}")]
    Pem(#[from] PemError),
    /// A block of another kind.
    #[error("a block is {0:?}, not {LABEL:?}")]
    Label(String),
    /// A block that holds something else (RFC 5280 5.1).
    #[error("not a DER revocation list: {0}")]
    Der(String),
}

const LABEL: &str = "X509 CRL";

impl RevocationLists {
    /// Every block of a PEM text.
    ///
    /// # Errors
    ///
    /// When there is none, or one is of another kind or does not parse.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RevocationListError> {
        let mut lists = Vec::new();
        let mut text = pem;
        loop {
            let block = match pem::first_block(text) {
                Ok(block) => block,
                Err(PemError::NoBlock) if !lists.is_empty() => return Ok(Self(lists)),
                Err(error) => return Err(error.into()),
            };
            if block.label != LABEL {
                return Err(RevocationListError::Label(block.label.to_owned()));
            }
            match CertificateRevocationList::from_der(&block.content) {
                Ok(([], _)) => lists.push(block.content.to_vec()),
                Ok((rest, _)) => return Err(RevocationListError::Der(format!("{} bytes stand behind it", rest.len()))),
                Err(error) => return Err(RevocationListError::Der(error.to_string())),
            }
            text = block.rest;
        }
    }

    /// Whether one of the lists is signed by the key of `authority`.
    pub fn has_one_of(&self, authority: &Certificate) -> bool {
        let Ok((_, authority)) = X509Certificate::from_der(authority.der()) else { return false };
        self.0.iter().any(|list| {
            CertificateRevocationList::from_der(list)
                .is_ok_and(|(_, list)| list.verify_signature(authority.public_key()).is_ok())
        })
    }
}
