//! The secrets by name, encoded once per change.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    served_secret::{ServedSecret, encode, inline, version},
    validation::{ValidationContexts, service_of},
};
use crate::{
    domain::{
        bundle::SpiffeBundle,
        identity::TrustDomain,
        x509::{Certificate, TrustBundle, X509Svid},
    },
    proto::{
        Any,
        envoy::{
            config::core::v3::TypedExtensionConfig,
            extensions::transport_sockets::tls::v3::{
                CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
                spiffe_cert_validator_config,
            },
        },
    },
    service::{published_trust::PublishedTrust, svid_publisher::WorkloadIdentity},
};

const VALIDATOR_NAME: &str = "envoy.tls.cert_validator.spiffe";
const VALIDATOR_TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// The workload's key pair, by Istio's and SPIRE's name.
const IDENTITY: &str = "default";
/// The own trust domain's roots as a plain validation context.
const BUNDLE: &str = "ROOTCA";
/// Every known trust domain's roots, in the form of Envoy's SPIFFE validator.
const ALL_BUNDLES: &str = "ALL";

/// Every secret that can be asked for. It holds a key, so it has no `Debug`.
pub(in crate::grpc) struct SecretSet {
    revision: u64,
    /// The identities' names, the first one's first.
    ids: Vec<String>,
    /// Whether there are to be others, whose names are not known yet.
    awaits_others: bool,
    /// The bundles' names by trust domain, the own one's first.
    trust_domain_ids: Vec<String>,
    secrets: BTreeMap<String, Arc<ServedSecret>>,
    validation: Validation,
}

/// Whose secrets are served.
pub(in crate::grpc) struct Identities<'a> {
    /// The default.
    pub(in crate::grpc) first: &'a WorkloadIdentity,
    /// By their IDs alone.
    pub(in crate::grpc) others: &'a [&'a WorkloadIdentity],
    /// Whether some of those are not known yet.
    pub(in crate::grpc) awaits_others: bool,
}

/// How it stands with the contexts of single Services.
pub(in crate::grpc) enum Validation {
    /// No policies are followed: their names mean nothing.
    NotServed,
    /// Nothing is known yet.
    Withheld,
    /// Those that are known.
    Served(Arc<ValidationContexts>),
}

impl SecretSet {
    /// What is served of the identities, of what else there is to verify others by, and of policies. `changes` counts those of
    /// the second.
    pub(in crate::grpc) fn new(
        identities: &Identities<'_>,
        trust: Option<(&PublishedTrust, u64)>,
        validation: Validation,
    ) -> Self {
        let Identities { first: identity, others: other_identities, awaits_others } = *identities;
        let own = identity.bundle.trust_domain();
        let mut secrets = BTreeMap::new();
        let mut serve = |name: &str, version: &str, content| {
            let secret = Secret { name: name.to_owned(), r#type: Some(content) };
            secrets.insert(
                name.to_owned(),
                Arc::new(ServedSecret { version: version.to_owned(), resource: encode(&secret), context: None }),
            );
        };
        let own_roots = Roots::of_own(&identity.bundle);
        let others = trust.iter().flat_map(|(trust, _)| trust.others(own)).filter_map(Roots::of_other);
        let all: Vec<Roots<'_>> = std::iter::once(own_roots.clone()).chain(others).collect();
        serve(BUNDLE, &version(&own_roots.der), own_roots.context());
        for roots in &all {
            serve(&roots.trust_domain.id(), &version(&roots.der), roots.context());
        }
        serve(ALL_BUNDLES, &version_of_all(&all), spiffe_validator(&all));
        if let Some(svid) = identity.svid.as_deref() {
            let svid_version = version(&svid.chain().to_der());
            serve(IDENTITY, &svid_version, key_pair(svid));
        }
        let all_identities: Vec<_> = std::iter::once(&identity).chain(other_identities).copied().collect();
        for (id, svid) in all_identities.iter().filter_map(|one| Some((&one.id, one.svid.as_deref()?))) {
            serve(id.as_str(), &version(&svid.chain().to_der()), key_pair(svid));
        }
        let ids = all_identities.iter().map(|one| one.id.to_string()).collect();
        let of_identities: u64 = all_identities.iter().map(|one| one.revision).sum();
        let of_policies = if let Validation::Served(contexts) = &validation { contexts.revision() } else { 0 };
        let of_trust = trust.map_or(0, |(_, changes)| changes);
        let trust_domain_ids = all.iter().map(|roots| roots.trust_domain.id()).collect();
        let revision = of_identities + of_policies + of_trust;
        Self { revision, ids, awaits_others, trust_domain_ids, secrets, validation }
    }

    /// Secrets without content, for tests of the protocols: `svid` and `bundle` are the versions.
    #[cfg(test)]
    pub(super) fn sample(revision: u64, svid: Option<&str>, bundle: &str) -> Self {
        let [id, trust_domain_id] = ["spiffe://td/gateway", "spiffe://td"].map(str::to_owned);
        let named = |names: [&str; 2], version: &str| {
            names.map(|name| {
                let resource = Any {
                    type_url: super::served_secret::SECRET_TYPE_URL.to_owned(),
                    value: Bytes::from(name.to_owned()),
                };
                (name.to_owned(), Arc::new(ServedSecret { version: version.to_owned(), resource, context: None }))
            })
        };
        let mut secrets: BTreeMap<_, _> = named([BUNDLE, &trust_domain_id], bundle).into();
        secrets.extend(svid.map(|version| named([IDENTITY, &id], version)).into_iter().flatten());
        let (ids, trust_domain_ids) = (vec![id], vec![trust_domain_id]);
        Self { revision, ids, awaits_others: false, trust_domain_ids, secrets, validation: Validation::NotServed }
    }

    /// Grows with each change of any secret.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The secret of this name; `None` while it is withdrawn, and for names that mean nothing here.
    pub(super) fn get(&self, name: &str) -> Option<Arc<ServedSecret>> {
        if let Some(secret) = self.secrets.get(name) {
            return Some(Arc::clone(secret));
        }
        match &self.validation {
            Validation::Served(contexts) => service_of(name).map(|service| contexts.get(&service)),
            Validation::NotServed | Validation::Withheld => None,
        }
    }

    /// Whether the name means something here, withdrawn or not. The bundle of a trust domain may always come, and come again.
    pub(super) fn knows(&self, name: &str) -> bool {
        [IDENTITY, BUNDLE, ALL_BUNDLES].contains(&name)
            || self.ids.iter().any(|id| id == name)
            || self.awaits_others && name.starts_with("spiffe://")
            || is_trust_domain_id(name)
            || !matches!(self.validation, Validation::NotServed) && service_of(name).is_some()
    }

    /// What a wildcard stands for: the bundles and the identities, each once, by ID.
    pub(super) fn wildcard(&self) -> impl Iterator<Item = &str> {
        self.trust_domain_ids.iter().chain(&self.ids).map(String::as_str)
    }
}

fn is_trust_domain_id(name: &str) -> bool {
    name.strip_prefix("spiffe://").is_some_and(|rest| rest.parse::<TrustDomain>().is_ok())
}

/// The roots of one trust domain, for Envoy.
#[derive(Clone)]
struct Roots<'a> {
    trust_domain: &'a TrustDomain,
    der: Vec<u8>,
    pem: Bytes,
}

