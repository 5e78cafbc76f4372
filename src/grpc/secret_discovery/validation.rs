//! `validation/NAMESPACE/SERVICE`: whom a gateway accepts behind a Service, as a validation context. Fail closed: not yet
//! known is withheld; a Service that accepts nobody, or that no policy holds for, gets a matcher that matches nobody, never
//! none, which would match everybody.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use super::served_secret::{ServedSecret, encode, inline, version};
use crate::{
    domain::{identity::SpiffeId, policy::IdentitySet, x509::TrustBundle},
    proto::envoy::{
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, Secret, SubjectAltNameMatcher, secret, subject_alt_name_matcher::SanType,
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    service::policy_follower::{AcceptedPeers, ServiceKey},
};

const PREFIX: &str = "validation/";
/// No authority of a mesh signs it: it is no SPIFFE ID.
const NOBODY: &str = "urn:countersign:nobody";

/// The contexts of all Services.
pub(in crate::grpc) struct ValidationContexts {
    revision: u64,
    bundle: Arc<TrustBundle>,
    services: BTreeMap<ServiceKey, Arc<Context>>,
}

/// One Service's, made when somebody asks for it.
struct Context {
    peers: Arc<[SpiffeId]>,
    rendered: OnceLock<Arc<ServedSecret>>,
}

/// The Service of a name here, if it is one.
pub(super) fn service_of(name: &str) -> Option<ServiceKey> {
    ServiceKey::parse(name.strip_prefix(PREFIX)?)
}

impl ValidationContexts {
    /// Under `bundle`. What is as it was in `before` is taken from there.
    pub(in crate::grpc) fn new(bundle: &Arc<TrustBundle>, peers: &AcceptedPeers, before: Option<&Self>) -> Self {
        let before = before.filter(|before| *before.bundle == **bundle);
        let context = |(key, peers): (&ServiceKey, &Arc<[SpiffeId]>)| {
            let known = before.and_then(|before| before.services.get(key));
            let context = match known.filter(|known| Arc::ptr_eq(&known.peers, peers)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Context { peers: Arc::clone(peers), rendered: OnceLock::new() }),
            };
            (key.clone(), context)
        };
        let services = peers.services().map(context).collect();
        Self { revision: peers.revision(), bundle: Arc::clone(bundle), services }
    }

    /// Grows with each change.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The context of a Service, of which there need be none.
    pub(super) fn get(&self, service: &ServiceKey) -> Arc<ServedSecret> {
        match self.services.get(service) {
            Some(context) => {
                Arc::clone(context.rendered.get_or_init(|| render(service, &self.bundle, &context.peers).into()))
            }
            None => render(service, &self.bundle, &[]).into(),
        }
    }
}

fn render(service: &ServiceKey, bundle: &TrustBundle, peers: &[SpiffeId]) -> ServedSecret {
    let ids = if peers.is_empty() { vec![NOBODY.to_owned()] } else { peers.iter().map(ToString::to_string).collect() };
    let content = [bundle.to_der(), ids.join("\n").into_bytes()].concat();
    let matchers = ids.into_iter().map(|id| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(id)) }),
    });
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(bundle.to_pem().into())),
        match_typed_subject_alt_names: matchers.collect(),
        custom_validator_config: None,
    };
    let name = format!("{PREFIX}{service}");
    let secret = Secret { name, r#type: Some(secret::Type::ValidationContext(context)) };
    let context = Some((service.clone(), IdentitySet::of(peers)));
    ServedSecret { version: version(&content), resource: encode(&secret), context }
}
