//! The trust domains whose bundles are fetched, or read from files: a list that only the file has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

use super::{parse, sources::Sources};
use crate::domain::{
    bundle::{BundleEndpoint, BundleSource, EndpointProfile, Relationship},
    identity::{SpiffeId, TrustDomain},
};

/// Their key in the file.
pub(super) const FEDERATION: &str = "federation";

/// Another trust domain, and what is known of it at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationConfig {
    /// Where its bundle is.
    pub relationship: Relationship,
    /// A bundle, as a SPIFFE document or PEM, by which an endpoint begins.
    pub bootstrap_file: Option<PathBuf>,
}

/// An entry of `federation`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FederationFile {
    trust_domain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint_spiffe_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bootstrap_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle_file: Option<String>,
}

pub(super) fn federation(from: &mut Sources, own: Option<&TrustDomain>, keeps_nothing: bool) -> Vec<FederationConfig> {
    let entries = match from.structured.get(FEDERATION).cloned() {
        None => return Vec::new(),
        Some(Value::Sequence(entries)) if !keeps_nothing || entries.is_empty() => entries,
        Some(Value::Sequence(_)) => {
            from.refuse(
                FEDERATION,
                "does not count with source istiod, but for jwtSvids: leave it out, and federate istiod",
            );
            return Vec::new();
        }
        Some(_) => {
            from.refuse(FEDERATION, "takes a list of trust domains");
            return Vec::new();
        }
    };
    let mut all: Vec<FederationConfig> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let entry = serde_yaml_ng::from_value::<FederationFile>(entry)
            .map_err(|error| error.to_string())
            .and_then(FederationConfig::try_from);
        let named = entry.as_ref().ok().map(|entry| entry.relationship.trust_domain.clone());
        match entry {
            Ok(_) if named.as_ref() == own => {
                from.refuse(
                    FEDERATION,
                    format!("[{index}]: trustDomain: is the own one; a federation is with another"),
                );
            }
            Ok(entry) if all.iter().any(|other| Some(&other.relationship.trust_domain) == named.as_ref()) => {
                let name = &entry.relationship.trust_domain;
                from.refuse(FEDERATION, format!("[{index}]: trust domain {name} stands there twice"));
            }
            Ok(entry) => all.push(entry),
            Err(error) => from.refuse(FEDERATION, format!("[{index}]: {error}")),
        }
    }
    all
}

impl TryFrom<FederationFile> for FederationConfig {
    type Error = String;

    fn try_from(file: FederationFile) -> Result<Self, String> {
        let FederationFile { trust_domain, url, endpoint_spiffe_id, bootstrap_file, bundle_file } = file;
        let trust_domain = trust_domain.parse().map_err(|error| format!("trustDomain: {error}"))?;
        match (url, bundle_file) {
            (Some(url), None) => {
                of_endpoint(trust_domain, &url, endpoint_spiffe_id.as_deref(), bootstrap_file.as_deref())
            }
            (None, Some(path)) => {
                for (field, is_given) in
                    [("endpointSpiffeId", endpoint_spiffe_id.is_some()), ("bootstrapFile", bootstrap_file.is_some())]
                {
                    if is_given {
                        return Err(format!(
                            "{field}: goes with url, and there is a bundleFile: leave one of them out"
                        ));
                    }
                }
                let path = parse::path(&path).map_err(|error| format!("bundleFile: {error}"))?;
                let source = BundleSource::File(path);
                Ok(Self { relationship: Relationship { trust_domain, source }, bootstrap_file: None })
            }
            (Some(_), Some(_)) => Err("url, bundleFile: the bundle is in one place: leave one of them out".to_owned()),
            (None, None) => {
                Err("url, bundleFile: give one of them, the bundle endpoint or a file that is kept up to date"
                    .to_owned())
            }
        }
    }
}

fn of_endpoint(
    trust_domain: TrustDomain,
    url: &str,
    id: Option<&str>,
    bootstrap_file: Option<&str>,
) -> Result<FederationConfig, String> {
    let id: Option<SpiffeId> = id.map(str::parse).transpose().map_err(|error| format!("endpointSpiffeId: {error}"))?;
    let is_self_serving = id.as_ref().is_some_and(|id| *id.trust_domain() == trust_domain);
    let endpoint = BundleEndpoint {
        url: url.parse().map_err(|error| format!("url: {error}"))?,
        profile: id.map_or(EndpointProfile::HttpsWeb, EndpointProfile::HttpsSpiffe),
    };
    let bootstrap_file = bootstrap_file.map(parse::path).transpose();
    let bootstrap_file = bootstrap_file.map_err(|error| format!("bootstrapFile: {error}"))?;
    if is_self_serving && bootstrap_file.is_none() {
        return Err(
            "bootstrapFile: the endpoint is believed by its own trust domain's bundle, so the first one is handed \
                    over: name a file with it"
                .to_owned(),
        );
    }
    let source = BundleSource::Endpoint(endpoint);
    Ok(FederationConfig { relationship: Relationship { trust_domain, source }, bootstrap_file })
}

impl From<&FederationConfig> for FederationFile {
    fn from(config: &FederationConfig) -> Self {
        let Relationship { trust_domain, source } = &config.relationship;
        let (endpoint, bundle_file) = match source {
            BundleSource::Endpoint(endpoint) => (Some(endpoint), None),
            BundleSource::File(path) => (None, Some(path)),
        };
        let id = endpoint.and_then(|endpoint| endpoint.profile.endpoint_id());
        Self {
            trust_domain: trust_domain.to_string(),
            url: endpoint.map(|endpoint| endpoint.url.to_string()),
            endpoint_spiffe_id: id.map(ToString::to_string),
            bootstrap_file: config.bootstrap_file.as_ref().map(|path| path.display().to_string()),
            bundle_file: bundle_file.map(|path| path.display().to_string()),
        }
    }
}
