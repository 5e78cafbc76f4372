//! What operators want of a federation, done by the active. Any replica takes their orders; one that is not active passes them
//! on, once.

use std::{sync::Arc, time::Duration};

use tracing::info;

use super::{Federation, poll, sources::FETCH_LIMIT, state_of};
use crate::{
    domain::{
        attestation::Reason,
        bundle::{BundleEndpoint, BundleSource, Commanded, Partner, Relationship, SpiffeBundle},
        clock::Timestamp,
        identity::TrustDomain,
    },
    service::{
        denial::Actor,
        ports::{BoxFuture, ByActive, OrderError, StateError},
        signing_session::SigningSession,
        signing_state::{Partners, PartnersError},
    },
};

/// An operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FederationOrder {
    /// Makes a relationship, or puts it in the place of the one that there is with that trust domain.
    Create(Box<NewPartner>),
    /// Ends one: its bundle is not published any more.
    Delete {
        /// With whom.
        trust_domain: TrustDomain,
        /// Why, if that was said.
        reason: Option<Reason>,
    },
    /// Fetches one bundle now.
    Refresh(TrustDomain),
    /// Shows all.
    List,
}

/// A relationship to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartner {
    /// With whom.
    pub trust_domain: TrustDomain,
    /// Where that one's bundle is. No file: each replica would have to have it.
    pub endpoint: BundleEndpoint,
    /// In the place of whatever is kept; without one, that stays.
    pub bundle: Option<SpiffeBundle>,
    /// Why, if that was said.
    pub reason: Option<Reason>,
}

/// How it stands with another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedDomain {
    /// Where its bundle is.
    pub relationship: Relationship,
    /// Whether the configuration has it; else an operator made it.
    pub is_configured: bool,
    /// The last good bundle.
    pub bundle: Option<SpiffeBundle>,
    /// When it was last fetched or read; `None` if it has not been yet, and was handed over.
    pub fetched_at: Option<Timestamp>,
    /// What was wrong the last time.
    pub trouble: Option<String>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederationError {
    /// No active replica has decided on it, or another one did.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Its roots are known better than by asking.
    #[error("{0} is the own trust domain: a federation is with another one")]
    Own(TrustDomain),
    /// An endpoint that could not be believed.
    #[error("no bundle of {0} is known, by which the endpoint is to be believed: give one with --bundle")]
    NoBundle(TrustDomain),
    /// There is none.
    #[error("there is no federation with {0}: `countersign federation list` shows those that there are")]
    Unknown(TrustDomain),
    /// It would come back.
    #[error("the federation with {0} stands in the configuration: change it there, on every replica")]
    Configured(TrustDomain),
    /// The bundle could not be fetched. What is known stays.
    #[error("the bundle of {trust_domain} was not fetched: {error}")]
    NotFetched {
        /// Whose.
        trust_domain: TrustDomain,
        /// Why.
        error: String,
    },
    /// There is no room, or the state can't be used.
    #[error(transparent)]
    Partners(#[from] PartnersError),
}

/// The operators of this replica at the active one. Nothing is passed on twice.
pub trait FederationOfActive: Send + Sync {
    /// Has the active carry out an order of its user `actor_uid`, as this replica asserts.
    fn federate<'a>(
        &'a self,
        order: &'a FederationOrder,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Vec<FederatedDomain>>, OrderError>>;
}

/// The longest that the active takes for an order: a fetch, and a write.
pub(crate) const ORDER_LIMIT: Duration = FETCH_LIMIT.saturating_add(Duration::from_secs(4));

impl From<StateError> for FederationError {
    fn from(error: StateError) -> Self {
        if matches!(error, StateError::Fenced { .. }) {
            OrderError::NotActive.into()
        } else {
            Self::Partners(error.into())
        }
    }
}

impl FederationOrder {
    /// The command, for the record; `None` of one that changes nothing.
    const fn action(&self) -> Option<&'static str> {
        match self {
            Self::Create(_) => Some("federation create"),
            Self::Delete { .. } => Some("federation delete"),
            Self::Refresh(_) => Some("federation refresh"),
            Self::List => None,
        }
    }

    const fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Create(new) => Some(&new.trust_domain),
            Self::Delete { trust_domain, .. } | Self::Refresh(trust_domain) => Some(trust_domain),
            Self::List => None,
        }
    }

    fn reason(&self) -> &str {
        let reason = match self {
            Self::Create(new) => new.reason.as_ref(),
            Self::Delete { reason, .. } => reason.as_ref(),
            Self::Refresh(_) | Self::List => None,
        };
        reason.map_or("", Reason::as_str)
    }
}

