//! Other trust domains: their bundles are fetched by the active, kept as they were read last, and published beside the own one,
//! never merged. Which ones, the configuration and operators say.

mod order;
mod poll;
mod sources;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ring::digest::{SHA256, digest};
use tokio::sync::{Notify, watch};

pub(crate) use self::order::ORDER_LIMIT;
use self::poll::Polling;
pub use self::{
    order::{FederatedDomain, FederationError, FederationOfActive, FederationOrder, NewPartner},
    sources::{BundleFiles, FetchRefused},
};
use super::{
    metrics::Metrics,
    ports::BoxFuture,
    signing_session::SigningSession,
    signing_state::{Partners, TermState, check_room_for},
};
use crate::domain::{
    bundle::{BundleSource, EndpointProfile, EndpointUrl, Relationship, SpiffeBundle, handed_over},
    clock::Clock,
    identity::{SpiffeId, TrustDomain},
    random::SecureRandom,
    x509::TrustBundle,
};

/// Reads what a bundle endpoint answers.
pub trait BundleFetcher: Send + Sync {
    /// The document at `url`, if whoever answers there proves itself so; else why not. May be dropped at any time.
    fn fetch<'a>(
        &'a self,
        url: &'a EndpointUrl,
        authentication: EndpointAuthentication,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>>;
}

/// By what an endpoint is believed.
#[derive(Clone, Debug)]
pub enum EndpointAuthentication {
    /// The roots of the operating system, and the host's name.
    Web,
    /// A bundle, and the endpoint's ID.
    Spiffe {
        /// It must have exactly this one.
        id: SpiffeId,
        /// Of that ID's trust domain.
        bundle: TrustBundle,
    },
}

/// A relationship that stands in the configuration. It goes before one that was made by command, and ends only there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredPartner {
    /// What it is.
    pub relationship: Relationship,
    /// What is known of it before anything was fetched.
    pub bootstrap: Option<Bootstrap>,
}

/// A bundle that an operator hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// It.
    pub bundle: SpiffeBundle,
    /// Of what it was read from, in hex: another one replaces what is kept.
    pub digest: String,
}

impl Bootstrap {
    /// Reads what an operator hands over of `trust_domain`.
    ///
    /// # Errors
    ///
    /// When it is no bundle, or more than can be kept, in words.
    pub fn read(trust_domain: TrustDomain, content: &[u8]) -> Result<Self, String> {
        let bundle = handed_over(trust_domain, content)?;
        let digest = digest_of(content);
        check_room_for(&bundle, &digest).map_err(|error| error.to_string())?;
        Ok(Self { bundle, digest })
    }
}

/// The use case; one for each replica.
pub struct Federation {
    parts: Parts,
    /// What is known of the endpoints since this replica became active.
    polling: Mutex<BTreeMap<TrustDomain, Polling>>,
    /// Has the poller look at what is due.
    look: Notify,
}

/// What [`Federation`] works with.
pub struct Parts {
    /// The term of this replica.
    pub session: watch::Receiver<Option<Arc<SigningSession>>>,
    /// Never federated with.
    pub trust_domain: TrustDomain,
    /// In the configuration.
    pub configured: Vec<ConfiguredPartner>,
    /// Reads what endpoints answer.
    pub fetcher: Arc<dyn BundleFetcher>,
    /// Reads files.
    pub files: Arc<dyn BundleFiles>,
    /// Where operators' orders go that this replica can't carry out.
    pub pair: Arc<dyn FederationOfActive>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub random: Arc<dyn SecureRandom>,
    /// Where fetches are counted.
    pub metrics: Arc<Metrics>,
}

impl Federation {
    /// Nothing is fetched before [`Self::run`].
    pub fn new(parts: Parts) -> Self {
        Self { parts, polling: Mutex::default(), look: Notify::new() }
    }

    /// The term of now. What is written in it is fenced, so nothing waits for orders when it ends.
    fn active(&self) -> Option<Arc<SigningSession>> {
        self.parts.session.borrow().clone().filter(|session| session.covers(self.parts.clock.boot()))
    }

    fn configured(&self, trust_domain: &TrustDomain) -> Option<&ConfiguredPartner> {
        self.parts.configured.iter().find(|partner| partner.relationship.trust_domain == *trust_domain)
    }

    /// All that there are, in the order of their trust domains.
    fn relationships(&self, partners: &Partners) -> Vec<Relationship> {
        let commanded = partners.iter().filter_map(|(trust_domain, partner)| {
            let commanded = partner.commanded.as_ref().filter(|_| self.configured(trust_domain).is_none())?;
            Some(Relationship {
                trust_domain: trust_domain.clone(),
                source: BundleSource::Endpoint(commanded.endpoint.clone()),
            })
        });
        let mut all: Vec<_> =
            self.parts.configured.iter().map(|partner| partner.relationship.clone()).chain(commanded).collect();
        all.sort_by(|one, other| one.trust_domain.cmp(&other.trust_domain));
        all
    }

    /// By what an endpoint of that profile is believed, or why nothing is known for that.
    fn authentication(
        &self,
        profile: &EndpointProfile,
        partners: &Partners,
        own: &SpiffeBundle,
    ) -> Result<EndpointAuthentication, String> {
        let EndpointProfile::HttpsSpiffe(id) = profile else { return Ok(EndpointAuthentication::Web) };
        let of = id.trust_domain();
        let known = if *of == own.trust_domain {
            Some(own)
        } else {
            partners.get(of).and_then(|partner| partner.bundle.as_ref())
        };
        let roots = known.map(|bundle| bundle.x509_authorities.clone()).unwrap_or_default();
        let bundle = TrustBundle::new(of.clone(), roots).map_err(|_none| {
            format!(
                "no X.509 authority of {of} is known, by which the endpoint is to be believed: hand its bundle over"
            )
        })?;
        Ok(EndpointAuthentication::Spiffe { id: id.clone(), bundle })
    }

    fn polling(&self) -> std::sync::MutexGuard<'_, BTreeMap<TrustDomain, Polling>> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In hex.
fn digest_of(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A session whose state can be changed.
fn state_of(session: &SigningSession) -> Option<Arc<TermState>> {
    session.state().map(Arc::clone)
}

#[cfg(test)]
mod tests;
