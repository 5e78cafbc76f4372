//! The fields that `-o json` and `-o yaml` print. Their names are stable: fields are added, never renamed.

use serde::Serialize;

use super::{
    bundle_document::BundleDocument, certificate_document::ChainDocument, found::Found, source::Source,
    token_document::TokenDocument,
};
use crate::domain::clock::Timestamp;

/// Everything that was found at one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// As it was given; `stdin` for `-`.
    pub source: String,
    /// One for each leaf, and for each authority that stands alone.
    pub chains: Vec<ChainDocument>,
    /// If the source is a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenDocument>,
    /// If the source is a SPIFFE bundle document, whose X.509 authorities stand in `chains`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleDocument>,
}

impl Document {
    pub(super) fn new(source: &Source, found: &Found, now: Timestamp) -> Self {
        let trust = found.trust.as_ref();
        Self {
            source: source.to_string(),
            chains: found.chains.iter().map(|chain| ChainDocument::new(chain, trust, now)).collect(),
            token: found.token.as_ref().map(|token| TokenDocument::new(token, trust, now)),
            bundle: found.bundle.as_ref().map(BundleDocument::new),
        }
    }

    /// Whether nothing has expired, fails to verify, or breaks a rule.
    pub fn is_sound(&self) -> bool {
        self.chains.iter().all(ChainDocument::is_sound) && self.token.as_ref().is_none_or(TokenDocument::is_sound)
    }
}