impl<'a> Roots<'a> {
    fn of_own(bundle: &'a TrustBundle) -> Self {
        Self { trust_domain: bundle.trust_domain(), der: bundle.to_der(), pem: bundle.to_pem().into() }
    }

    /// `None` without roots: Envoy takes no empty ones.
    fn of_other(bundle: &'a SpiffeBundle) -> Option<Self> {
        let roots = &bundle.x509_authorities;
        let der: Vec<u8> = roots.iter().flat_map(|root| root.der().iter().copied()).collect();
        let pem: String = roots.iter().map(Certificate::to_pem).collect();
        (!der.is_empty()).then(|| Self { trust_domain: &bundle.trust_domain, der, pem: pem.into() })
    }

    fn context(&self) -> secret::Type {
        secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(self.pem.clone())),
            custom_validator_config: None,
            match_typed_subject_alt_names: Vec::new(),
        })
    }
}

/// That of one trust domain is its roots' alone, as it always was.
fn version_of_all(all: &[Roots<'_>]) -> String {
    if let [own] = all {
        return version(&own.der);
    }
    let named = all.iter().flat_map(|roots| [roots.trust_domain.as_str().as_bytes(), b"\n", &roots.der]);
    version(&named.flatten().copied().collect::<Vec<u8>>())
}

fn key_pair(svid: &X509Svid) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(svid.chain().to_pem().into())),
        private_key: Some(inline(Bytes::from_owner(svid.key().to_pem()))),
    })
}

/// Each trust domain's roots for SVIDs of that trust domain alone, by name.
fn spiffe_validator(all: &[Roots<'_>]) -> secret::Type {
    let mut trust_domains: Vec<_> = all
        .iter()
        .map(|roots| spiffe_cert_validator_config::TrustDomain {
            name: roots.trust_domain.to_string(),
            trust_bundle: Some(inline(roots.pem.clone())),
        })
        .collect();
    trust_domains.sort_by(|one, other| one.name.cmp(&other.name));
    let config = SpiffeCertValidatorConfig { trust_domains };
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: None,
        match_typed_subject_alt_names: Vec::new(),
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR_NAME.to_owned(),
            typed_config: Some(Any { type_url: VALIDATOR_TYPE_URL.to_owned(), value: config.encode_to_vec().into() }),
        }),
    })
}
