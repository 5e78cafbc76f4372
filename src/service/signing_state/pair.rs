//! The pair authority as it is kept beside the signing authority, in the same object: where one is, the other is.

use std::time::Duration;

use super::content::{PairContent, StoredAuthority};
use crate::{
    domain::{
        authority::PairAuthority,
        clock::Timestamp,
        identity::TrustDomain,
        random::SecureRandom,
        x509::{Certificate, PrivateKey},
    },
    service::ports::{StateError, StateObject, StateStore},
};

/// With less left a claim makes another one. As long as the alert is there before the end: whoever hears of it starts the replicas anew.
const LEFT_AT_A_CLAIM: Duration = Duration::from_secs(30 * 24 * 3600);

/// The pair authority in the state, read without a claim; `None` while no term has been claimed yet by a version that makes
/// one. Blocks.
///
/// # Errors
///
/// When the store can't be read, or holds another trust domain's pair authority or one of no use at `now`.
pub fn pair_authority(
    store: &dyn StateStore,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Option<PairAuthority>, StateError> {
    let Some(stored) = store.load(StateObject::Authority)? else { return Ok(None) };
    let stored = StoredAuthority::decode(&stored.content)?;
    if stored.trust_domain() != trust_domain.as_str() {
        return Err(StateError::Unusable(format!(
            "trustDomain is {trust_domain}, but the state is of {}: set that one",
            stored.trust_domain()
        )));
    }
    stored.pair().map(|pair| read(pair, trust_domain, now)).transpose()
}

/// Whether a claim at `now` leaves it as it is.
pub(super) fn is_kept(pair: &PairContent, trust_domain: &TrustDomain, now: Timestamp) -> bool {
    [now, now.plus(LEFT_AT_A_CLAIM)].into_iter().all(|time| read(pair, trust_domain, time).is_ok())
}

pub(super) fn new_pair(
    trust_domain: &TrustDomain,
    now: Timestamp,
    random: &dyn SecureRandom,
) -> Result<PairContent, StateError> {
    let made = PairAuthority::self_signed(trust_domain, now, random);
    let (authority, key) = made.map_err(|error| StateError::Io(error.to_string()))?;
    Ok(PairContent { certificate: authority.certificate().to_pem(), key: key.to_pem() })
}

fn read(pair: &PairContent, trust_domain: &TrustDomain, now: Timestamp) -> Result<PairAuthority, StateError> {
    let unusable = |what: &dyn std::fmt::Display| {
        StateError::Unusable(format!("the stored pair authority: {what}: the next claim of a term makes a new one"))
    };
    let certificates = Certificate::all_from_pem(pair.certificate.as_bytes()).map_err(|error| unusable(&error))?;
    let [certificate] = certificates.try_into().map_err(|_other_number| unusable(&"it is not one certificate"))?;
    let key = PrivateKey::from_pem(pair.key.as_bytes()).map_err(|error| unusable(&error))?;
    PairAuthority::from_parts(trust_domain, certificate, &key, now).map_err(|error| unusable(&error))
}
