//! `countersign federation`.

use std::{
    fmt::{self, Write as _},
    io,
};

use serde::Serialize;

use super::{issuance::ListForm, render::escaped};
use crate::{
    domain::{
        bundle::{BundleSource, EndpointProfile, Relationship},
        identity::TrustDomain,
    },
    service::federation::FederatedDomain,
};

/// One trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    trust_domain: String,
    /// Its bundle endpoint; null if its bundle is in a file.
    url: Option<String>,
    /// `https_web` or `https_spiffe`; null if its bundle is in a file.
    profile: Option<&'static str>,
    /// Of the endpoint, with `https_spiffe`.
    endpoint_spiffe_id: Option<String>,
    /// The file, on each replica, that its bundle is in; null if there is an endpoint.
    bundle_file: Option<String>,
    /// Whether the configuration has it.
    configured: bool,
    /// Of the last good bundle; null without a bundle or a sequence in it.
    sequence: Option<u64>,
    /// How many it has; null without a bundle.
    x509_authorities: Option<usize>,
    /// How many keys of JWT-SVIDs it has; null without a bundle.
    jwt_authorities: Option<usize>,
    /// When a good one was last fetched or read, RFC 3339; null if none ever was.
    fetched_at: Option<String>,
    /// What was wrong the last time; null if nothing was.
    trouble: Option<String>,
}

impl Entry {
    fn of(domain: &FederatedDomain) -> Self {
        let source = &domain.relationship.source;
        let (endpoint, is_file) = match source {
            BundleSource::Endpoint(endpoint) => (Some(endpoint), false),
            BundleSource::File(_) => (None, true),
        };
        let profile = endpoint.map(|endpoint| &endpoint.profile);
        let bundle = domain.bundle.as_ref();
        Self {
            trust_domain: domain.relationship.trust_domain.to_string(),
            url: endpoint.map(|endpoint| endpoint.url.to_string()),
            profile: profile.map(EndpointProfile::name),
            endpoint_spiffe_id: profile.and_then(EndpointProfile::endpoint_id).map(ToString::to_string),
            bundle_file: is_file.then(|| source.to_string()),
            configured: domain.is_configured,
            sequence: bundle.and_then(|bundle| bundle.sequence),
            x509_authorities: bundle.map(|bundle| bundle.x509_authorities.len()),
            jwt_authorities: bundle.map(|bundle| bundle.jwt_authorities.len()),
            fetched_at: domain.fetched_at.map(|at| at.to_string()),
            trouble: domain.trouble.clone(),
        }
    }
}

/// All of them as text, with a newline at its end.
///
/// # Errors
///
/// When a serializer fails.
pub fn render(domains: &[FederatedDomain], form: ListForm) -> io::Result<String> {
    let entries: Vec<Entry> = domains.iter().map(Entry::of).collect();
    form.render(entries.as_slice(), table)
}

/// What `create` says of its success.
pub fn created(domain: &FederatedDomain) -> String {
    let Relationship { trust_domain, source } = &domain.relationship;
    format!("the bundle of {trust_domain} is fetched from {source} from now on\n")
}

/// What `refresh` says of its success.
pub fn refreshed(domain: &FederatedDomain) -> String {
    let Entry { trust_domain, sequence, x509_authorities, jwt_authorities, .. } = Entry::of(domain);
    let sequence = sequence.map(|sequence| format!(" {sequence}")).unwrap_or_default();
    let (x509, jwt) = (x509_authorities.unwrap_or_default(), jwt_authorities.unwrap_or_default());
    format!("{trust_domain}: bundle{sequence} with {x509} X.509 authorities and {jwt} keys of JWT-SVIDs\n")
}

/// What `delete` says of its success.
pub fn ended(trust_domain: &TrustDomain) -> String {
    format!("{trust_domain} is not federated with any more\n")
}

fn table(entries: &[Entry]) -> Result<String, fmt::Error> {
    let rows: Vec<[String; 6]> = entries.iter().map(row).collect();
    let head = ["TRUST DOMAIN", "SOURCE", "PROFILE", "SEQUENCE", "FETCHED", "TROUBLE"].map(str::to_owned);
    let widths: [usize; 6] = std::array::from_fn(|column| {
        let widths = std::iter::once(&head).chain(&rows).filter_map(|row| row.get(column)).map(String::len);
        widths.max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(text)
}

fn row(entry: &Entry) -> [String; 6] {
    let none = || "-".to_owned();
    [
        entry.trust_domain.clone(),
        entry.url.as_deref().or(entry.bundle_file.as_deref()).map_or_else(none, |source| escaped(source).to_string()),
        entry.profile.map_or_else(|| "file".to_owned(), str::to_owned),
        entry.sequence.map_or_else(none, |sequence| sequence.to_string()),
        entry.fetched_at.clone().unwrap_or_else(|| "never".to_owned()),
        entry.trouble.as_deref().map_or_else(none, |trouble| escaped(trouble).to_string()),
    ]
}
