//! Whose tokens are believed, and which identities nobody gets.

use std::path::Path;

use super::ServeFailed;
use crate::{
    domain::{
        identity::{ServiceAccount, SpiffeId, TrustDomain},
        jwt::{IssuerRules, KeySet, TokenIssuer, TokenIssuerKey},
    },
    runtime::config::TokenIssuerConfig,
    storage::{data_dir::DataDir, key_file},
};

/// The `iss` of tokens from the data directory's own key.
pub(in crate::runtime) const EMBEDDED_ISSUER: &str = "countersign:embedded";
/// The audience of tokens for the signing API, as istiod's.
const AUDIENCE: &str = "istio-ca";

/// The embedded issuer, whose key is made if it is missing, and those that are configured.
pub(super) fn token_issuers(
    data_dir: &DataDir,
    configured: &[TokenIssuerConfig],
) -> Result<Vec<TokenIssuer>, ServeFailed> {
    let fresh = TokenIssuerKey::generate().map_err(ServeFailed::of)?;
    let stored = key_file::create_once(&data_dir.token_issuer_key(), fresh.to_pem().as_bytes());
    let key = TokenIssuerKey::from_pem(&stored.map_err(ServeFailed::of)?).map_err(ServeFailed::of)?;
    let rules =
        IssuerRules { issuer: EMBEDDED_ISSUER.to_owned(), audiences: vec![AUDIENCE.to_owned()], namespaces: None };
    let mut issuers = vec![TokenIssuer::new(rules, key.key_set().map_err(ServeFailed::of)?)];
    for issuer in configured {
        issuers.push(TokenIssuer::new(issuer.rules.clone(), key_set(&issuer.jwks_file)?));
    }
    Ok(issuers)
}

fn key_set(file: &Path) -> Result<KeySet, ServeFailed> {
    let named =
        |error: &dyn std::fmt::Display| ServeFailed(format!("tokenIssuers: jwksFile {}: {error}", file.display()));
    let json = crate::storage::read_file(file).map_err(|error| named(&error))?;
    KeySet::from_json(&json).map_err(|error| named(&error))
}

/// The identities of the mesh's own control plane.
pub(super) fn reserved_ids(trust_domain: &TrustDomain) -> Vec<SpiffeId> {
    ["istio-system/istiod", "istio-system/istiod-service-account"]
        .iter()
        .filter_map(|account| account.parse::<ServiceAccount>().ok()?.spiffe_id(trust_domain).ok())
        .collect()
}
