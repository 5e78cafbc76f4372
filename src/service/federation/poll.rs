//! When which bundle is fetched, and what becomes of the answer.

use std::{collections::BTreeSet, convert::Infallible, future::pending, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Bootstrap, Federation, digest_of,
    sources::{FetchRefused, shown_interval},
    state_of,
};
use crate::{
    domain::{
        bundle::{BundleSource, Partner, Relationship, SpiffeBundle, check_order},
        clock::Timestamp,
        identity::TrustDomain,
    },
    service::{
        metrics::FetchOutcome,
        ports::StateError,
        signing_session::SigningSession,
        signing_state::{Partners, PartnersError, TermState},
    },
};

/// After a state that could not be read or written.
const RETRY: Duration = Duration::from_secs(1);
/// After a configuration that could not be taken up whole.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(60);
/// How often it is put on record that a bundle which stays the same was fetched: whoever is active next says so then, should the
/// endpoint not answer any more.
const RECORD_EVERY: Duration = Duration::from_secs(3600);
/// While there is nobody to ask.
const NOBODY: Duration = Duration::from_secs(3600);

/// What is known of a source since this replica became active.
#[derive(Clone, Debug)]
pub(super) struct Polling {
    /// When it was fetched for the first time, or that was tried.
    pub(super) first: Instant,
    next: Instant,
    failures: u32,
    pub(super) last_success: Option<Timestamp>,
    pub(super) last_error: Option<String>,
}

impl Federation {
    /// Fetches what is due for as long as this replica is active. Never returns.
    pub async fn run(&self) -> Infallible {
        let mut sessions = self.parts.session.clone();
        loop {
            let session = sessions.borrow_and_update().clone();
            self.polling().clear();
            self.parts.metrics.forget_federation();
            let changed = tokio::select! {
                changed = sessions.changed() => changed,
                never = self.poll(session) => match never {},
            };
            if changed.is_err() {
                return pending().await;
            }
        }
    }

