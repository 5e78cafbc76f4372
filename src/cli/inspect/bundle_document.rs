//! A SPIFFE bundle document as it is shown. Its X.509 authorities are shown as certificates.

use serde::Serialize;

use super::content::BundleContent;

/// What a bundle document holds beside X.509 authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleDocument {
    /// As its CAs name it; null if none does. There is no other word in a document on whose it is.
    pub trust_domain: Option<String>,
    /// Grows with each change; null if its maker does not count.
    pub sequence: Option<u64>,
    /// How often it is to be fetched, in seconds; null if its maker doesn't say.
    pub refresh_hint: Option<u64>,
    /// Keys that JWT-SVIDs are verified by. They have no end of their own.
    pub jwt_authorities: Vec<JwtAuthorityDocument>,
}

/// A key that JWT-SVIDs are verified by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtAuthorityDocument {
    /// `kid`.
    pub key_id: String,
    /// Algorithm and size, as of certificates.
    pub key: String,
}

impl BundleDocument {
    pub(super) fn new(bundle: &BundleContent) -> Self {
        let BundleContent { trust_domain, content } = bundle;
        let authorities = content.jwt_authorities.iter().map(|authority| JwtAuthorityDocument {
            key_id: authority.key_id().to_owned(),
            key: authority.key_algorithm(),
        });
        Self {
            trust_domain: trust_domain.as_ref().map(ToString::to_string),
            sequence: content.sequence,
            refresh_hint: content.refresh_hint.map(|hint| hint.as_secs()),
            jwt_authorities: authorities.collect(),
        }
    }
}
