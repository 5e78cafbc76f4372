//! What stands in the state objects, as JSON. A reader ignores fields that it doesn't know, and writes them back as they
//! were; a missing one has a meaning: versions N and N+1 read each other's objects, and neither loses what the other added.
//! What a version must not pass over needs a format of its own.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{federation::FederationContent, json::encoded, slots::RotationContent, unknown_fields::UnknownFields};
use crate::{
    domain::{
        attestation::{Denial, Denied, DeniedSubject},
        bundle::SpiffeBundle,
        clock::Timestamp,
        identity::TrustDomain,
        jwt::JwtAuthority,
        x509::{Certificate, TrustBundle},
    },
    service::{ports::StateError, published_trust::PublishedTrust},
};

const FORMAT: u32 = 1;
/// A number of its own, so that a version which knows only roots of its own refuses the state and makes none.
const PLUGGED_IN: u32 = 2;

/// The authority object.
pub(super) enum StoredAuthority {
    Own(AuthorityContent),
    PluggedIn(PluggedInContent),
}

#[derive(Serialize, Deserialize)]
pub(super) struct PluggedInContent {
    format: u32,
    trust_domain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair: Option<PairContent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<RotationContent>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AuthorityContent {
    format: u32,
    trust_domain: String,
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
    /// Intermediates that are sent above a leaf, PEM; none for a root of our own.
    pub(super) chain: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair: Option<PairContent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotation: Option<RotationContent>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// The pair authority, PEM. Absent in what versions without one wrote.
#[derive(Serialize, Deserialize)]
pub(super) struct PairContent {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TrustContent {
    format: u32,
    /// Grows with each change of the bundle.
    sequence: u64,
    /// PEM. With a plugged-in authority the roots that it brought last, or none.
    bundle: String,
    /// Public halves of the keys of JWT-SVIDs, as JWKs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jwt: Vec<Map<String, Value>>,
    /// Authorities whose SVIDs are to be renewed at once: subject key identifiers in hex, and key identifiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tainted: Vec<String>,
    #[serde(default, skip_serializing_if = "DeniedContent::is_empty")]
    denied: DeniedContent,
    /// Other trust domains.
    #[serde(default, skip_serializing_if = "FederationContent::is_empty")]
    federation: FederationContent,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// By SPIFFE ID, and by serial in hex.
#[derive(Default, Serialize, Deserialize)]
struct DeniedContent {
    #[serde(default)]
    identities: BTreeMap<String, DenialContent>,
    #[serde(default)]
    serials: BTreeMap<String, DenialContent>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Serialize, Deserialize)]
struct DenialContent {
    reason: String,
    /// Seconds since the epoch.
    since: i64,
    /// UID.
    by: u32,
    #[serde(flatten)]
    unknown: UnknownFields,
}

impl StoredAuthority {
    pub(super) fn decode(content: &[u8]) -> Result<Self, StateError> {
        match decoded(content)? {
            Header { format: FORMAT } => decoded(content).map(Self::Own),
            Header { format: PLUGGED_IN } => decoded(content).map(Self::PluggedIn),
            Header { format } => Err(newer(format, PLUGGED_IN)),
        }
    }

    pub(super) fn trust_domain(&self) -> &str {
        match self {
            Self::Own(stored) => &stored.trust_domain,
            Self::PluggedIn(stored) => &stored.trust_domain,
        }
    }

    pub(super) const fn pair(&self) -> Option<&PairContent> {
        match self {
            Self::Own(stored) => stored.pair.as_ref(),
            Self::PluggedIn(stored) => stored.pair.as_ref(),
        }
    }

    pub(super) fn set_pair(&mut self, pair: PairContent) {
        match self {
            Self::Own(stored) => stored.pair = Some(pair),
            Self::PluggedIn(stored) => stored.pair = Some(pair),
        }
    }

    pub(super) const fn rotation(&self) -> Option<&RotationContent> {
        match self {
            Self::Own(stored) => stored.rotation.as_ref(),
            Self::PluggedIn(stored) => stored.rotation.as_ref(),
        }
    }

    pub(super) fn rotation_mut(&mut self) -> &mut RotationContent {
        let rotation = match self {
            Self::Own(stored) => &mut stored.rotation,
            Self::PluggedIn(stored) => &mut stored.rotation,
        };
        rotation.get_or_insert_default()
    }

    pub(super) fn encoded(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        match self {
            Self::Own(stored) => encoded(stored),
            Self::PluggedIn(stored) => encoded(stored),
        }
    }
}

impl PluggedInContent {
    pub(super) fn new(trust_domain: &TrustDomain) -> Self {
        Self {
            format: PLUGGED_IN,
            trust_domain: trust_domain.to_string(),
            pair: None,
            rotation: None,
            unknown: UnknownFields::default(),
        }
    }
}

impl AuthorityContent {
    /// Of a self-signed authority.
    pub(super) fn new(trust_domain: &TrustDomain, certificate: String, key: Zeroizing<String>) -> Self {
        Self {
            format: FORMAT,
            trust_domain: trust_domain.to_string(),
            certificate,
            key,
            chain: Vec::new(),
            pair: None,
            rotation: None,
            unknown: UnknownFields::default(),
        }
    }
}

impl AuthorityContent {
    /// With what is sent above a leaf, PEM each.
    pub(super) fn with_chain(self, chain: Vec<String>) -> Self {
        Self { chain, ..self }
    }

    pub(super) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
}

impl TrustContent {
    pub(super) fn raise_sequence_to(&mut self, at_least: u64) {
        self.sequence = self.sequence.max(at_least);
    }

    /// The first of a trust domain.
    pub(super) fn new(bundle: &TrustBundle, now: Timestamp) -> Self {
        Self { bundle: bundle.to_pem(), ..Self::empty(now) }
    }

    /// Before anything is published.
    pub(super) fn empty(now: Timestamp) -> Self {
        Self {
            format: FORMAT,
            sequence: first_sequence(now),
            bundle: String::new(),
            jwt: Vec::new(),
            tainted: Vec::new(),
            denied: DeniedContent::default(),
            federation: FederationContent::default(),
            unknown: UnknownFields::default(),
        }
    }

    pub(super) const fn has_bundle(&self) -> bool {
        !self.bundle.is_empty()
    }

    /// Of the next bundle that is published, if it is another one.
    pub(super) const fn next_sequence(&self) -> u64 {
        if self.has_bundle() { self.sequence.saturating_add(1) } else { self.sequence }
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// With each change of anything that is published: by it whoever follows tells what is newer, whichever replica tells it.
    pub(super) const fn raise_sequence(&mut self) {
        self.sequence = self.next_sequence();
    }

    /// Publishes these from now on, in a bundle whose sequence is `at_least` this. Returns whether that is anything new. The sequence
    /// has grown then, unless nothing has ever been published.
    pub(super) fn publish(
        &mut self,
        bundle: &TrustBundle,
        jwt: &[&JwtAuthority],
        tainted: Vec<String>,
        at_least: u64,
    ) -> bool {
        let bundle = bundle.to_pem();
        let jwt: Vec<_> = jwt.iter().map(|key| key.jwk().clone()).collect();
        let is_as_before = self.bundle == bundle && self.jwt == jwt && self.tainted == tainted;
        if is_as_before && self.sequence >= at_least {
            return false;
        }
        self.raise_sequence();
        self.sequence = self.sequence.max(at_least);
        (self.bundle, self.jwt, self.tainted) = (bundle, jwt, tainted);
        true
    }

    /// What others verify by.
    pub(super) fn published(
        &self,
        trust_domain: &TrustDomain,
        refresh_hint: Duration,
    ) -> Result<PublishedTrust, StateError> {
        let unusable = |error: String| StateError::Unusable(format!("the stored trust bundle: {error}"));
        let x509_authorities = match self.bundle.as_str() {
            "" => Vec::new(),
            pem => Certificate::all_from_pem(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?,
        };
        let jwt = self.jwt.iter().map(JwtAuthority::from_jwk);
        let own = SpiffeBundle {
            trust_domain: trust_domain.clone(),
            x509_authorities,
            jwt_authorities: jwt.collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?,
            sequence: Some(self.sequence),
            refresh_hint: Some(refresh_hint),
        };
        Ok(PublishedTrust { own, tainted: self.tainted.clone(), federated: self.federation.bundles()? })
    }

    pub(super) const fn federation(&self) -> &FederationContent {
        &self.federation
    }

    pub(super) const fn federation_mut(&mut self) -> &mut FederationContent {
        &mut self.federation
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, StateError> {
        match decoded(content)? {
            Header { format: FORMAT } => decoded(content),
            Header { format } => Err(newer(format, FORMAT)),
        }
    }

    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, StateError> {
        TrustBundle::from_pem(trust_domain.clone(), self.bundle.as_bytes())
            .map_err(|error| StateError::Unusable(format!("the stored trust bundle: {error}")))
    }

    /// # Errors
    ///
    /// When one entry can't be read: none may be passed over.
    pub(super) fn denied(&self) -> Result<Denied, StateError> {
        let unusable =
            |name: &str, error: String| StateError::Unusable(format!("the stored denial of {name}: {error}"));
        let identities = self.denied.identities.iter().map(|(id, denial)| {
            let subject = id.parse().map(DeniedSubject::Identity).map_err(|error| unusable(id, error.to_string()))?;
            Ok((subject, denial.read().map_err(|error| unusable(id, error))?))
        });
        let serials = self.denied.serials.iter().map(|(serial, denial)| {
            let subject = serial.parse().map(DeniedSubject::Serial);
            let subject = subject.map_err(|error| unusable(serial, error.to_string()))?;
            Ok((subject, denial.read().map_err(|error| unusable(serial, error))?))
        });
        identities.chain(serials).collect()
    }

    /// Puts others in the place of the denied. Returns the bytes that they take.
    pub(super) fn set_denied(&mut self, denied: &Denied) -> Result<usize, StateError> {
        let mut identities = std::mem::take(&mut self.denied.identities);
        let mut serials = std::mem::take(&mut self.denied.serials);
        for (subject, denial) in denied.iter() {
            let (old, place, name) = match subject {
                DeniedSubject::Identity(id) => (&mut identities, &mut self.denied.identities, id.to_string()),
                DeniedSubject::Serial(serial) => (&mut serials, &mut self.denied.serials, serial.to_string()),
            };
            let content = old.remove(&name).filter(|old| old.is(denial)).unwrap_or_else(|| DenialContent::new(denial));
            place.insert(name, content);
        }
        Ok(encoded(&self.denied)?.len())
    }
}

impl DeniedContent {
    fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty() && self.unknown.is_empty()
    }
}

impl DenialContent {
    fn new(denial: &Denial) -> Self {
        Self {
            reason: denial.reason.to_string(),
            since: denial.since.seconds(),
            by: denial.actor_uid,
            unknown: UnknownFields::default(),
        }
    }

    /// Whether this stands for that one.
    fn is(&self, denial: &Denial) -> bool {
        self.reason == denial.reason.as_str() && self.since == denial.since.seconds() && self.by == denial.actor_uid
    }

    fn read(&self) -> Result<Denial, String> {
        Ok(Denial {
            reason: self.reason.parse().map_err(|error| format!("{error}"))?,
            since: Timestamp::from_seconds(self.since),
            actor_uid: self.by,
        })
    }
}

/// Read before the rest, which another format may not have.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// Of a state that begins now: the seconds since the epoch, and no sequence grows by one in each of them. So it is above all that an
/// earlier state has told, which those who follow still know when nothing else of it is left.
pub(super) fn first_sequence(now: Timestamp) -> u64 {
    u64::try_from(now.seconds()).unwrap_or_default().max(1)
}

fn decoded<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, StateError> {
    // the error names line and column, never the content
    serde_json::from_slice(content)
        .map_err(|error| StateError::Unusable(format!("a stored object can't be read: {error}")))
}

fn newer(format: u32, known: u32) -> StateError {
    StateError::Unusable(format!("a stored object has format {format}, this version reads {known}"))
}

#[cfg(test)]
mod tests;
