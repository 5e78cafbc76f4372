//! `countersign inspect`: the certificates of a file, of stdin, of a workload socket or of a TLS endpoint, a JWT-SVID or a
//! SPIFFE bundle document: what they say, how long they still hold, and whether they verify. Never a private key, and never what
//! makes a token one that can be used.

mod bundle_document;
mod certificate_document;
mod content;
mod document;
mod endpoint;
mod error;
mod found;
mod socket;
mod source;
mod token_document;
mod tree;
mod trust;

use clap::ValueEnum;

pub use self::{
    bundle_document::{BundleDocument, JwtAuthorityDocument},
    certificate_document::{CertificateDocument, ChainDocument, FindingDocument, ValidityState, Verification},
    document::Document,
    error::SourceError,
    source::{BundleSource, Source},
    token_document::TokenDocument,
};
use super::render::Palette;
use crate::domain::{clock::Timestamp, x509::Certificate};

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A tree for people
    Table,
    /// The documented fields as JSON
    Json,
    /// The documented fields as YAML
    Yaml,
    /// The certificates alone
    Pem,
}

/// What to look at, and how to show it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it is.
    pub source: Source,
    /// What to verify to; goes over what the source brings.
    pub bundle: Option<BundleSource>,
    /// Name to ask a TLS endpoint for; its host if `None`.
    pub server_name: Option<String>,
    /// How to print.
    pub format: Format,
    /// For [`Format::Table`].
    pub palette: Palette,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// For stdout.
    pub output: String,
    /// For stderr: what was left out, and why.
    pub notes: Vec<String>,
    /// False when something has expired, does not verify, or breaks a rule of SPIFFE.
    pub is_sound: bool,
}

/// Looks at a source at `now`.
///
/// # Errors
///
/// When the source or the bundle can't be read, or holds nothing of the kind.
pub async fn inspect(request: &Request, now: Timestamp) -> Result<Inspection, SourceError> {
    let mut found = request.source.load(request.server_name.as_deref()).await?;
    if let Some(bundle) = &request.bundle {
        found.trust = Some(bundle.load(found.token.is_some()).await?);
    }
    let document = Document::new(&request.source, &found, now);
    let output = match request.format {
        Format::Table => tree::draw(&document, request.palette),
        Format::Json => serde_json::to_string_pretty(&document).map_err(SourceError::printing)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(&document).map_err(SourceError::printing)?,
        Format::Pem if found.token.is_some() => {
            return Err(SourceError::printing("a token holds no certificate for PEM"));
        }
        Format::Pem => found.chains.iter().flatten().map(Certificate::to_pem).collect(),
    };
    Ok(Inspection { output, is_sound: document.is_sound(), notes: found.notes })
}
