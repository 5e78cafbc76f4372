//! What is published, read from the state without a claim: what the active has written is right.

use std::time::Duration;

use super::{StateError, StateObject, StateStore, content::TrustContent};
use crate::{
    domain::{identity::TrustDomain, leadership::Term},
    service::published_trust::PublishedTrust,
};

/// What was published last, with this refresh hint, and in which term; `None` if nothing was yet. Blocks: call it off the runtime.
///
/// # Errors
///
/// When the state can't be read, or is none.
pub fn stored_trust(
    store: &dyn StateStore,
    trust_domain: &TrustDomain,
    refresh_hint: Duration,
) -> Result<Option<(Term, PublishedTrust)>, StateError> {
    let Some(stored) = store.load(StateObject::Trust)? else { return Ok(None) };
    let trust = TrustContent::decode(&stored.content)?.published(trust_domain, refresh_hint)?;
    // what a version without it has written
    let is_published = !trust.own.x509_authorities.is_empty();
    Ok(is_published.then_some((stored.term, trust)))
}
