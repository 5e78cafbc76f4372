//! The secrets by name, encoded once per change.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    served_secret::{ServedSecret, encode, inline, version},
    validation::{ValidationContexts, service_of},
};
use crate::{
    domain::x509::{TrustBundle, X509Svid},
    proto::{
        Any,
        envoy::{
            config::core::v3::TypedExtensionConfig,
            extensions::transport_sockets::tls::v3::{
                CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
                spiffe_cert_validator_config::TrustDomain,
            },
        },
    },
    service::svid_publisher::WorkloadIdentity,
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
    id: String,
    trust_domain_id: String,
    secrets: BTreeMap<String, Arc<ServedSecret>>,
    validation: Validation,
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
    pub(in crate::grpc) fn new(identity: &WorkloadIdentity, validation: Validation) -> Self {
        let id = identity.id.to_string();
        let trust_domain_id = identity.bundle.trust_domain().id();
        let mut secrets = BTreeMap::new();
        let bundle = &identity.bundle;
        let bundle_version = version(&bundle.to_der());
        let mut serve = |name: &str, version: &str, content| {
            let secret = Secret { name: name.to_owned(), r#type: Some(content) };
            secrets.insert(
                name.to_owned(),
                Arc::new(ServedSecret { version: version.to_owned(), resource: encode(&secret), context: None }),
            );
        };
        serve(BUNDLE, &bundle_version, roots(bundle));
        serve(&trust_domain_id, &bundle_version, roots(bundle));
        serve(ALL_BUNDLES, &bundle_version, spiffe_validator(bundle));
        if let Some(svid) = identity.svid.as_deref() {
            let svid_version = version(&svid.chain().to_der());
            serve(IDENTITY, &svid_version, key_pair(svid));
            serve(&id, &svid_version, key_pair(svid));
        }
        let of_policies = if let Validation::Served(contexts) = &validation { contexts.revision() } else { 0 };
        Self { revision: identity.revision + of_policies, id, trust_domain_id, secrets, validation }
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
        Self { revision, id, trust_domain_id, secrets, validation: Validation::NotServed }
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

    /// Whether the name means something here, withdrawn or not.
    pub(super) fn knows(&self, name: &str) -> bool {
        [IDENTITY, BUNDLE, ALL_BUNDLES, &self.id, &self.trust_domain_id].contains(&name)
            || !matches!(self.validation, Validation::NotServed) && service_of(name).is_some()
    }

    /// What a wildcard stands for: the bundle and the identity, each once, by ID.
    pub(super) fn wildcard(&self) -> [&str; 2] {
        [&self.trust_domain_id, &self.id]
    }
}

fn key_pair(svid: &X509Svid) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(svid.chain().to_pem().into())),
        private_key: Some(inline(Bytes::from_owner(svid.key().to_pem()))),
    })
}

fn roots(bundle: &TrustBundle) -> secret::Type {
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(bundle.to_pem().into())),
        custom_validator_config: None,
        match_typed_subject_alt_names: Vec::new(),
    })
}

fn spiffe_validator(bundle: &TrustBundle) -> secret::Type {
    let config = SpiffeCertValidatorConfig {
        trust_domains: vec![TrustDomain {
            name: bundle.trust_domain().to_string(),
            trust_bundle: Some(inline(bundle.to_pem().into())),
        }],
    };
    secret::Type::ValidationContext(CertificateValidationContext {
        trusted_ca: None,
        match_typed_subject_alt_names: Vec::new(),
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR_NAME.to_owned(),
            typed_config: Some(Any { type_url: VALIDATOR_TYPE_URL.to_owned(), value: config.encode_to_vec().into() }),
        }),
    })
}
