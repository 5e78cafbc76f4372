//! Whose tokens are believed, and which identities nobody gets.

use std::path::Path;

use super::ServeFailed;
use crate::{
    domain::{
        identity::{ServiceAccount, SpiffeId, TrustDomain},
        jwt::{IssuerRules, KeySet, PROOF_AUDIENCE, TokenIssuer, TokenIssuerKey},
    },
    runtime::config::TokenIssuerConfig,
    storage::{
        data_dir::DataDir,
        key_file::{self, KeyFileError},
    },
};

/// The `iss` of tokens from the data directory's own key.
pub(in crate::runtime) const EMBEDDED_ISSUER: &str = "countersign:embedded";

/// The issuers that are configured. Read before anything is bound: a file that can't be used is an error of configuration.
pub(super) fn configured_issuers(configured: &[TokenIssuerConfig]) -> Result<Vec<TokenIssuer>, ServeFailed> {
    configured.iter().map(|issuer| Ok(TokenIssuer::new(issuer.rules.clone(), key_set(&issuer.jwks_file)?))).collect()
}

/// The issuer of the data directory, whose key is made if it is missing.
pub(super) fn embedded_issuer(data_dir: &DataDir) -> Result<TokenIssuer, ServeFailed> {
    let file = data_dir.token_issuer_key();
    // a start with a key that is there writes nothing: the disk may be full
    let pem = match key_file::read(&file).map_err(ServeFailed::of)? {
        Some(pem) => pem,
        None => {
            let fresh = TokenIssuerKey::generate().map_err(ServeFailed::of)?;
            key_file::create_once(&file, fresh.to_pem().as_bytes()).map_err(ServeFailed::of)?
        }
    };
    let key = issuer_key(&file, &pem).map_err(ServeFailed::of)?;
    let rules = IssuerRules {
        issuer: EMBEDDED_ISSUER.to_owned(),
        audiences: vec![PROOF_AUDIENCE.to_owned()],
        namespaces: None,
    };
    Ok(TokenIssuer::new(rules, key.key_set().map_err(ServeFailed::of)?))
}

/// The key of a data directory's issuer, as `file` holds it.
pub(in crate::runtime) fn issuer_key(file: &Path, pem: &[u8]) -> Result<TokenIssuerKey, KeyFileError> {
    TokenIssuerKey::from_pem(pem)
        .map_err(|error| KeyFileError::NoKey { path: file.display().to_string(), problem: error.to_string() })
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
