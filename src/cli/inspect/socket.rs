//! What a SPIFFE Workload API serves: SVIDs, and the bundles that others' are verified by.

use std::collections::BTreeMap;

use serde_json::Map;
use spiffe::{WorkloadApiClient, X509BundleSet};

use super::{
    found::Found,
    trust::{Authorities, Trust},
};
use crate::{
    domain::{identity::TrustDomain, jwt::JwtAuthority, x509::Certificate},
    service::causes::with_causes,
};

/// The SVIDs with the bundles. The keys that come with them are dropped unseen.
pub(super) async fn fetch(uri: &str) -> Result<Found, String> {
    let context = connect(uri).await?.fetch_x509_context().await.map_err(|error| with_causes(&error))?;
    let mut found = Found::default();
    for svid in context.svids() {
        found.chains.extend(Found::certificates(parse(svid.cert_chain())?).chains);
    }
    found.trust = Some(Trust::of_trust_domains(uri, x509_bundles(context.bundle_set())?));
    Ok(found)
}

/// The bundles alone: keys of JWT-SVIDs for a token, roots for certificates.
pub(super) async fn fetch_trust(uri: &str, for_token: bool) -> Result<Trust, String> {
    let client = connect(uri).await?;
    let bundles = if for_token {
        let bundles = client.fetch_jwt_bundles().await.map_err(|error| with_causes(&error))?;
        let bundles = bundles.iter().map(|(trust_domain, bundle)| {
            let jwt = bundle.jwt_authorities().filter_map(|authority| jwt_authority(authority.jwk_json())).collect();
            Ok((own_form(trust_domain)?, Authorities { x509: Vec::new(), jwt }))
        });
        bundles.collect::<Result<_, String>>()?
    } else {
        x509_bundles(&client.fetch_x509_bundles().await.map_err(|error| with_causes(&error))?)?
    };
    Ok(Trust::of_trust_domains(uri, bundles))
}

async fn connect(uri: &str) -> Result<WorkloadApiClient, String> {
    WorkloadApiClient::connect_to(uri).await.map_err(|error| with_causes(&error))
}

fn x509_bundles(bundles: &X509BundleSet) -> Result<BTreeMap<TrustDomain, Authorities>, String> {
    let bundles = bundles.iter().map(|(trust_domain, bundle)| {
        Ok((own_form(trust_domain)?, Authorities { x509: parse(bundle.authorities())?, jwt: Vec::new() }))
    });
    bundles.collect()
}

fn parse(ders: &[spiffe::cert::Certificate]) -> Result<Vec<Certificate>, String> {
    let parsed = ders.iter().map(|der| Certificate::from_der(der.as_bytes()));
    parsed.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn jwt_authority(jwk: &[u8]) -> Option<JwtAuthority> {
    let jwk: Map<String, serde_json::Value> = serde_json::from_slice(jwk).ok()?;
    JwtAuthority::from_jwk(&jwk).ok()
}

fn own_form(trust_domain: &spiffe::TrustDomain) -> Result<TrustDomain, String> {
    trust_domain.to_string().parse().map_err(|error: crate::domain::identity::TrustDomainError| error.to_string())
}
