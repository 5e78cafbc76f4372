//! The issuers whose JWTs are proofs: a list that only the file has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

use super::{parse, sources::Sources};
use crate::domain::{
    identity::ServiceAccount,
    jwt::{IssuerRules, PROOF_AUDIENCE},
};

/// Their key in the file.
pub(super) const TOKEN_ISSUERS: &str = "tokenIssuers";

/// An issuer of tokens and where its keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIssuerConfig {
    /// What it may vouch for.
    pub rules: IssuerRules,
    /// Its JWK Set.
    pub jwks_file: PathBuf,
}

/// An entry of `tokenIssuers`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TokenIssuerFile {
    issuer: String,
    jwks_file: String,
    #[serde(default = "istios_audience")]
    audiences: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<String>>,
}

fn istios_audience() -> Vec<String> {
    vec![PROOF_AUDIENCE.to_owned()]
}

pub(super) fn token_issuers(from: &mut Sources) -> Vec<TokenIssuerConfig> {
    let entries = match from.structured.get(TOKEN_ISSUERS).cloned() {
        None => return Vec::new(),
        Some(Value::Sequence(entries)) => entries,
        Some(_) => {
            from.refuse(TOKEN_ISSUERS, "takes a list of issuers");
            return Vec::new();
        }
    };
    let mut issuers: Vec<TokenIssuerConfig> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let issuer = serde_yaml_ng::from_value::<TokenIssuerFile>(entry)
            .map_err(|error| error.to_string())
            .and_then(TokenIssuerConfig::try_from);
        match issuer {
            Ok(issuer) if issuers.iter().any(|other| other.rules.issuer == issuer.rules.issuer) => {
                from.refuse(TOKEN_ISSUERS, format!("[{index}]: issuer {:?} stands there twice", issuer.rules.issuer));
            }
            Ok(issuer) => issuers.push(issuer),
            Err(error) => from.refuse(TOKEN_ISSUERS, format!("[{index}]: {error}")),
        }
    }
    issuers
}

impl TryFrom<TokenIssuerFile> for TokenIssuerConfig {
    type Error = String;

    fn try_from(file: TokenIssuerFile) -> Result<Self, String> {
        if file.issuer.is_empty() {
            return Err("issuer: must not be empty".to_owned());
        }
        if file.audiences.is_empty() || file.audiences.iter().any(String::is_empty) {
            return Err("audiences: needs at least one, none of them empty".to_owned());
        }
        for namespace in file.namespaces.iter().flatten() {
            ServiceAccount::new(namespace, "any").map_err(|error| format!("namespaces: {error}"))?;
        }
        let jwks_file = parse::path(&file.jwks_file).map_err(|error| format!("jwksFile: {error}"))?;
        let rules = IssuerRules { issuer: file.issuer, audiences: file.audiences, namespaces: file.namespaces };
        Ok(Self { rules, jwks_file })
    }
}

impl From<&TokenIssuerConfig> for TokenIssuerFile {
    fn from(config: &TokenIssuerConfig) -> Self {
        let IssuerRules { issuer, audiences, namespaces } = config.rules.clone();
        Self { issuer, jwks_file: config.jwks_file.display().to_string(), audiences, namespaces }
    }
}