impl Federation {
    /// Carries an order out here if this replica is active, else has the active do it, unless another one has passed it on
    /// already. Returns how it stands with those trust domains that the order was about.
    ///
    /// # Errors
    ///
    /// When nobody is active, the order can't be carried out, or the state can't be written.
    pub async fn order(
        self: &Arc<Self>,
        order: FederationOrder,
        actor: Actor,
    ) -> Result<Vec<FederatedDomain>, FederationError> {
        let here = match self.active() {
            Some(session) => {
                // brought to its end, audit line included, also if nobody waits for the answer any more
                let (this, order, actor) = (Arc::clone(self), order.clone(), actor.clone());
                let done = tokio::spawn(async move { this.carry_out(&order, &actor, &session).await });
                done.await.unwrap_or_else(|error| Err(StateError::Io(error.to_string()).into()))
            }
            None => Err(OrderError::NotActive.into()),
        };
        match here {
            Err(FederationError::Order(OrderError::NotActive)) if actor.asserted_by.is_none() => {
                self.by_active(&order, actor.uid).await
            }
            decided => decided,
        }
    }

    async fn by_active(
        &self,
        order: &FederationOrder,
        actor_uid: u32,
    ) -> Result<Vec<FederatedDomain>, FederationError> {
        let answer = self.parts.pair.federate(order, actor_uid).await;
        if let (Some(action), Some(trust_domain)) = (order.action(), order.trust_domain()) {
            let reason = order.reason();
            match &answer {
                Ok(ByActive { replica, .. }) => {
                    info!(event = "audit", action, actor_uid, %trust_domain, reason, passed_on_to = replica);
                }
                Err(error) => {
                    info!(event = "audit", action, actor_uid, %trust_domain, reason, passed_on_in_vain = %error);
                }
            }
        }
        Ok(answer?.answer)
    }

    async fn carry_out(
        &self,
        order: &FederationOrder,
        actor: &Actor,
        session: &SigningSession,
    ) -> Result<Vec<FederatedDomain>, FederationError> {
        let state = state_of(session).ok_or(OrderError::NotActive)?;
        let before = poll::read(&state).await?;
        if let Some(trust_domain) = order.trust_domain().filter(|named| **named == self.parts.trust_domain) {
            return Err(FederationError::Own(trust_domain.clone()));
        }
        let after = match order {
            FederationOrder::List => return Ok(self.shown(&before)),
            FederationOrder::Create(new) => {
                let since = Timestamp::from_seconds(self.parts.clock.now().seconds());
                self.check_new(new, &before)?;
                let (new, by) = (new.clone(), actor.uid);
                let changed = self.change(&state, move |partners: &mut Partners| {
                    let NewPartner { trust_domain, endpoint, bundle, .. } = *new;
                    let partner = partners.entry(trust_domain).or_insert(Partner::NOTHING);
                    partner.commanded = Some(Commanded { endpoint, since, by });
                    if bundle.is_some() {
                        (partner.bundle, partner.fetched_at) = (bundle, None);
                    }
                    Ok::<_, FederationError>(())
                });
                changed.await?;
                poll::read(&state).await?
            }
            FederationOrder::Delete { trust_domain, .. } => {
                self.check_commanded(trust_domain, &before)?;
                let ended = trust_domain.clone();
                self.change(&state, move |partners: &mut Partners| {
                    partners.remove(&ended);
                    Ok::<_, FederationError>(())
                })
                .await?;
                poll::read(&state).await?
            }
            FederationOrder::Refresh(trust_domain) => {
                let relationships = self.relationships(&before);
                let relationship = relationships.iter().find(|one| one.trust_domain == *trust_domain);
                let relationship = relationship.ok_or_else(|| FederationError::Unknown(trust_domain.clone()))?;
                let fetched = self.fetch(relationship, &before, session, &state).await;
                fetched.map_err(|error| FederationError::NotFetched {
                    trust_domain: trust_domain.clone(),
                    error: error.to_string(),
                })?;
                poll::read(&state).await?
            }
        };
        self.note(order, actor, &before, &after);
        if let (FederationOrder::Create(_) | FederationOrder::Delete { .. }, Some(trust_domain)) =
            (order, order.trust_domain())
        {
            self.polling().remove(trust_domain);
            self.parts.metrics.forget_federated(trust_domain);
        }
        self.look.notify_one();
        let concerned = |domain: &FederatedDomain| Some(&domain.relationship.trust_domain) == order.trust_domain();
        Ok(self.shown(&after).into_iter().filter(concerned).collect())
    }