    async fn poll(&self, session: Option<Arc<SigningSession>>) -> Infallible {
        let Some((session, state)) = session.and_then(|session| Some((Arc::clone(&session), state_of(&session)?)))
        else {
            return pending().await;
        };
        let mut not_taken_up = None;
        let (mut under_way, mut fetching) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let trouble = self.take_configuration(&state).await.err();
            if let Some(error) = trouble.as_ref().filter(|error| not_taken_up.as_ref() != Some(*error)) {
                warn!(event = "federation_not_taken_up", %error);
            }
            not_taken_up = trouble;
            let next = match self.due(&state, &fetching).await {
                Ok((partners, due, next)) => {
                    // one that answers slowly holds no other up
                    for one in due {
                        fetching.insert(one.trust_domain.clone());
                        let (partners, session, state) = (Arc::clone(&partners), &session, &state);
                        under_way.push(async move {
                            let _noted = self.fetch(&one, &partners, session, state).await.is_ok();
                            one.trust_domain
                        });
                    }
                    if not_taken_up.is_none() { next } else { next.min(Instant::now() + TAKE_UP_AGAIN) }
                }
                Err(error) => {
                    warn!(event = "federation_not_read", %error);
                    Instant::now() + RETRY
                }
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.look.notified() => {}
                Some(fetched) = under_way.next() => { fetching.remove(&fetched); }
            }
        }
    }

    /// Puts what the configuration hands over into the state, unless that has been done, and ends what stands nowhere any more. One
    /// that can't be put there keeps no other one from it; the first such error is returned.
    async fn take_configuration(&self, state: &Arc<TermState>) -> Result<(), PartnersError> {
        let configured = self.parts.configured.clone();
        let mut taken = self
            .change(state, move |partners: &mut Partners| {
                partners.retain(|trust_domain, partner| {
                    let is_configured = configured.iter().any(|one| one.relationship.trust_domain == *trust_domain);
                    partner.commanded.is_some() || is_configured
                });
                Ok::<_, PartnersError>(())
            })
            .await;
        for one in &self.parts.configured {
            let one = one.clone();
            let one_taken = self
                .change(state, move |partners: &mut Partners| {
                    let partner = partners.entry(one.relationship.trust_domain).or_insert(Partner::NOTHING);
                    if let Some(Bootstrap { bundle, digest }) = one.bootstrap {
                        partner.hand_over(bundle, digest);
                    }
                    Ok::<_, PartnersError>(())
                })
                .await;
            taken = taken.and(one_taken);
        }
        taken
    }

    /// What is to be fetched now of what is not being fetched, by what is kept; and when something will be.
    async fn due(
        &self,
        state: &Arc<TermState>,
        fetching: &BTreeSet<TrustDomain>,
    ) -> Result<(Arc<Partners>, Vec<Relationship>, Instant), StateError> {
        let partners = Arc::new(read(state).await?);
        let relationships = self.relationships(&partners);
        let now = Instant::now();
        let mut polling = self.polling();
        polling.retain(|trust_domain, _| {
            let is_kept = relationships.iter().any(|one| one.trust_domain == *trust_domain);
            if !is_kept {
                self.parts.metrics.forget_federated(trust_domain);
            }
            is_kept
        });
        for one in relationships.iter().filter(|one| !polling.contains_key(&one.trust_domain)) {
            self.show_kept(&partners, one);
        }
        let idle = relationships.into_iter().filter(|one| !fetching.contains(&one.trust_domain));
        let (due, later): (Vec<_>, Vec<_>) =
            idle.partition(|one| polling.get(&one.trust_domain).is_none_or(|polled| polled.next <= now));
        let next = later.iter().filter_map(|one| polling.get(&one.trust_domain)).map(|polled| polled.next).min();
        drop(polling);
        Ok((partners, due, next.unwrap_or(now + NOBODY)))
    }

    /// Fetches one bundle now, and notes when it is due again.
    pub(super) async fn fetch(
        &self,
        relationship: &Relationship,
        partners: &Partners,
        session: &SigningSession,
        state: &Arc<TermState>,
    ) -> Result<(), FetchRefused> {
        let trust_domain = &relationship.trust_domain;
        let known = partners.get(trust_domain).and_then(|partner| partner.bundle.as_ref());
        let fetched = self.fetched(relationship, partners, session, state).await;
        if !session.covers(self.parts.clock.boot()) {
            // whoever is active next says how it stands
            return fetched.map(drop);
        }
        let outcome = match &fetched {
            Ok((_, true)) => FetchOutcome::Updated,
            Ok((_, false)) => FetchOutcome::Unchanged,
            Err(FetchRefused::Unreachable(_)) => FetchOutcome::Unreachable,
            Err(FetchRefused::Document(_) | FetchRefused::File(_)) => FetchOutcome::Invalid,
            Err(FetchRefused::Order(_) | FetchRefused::Behind) => FetchOutcome::Outdated,
            Err(FetchRefused::Partners(_) | FetchRefused::Ended) => FetchOutcome::NotKept,
        };
        self.parts.metrics.bundle_fetched(outcome);
        match fetched {
            Ok((bundle, is_news)) => {
                self.succeeded(relationship, &bundle);
                if is_news {
                    let (x509, jwt) = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
                    info!(event = "federated_bundle", %trust_domain, sequence = bundle.sequence, x509, jwt);
                } else {
                    debug!(event = "federated_bundle_unchanged", %trust_domain);
                }
                Ok(())
            }
            Err(error) => {
                self.failed(relationship, known, &error);
                Err(error)
            }
        }
    }

    /// The bundle, and whether it is another one than before.
    async fn fetched(
        &self,
        relationship: &Relationship,
        partners: &Partners,
        session: &SigningSession,
        state: &Arc<TermState>,
    ) -> Result<(SpiffeBundle, bool), FetchRefused> {
        let trust_domain = &relationship.trust_domain;
        let kept = partners.get(trust_domain);
        let bundle = match &relationship.source {
            BundleSource::Endpoint(endpoint) => self.answered(trust_domain, endpoint, partners, session).await?,
            BundleSource::File(path) => self.in_file(trust_domain, path, kept).await?,
        };
        let known = kept.and_then(|partner| partner.bundle.as_ref());
        check_order(known, &bundle)?;
        let now = self.parts.clock.now();
        if known == Some(&bundle) {
            if !self.relationships(&read(state).await?).contains(relationship) {
                return Err(FetchRefused::Ended);
            }
            let recorded = kept.and_then(|partner| partner.fetched_at);
            if recorded.is_none_or(|at| now.since(at) >= RECORD_EVERY) {
                self.record_fetch(trust_domain, now, state).await;
            }
            return Ok((bundle, false));
        }
        let (taken, of, fetched_at) = (bundle.clone(), relationship.clone(), now);
        let is_configured = self.configured(trust_domain).is_some();
        self.change(state, move |partners: &mut Partners| {
            // what an operator has done meanwhile goes before it
            let partner = partners.get_mut(&of.trust_domain).ok_or(FetchRefused::Ended)?;
            let commanded = partner.commanded.as_ref().map(|one| BundleSource::Endpoint(one.endpoint.clone()));
            if !is_configured && commanded.as_ref() != Some(&of.source) {
                return Err(FetchRefused::Ended);
            }
            check_order(partner.bundle.as_ref(), &taken)?;
            let replaced = partner.bundle.replace(taken).filter(|_| matches!(of.source, BundleSource::File(_)));
            partner.replaced = replaced.map(|bundle| digest_of(bundle.to_json().as_bytes()));
            partner.fetched_at = Some(Timestamp::from_seconds(fetched_at.seconds()));
            Ok(())
        })
        .await?;
        Ok((bundle, true))
    }

    /// That the same bundle was fetched again. What comes of it is of no weight: it is tried again after the next fetch.
    async fn record_fetch(&self, trust_domain: &TrustDomain, now: Timestamp, state: &Arc<TermState>) {
        let of = trust_domain.clone();
        let recorded = self.change(state, move |partners: &mut Partners| {
            if let Some(partner) = partners.get_mut(&of) {
                partner.fetched_at = Some(Timestamp::from_seconds(now.seconds()));
            }
            Ok::<_, PartnersError>(())
        });
        if let Err(error) = recorded.await {
            debug!(event = "federated_fetch_not_recorded", %trust_domain, %error);
        }
    }

    /// How old what is kept is, should its source not have it: it is no younger than that.
    fn show_kept(&self, partners: &Partners, Relationship { trust_domain, source }: &Relationship) {
        let Some(Partner { bundle: Some(bundle), fetched_at: Some(at), .. }) = partners.get(trust_domain) else {
            return;
        };
        self.parts.metrics.set_bundle_fetched(trust_domain, *at, shown_interval(source, bundle));
    }

    fn succeeded(&self, Relationship { trust_domain, source }: &Relationship, bundle: &SpiffeBundle) {
        let now = self.parts.clock.now();
        self.parts.metrics.set_bundle_fetched(trust_domain, now, shown_interval(source, bundle));
        let next = Instant::now() + self.until_next(source, bundle);
        let mut polling = self.polling();
        let first = polling.get(trust_domain).map_or_else(Instant::now, |before| before.first);
        let polled = Polling { first, next, failures: 0, last_success: Some(now), last_error: None };
        let before = polling.insert(trust_domain.clone(), polled);
        drop(polling);
        if before.is_some_and(|before| before.failures > 0) {
            info!(event = "federated_bundle_fetched_again", %trust_domain);
        }
    }

    /// The last good one stays, for ever.
    fn failed(&self, relationship: &Relationship, known: Option<&SpiffeBundle>, error: &FetchRefused) {
        let Relationship { trust_domain, source } = relationship;
        let mut polling = self.polling();
        let before = polling.get(trust_domain);
        let first = before.map_or_else(Instant::now, |before| before.first);
        let failures = before.map_or(0, |before| before.failures).saturating_add(1);
        let next = Instant::now() + self.until_retry(source, failures, known);
        let text = error.to_string();
        let is_said = before.and_then(|before| before.last_error.as_ref()) == Some(&text);
        let last_success = before.and_then(|before| before.last_success);
        let polled = Polling { first, next, failures, last_success, last_error: Some(text) };
        polling.insert(trust_domain.clone(), polled);
        drop(polling);
        if is_said {
            debug!(event = "federated_bundle_not_fetched", %trust_domain, failures, %error);
        } else {
            warn!(event = "federated_bundle_not_fetched", %trust_domain, %source, %error, "the one that is known stays");
        }
    }

    pub(super) async fn change<E: From<PartnersError> + From<StateError> + Send + 'static>(
        &self,
        state: &Arc<TermState>,
        change: impl FnOnce(&mut Partners) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let state = Arc::clone(state);
        let changed = spawn_blocking(move || state.change_partners(change)).await;
        changed.map_err(|error| E::from(StateError::Io(error.to_string())))?
    }
}

/// What is kept of other trust domains.
pub(super) async fn read(state: &Arc<TermState>) -> Result<Partners, StateError> {
    let state = Arc::clone(state);
    spawn_blocking(move || state.partners()).await.map_err(|error| StateError::Io(error.to_string()))?
}
