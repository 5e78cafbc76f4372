//! What stands in the state objects, as JSON. A reader ignores fields that it doesn't know, and a missing one has a
//! meaning: versions N and N+1 read each other's objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    domain::{
        attestation::{Denial, Denied, DeniedSubject},
        clock::Timestamp,
        identity::TrustDomain,
        x509::TrustBundle,
    },
    service::ports::StateError,
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
    /// PEM; empty with a plugged-in authority, which brings its own.
    bundle: String,
    #[serde(default, skip_serializing_if = "DeniedContent::is_empty")]
    denied: DeniedContent,
}

/// By SPIFFE ID, and by serial in hex.
#[derive(Default, Serialize, Deserialize)]
struct DeniedContent {
    #[serde(default)]
    identities: BTreeMap<String, DenialContent>,
    #[serde(default)]
    serials: BTreeMap<String, DenialContent>,
}

#[derive(Serialize, Deserialize)]
struct DenialContent {
    reason: String,
    /// Seconds since the epoch.
    since: i64,
    /// UID.
    by: u32,
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

    pub(super) fn encoded(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        match self {
            Self::Own(stored) => encoded(stored),
            Self::PluggedIn(stored) => encoded(stored),
        }
    }
}

impl PluggedInContent {
    pub(super) fn new(trust_domain: &TrustDomain) -> Self {
        Self { format: PLUGGED_IN, trust_domain: trust_domain.to_string(), pair: None }
    }
}

impl AuthorityContent {
    /// Of a self-signed authority.
    pub(super) fn new(trust_domain: &TrustDomain, certificate: String, key: Zeroizing<String>) -> Self {
        Self { format: FORMAT, trust_domain: trust_domain.to_string(), certificate, key, chain: Vec::new(), pair: None }
    }
}

impl TrustContent {
    /// The first of a trust domain.
    pub(super) fn new(bundle: &TrustBundle) -> Self {
        Self { format: FORMAT, sequence: 1, bundle: bundle.to_pem(), denied: DeniedContent::default() }
    }

    /// The first beside a plugged-in authority.
    pub(super) fn without_bundle() -> Self {
        Self { format: FORMAT, sequence: 1, bundle: String::new(), denied: DeniedContent::default() }
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
        self.denied = DeniedContent::default();
        for (subject, denial) in denied.iter() {
            let denial = DenialContent {
                reason: denial.reason.to_string(),
                since: denial.since.seconds(),
                by: denial.actor_uid,
            };
            match subject {
                DeniedSubject::Identity(id) => self.denied.identities.insert(id.to_string(), denial),
                DeniedSubject::Serial(serial) => self.denied.serials.insert(serial.to_string(), denial),
            };
        }
        Ok(encoded(&self.denied)?.len())
    }
}

impl DeniedContent {
    fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty()
    }
}

impl DenialContent {
    fn read(&self) -> Result<Denial, String> {
        Ok(Denial {
            reason: self.reason.parse().map_err(|error| format!("{error}"))?,
            since: Timestamp::from_seconds(self.since),
            actor_uid: self.by,
        })
    }
}

pub(super) fn encoded(content: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StateError> {
    serde_json::to_vec(content).map(Zeroizing::new).map_err(|error| StateError::Io(error.to_string()))
}

/// Read before the rest, which another format may not have.
#[derive(Deserialize)]
struct Header {
    format: u32,
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
mod tests {
    use super::*;

    const OLD: &str = r#"{"format":1,"sequence":1,"bundle":"PEM"}"#;

    #[test]
    fn content_without_the_field_denies_nobody_and_stays_as_it_was() {
        let trust = TrustContent::decode(OLD.as_bytes()).unwrap();
        assert!(trust.denied().unwrap().is_empty());
        assert_eq!(encoded(&trust).unwrap().as_slice(), OLD.as_bytes());
    }

    #[test]
    fn denials_come_back_as_they_were_put_in() {
        let denial =
            Denial { reason: r#"a "node" lost"#.parse().unwrap(), since: Timestamp::from_seconds(5), actor_uid: 1000 };
        let denied = Denied::from_iter([
            (DeniedSubject::Identity("spiffe://td/ns/a/sa/b".parse().unwrap()), denial.clone()),
            (DeniedSubject::Serial("0ab1".parse().unwrap()), denial),
        ]);
        let mut trust = TrustContent::decode(OLD.as_bytes()).unwrap();
        trust.set_denied(&denied).unwrap();
        let bytes = encoded(&trust).unwrap();
        assert_eq!(TrustContent::decode(&bytes).unwrap().denied().unwrap(), denied);
        trust.set_denied(&Denied::default()).unwrap();
        assert_eq!(encoded(&trust).unwrap().as_slice(), OLD.as_bytes());
    }

    #[test]
    fn an_entry_that_can_not_be_read_is_an_error_that_names_it() {
        for (denied, named) in [
            (r#"{"identities":{"gateway":{"reason":"x","since":1,"by":0}}}"#, "gateway"),
            (r#"{"serials":{"xyz":{"reason":"x","since":1,"by":0}}}"#, "xyz"),
            (r#"{"serials":{"01":{"reason":"","since":1,"by":0}}}"#, "01"),
        ] {
            let text = format!(r#"{{"format":1,"sequence":1,"bundle":"PEM","denied":{denied}}}"#);
            let Err(StateError::Unusable(error)) = TrustContent::decode(text.as_bytes()).unwrap().denied() else {
                panic!("{text} was read")
            };
            assert!(error.contains(named), "{error}");
        }
    }
}