    fn note(&self, order: &FederationOrder, actor: &Actor, before: &Partners, after: &Partners) {
        let (Some(action), Some(trust_domain)) = (order.action(), order.trust_domain()) else { return };
        let words = |partners: &Partners| {
            let shown = self.shown(partners).into_iter().find(|one| one.relationship.trust_domain == *trust_domain);
            shown.map_or_else(|| "none".to_owned(), |shown| shown.in_words())
        };
        info!(
            event = "audit",
            action,
            actor_uid = actor.uid,
            asserted_by = actor.asserted_by.as_deref().unwrap_or_default(),
            %trust_domain,
            reason = order.reason(),
            old = words(before),
            new = words(after),
        );
    }

    fn check_new(&self, new: &NewPartner, partners: &Partners) -> Result<(), FederationError> {
        let NewPartner { trust_domain, endpoint, .. } = new;
        if self.configured(trust_domain).is_some() {
            return Err(FederationError::Configured(trust_domain.clone()));
        }
        let Some(of) = endpoint.profile.endpoint_id().map(|id| id.trust_domain()) else { return Ok(()) };
        let is_handed_over = new.bundle.is_some() && of == trust_domain;
        let is_known = partners.get(of).is_some_and(|partner| partner.bundle.is_some());
        if is_handed_over || is_known || *of == self.parts.trust_domain {
            return Ok(());
        }
        Err(FederationError::NoBundle(of.clone()))
    }

    fn check_commanded(&self, trust_domain: &TrustDomain, partners: &Partners) -> Result<(), FederationError> {
        if self.configured(trust_domain).is_some() {
            return Err(FederationError::Configured(trust_domain.clone()));
        }
        let is_known = partners.get(trust_domain).is_some_and(|partner| partner.commanded.is_some());
        if is_known { Ok(()) } else { Err(FederationError::Unknown(trust_domain.clone())) }
    }

    fn shown(&self, partners: &Partners) -> Vec<FederatedDomain> {
        let polling = self.polling().clone();
        let shown = self.relationships(partners).into_iter().map(|relationship| {
            let (partner, polled) = (partners.get(&relationship.trust_domain), polling.get(&relationship.trust_domain));
            FederatedDomain {
                is_configured: self.configured(&relationship.trust_domain).is_some(),
                bundle: partner.and_then(|partner| partner.bundle.clone()),
                fetched_at: polled
                    .and_then(|polled| polled.last_success)
                    .or_else(|| partner.and_then(|partner| partner.fetched_at)),
                trouble: polled.and_then(|polled| polled.last_error.clone()),
                relationship,
            }
        });
        shown.collect()
    }
}

impl FederatedDomain {
    /// For the audit line.
    fn in_words(&self) -> String {
        let source = match &self.relationship.source {
            BundleSource::File(path) => format!("file {}", path.display()),
            BundleSource::Endpoint(BundleEndpoint { url, profile }) => {
                let id = profile.endpoint_id().map(|id| format!(" as {id}")).unwrap_or_default();
                format!("{url} by {}{id}", profile.name())
            }
        };
        let sequence = self.bundle.as_ref().map(|bundle| bundle.sequence);
        let bundle = match sequence {
            None => "no bundle".to_owned(),
            Some(None) => "a bundle without sequence".to_owned(),
            Some(Some(sequence)) => format!("bundle {sequence}"),
        };
        format!("{source}, {bundle}")
    }
}
