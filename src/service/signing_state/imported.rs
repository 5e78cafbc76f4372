//! A state that comes from elsewhere: a backup, or the CA of a running mesh. It is checked as a whole before any of it is
//! stored.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{
    authority_of,
    content::{AuthorityContent, StoredAuthority, TrustContent, first_sequence},
    is_ahead,
    json::encoded,
    root_of,
};
use crate::{
    domain::{
        authority::{AuthorityFiles, PluggedInError},
        clock::Timestamp,
        identity::TrustDomain,
    },
    service::{
        authority_backup::{Backup, Standing},
        ports::{MAX_OBJECT_BYTES, StateError, StateObject},
    },
};

/// A state that can be stored and signed with.
pub struct ImportedState {
    authority: Zeroizing<Vec<u8>>,
    trust: Option<TrustContent>,
    standing: Standing,
}

/// Why a state is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// The files of a CA don't fit together.
    #[error(transparent)]
    Files(#[from] PluggedInError),
    /// The contents can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Longer than a store keeps.
    #[error("the {object:?} object has {size} bytes, at most {MAX_OBJECT_BYTES} can be stored")]
    Long {
        /// Which.
        object: StateObject,
        /// Its size.
        size: usize,
    },
}

/// What an imported state would take the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InItsPlace {
    /// The roots that anything left of it names, by fingerprint.
    pub roots: BTreeSet<String>,
    /// Whether it can be signed with as it is.
    pub usable: bool,
}

/// Why a state is not replaced unless that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementRefused {
    /// Whatever trusts the one would not trust the other.
    #[error(
        "the state there is of root {found}, what is to be imported of {imported}: if everything that trusts the first is \
         to be given the second, run the command again with --replace"
    )]
    OtherRoot {
        /// There.
        found: String,
        /// To be imported.
        imported: String,
    },
    /// There is nothing to be repaired.
    #[error(
        "the state there can be used as it is: to put what is to be imported in its place all the same, and lose what was \
         changed since, run the command again with --replace"
    )]
    Usable,
}

impl InItsPlace {
    /// Whether `imported` may take its place without that being asked for expressly.
    ///
    /// # Errors
    ///
    /// When it names another root, or is in order.
    pub fn may_give_way_to(&self, imported: &ImportedState) -> Result<(), ReplacementRefused> {
        let root = imported.root();
        if let Some(found) = self.roots.iter().find(|found| Some(*found) != root.as_ref()) {
            let imported = root.unwrap_or_else(|| "a plugged-in authority".into());
            return Err(ReplacementRefused::OtherRoot { found: found.clone(), imported });
        }
        if self.usable { Err(ReplacementRefused::Usable) } else { Ok(()) }
    }
}

impl ImportedState {
    /// From a backup.
    ///
    /// # Errors
    ///
    /// When it can't be read, or what is in it doesn't fit together at `now`.
    pub fn from_backup(backup: &Backup, now: Timestamp) -> Result<Self, ImportError> {
        let trust = backup.trust.as_ref().map(|trust| TrustContent::decode(trust)).transpose()?;
        match StoredAuthority::decode(&backup.authority)? {
            StoredAuthority::Own(own) => {
                let unusable = |what: String| StateError::Unusable(format!("the trust domain: {what}"));
                let trust_domain: TrustDomain =
                    own.trust_domain().parse().map_err(|error| unusable(format!("{error}")))?;
                let bundle = trust.as_ref().map(|trust| trust.bundle(&trust_domain)).transpose()?;
                let bundle = bundle.ok_or_else(|| StateError::Unusable("there is no trust bundle in it".into()))?;
                authority_of(&own, bundle, now)?;
            }
            StoredAuthority::PluggedIn(_) => {}
        }
        if let Some(trust) = &trust {
            trust.denied()?;
        }
        let mut state = Self { authority: backup.authority.clone(), trust, standing: backup.standing };
        state.publish_anew(first_sequence(now))?;
        state.checked()
    }

    /// From the files of a CA, in istiod's layouts. It becomes an authority of our own, of `trust_domain`: key and
    /// certificates are kept in the state from now on.
    ///
    /// # Errors
    ///
    /// The first thing that doesn't fit.
    pub fn from_files(files: &AuthorityFiles, trust_domain: &TrustDomain, now: Timestamp) -> Result<Self, ImportError> {
        let authority = files.authority(trust_domain, now)?;
        let key = files.private_key()?;
        let certificate = authority.certificate().to_pem();
        let chain = authority.chain().iter().map(|certificate| certificate.to_pem()).collect();
        let content = AuthorityContent::new(trust_domain, certificate, key.to_pem()).with_chain(chain);
        let trust = TrustContent::new(authority.bundle(), now);
        Self { authority: encoded(&content)?, trust: Some(trust), standing: Standing::default() }.checked()
    }

    /// Makes the bundle newer than the one in `stored`, a trust object that it replaces: whoever has seen that one must take
    /// this one.
    ///
    /// # Errors
    ///
    /// When it can't be encoded, which does not happen.
    pub fn supersede(&mut self, stored: &[u8]) -> Result<(), StateError> {
        TrustContent::decode(stored).map_or(Ok(()), |stored| self.publish_anew(stored.sequence().saturating_add(1)))
    }

    /// Nobody has had this bundle yet, whatever was told since it was saved.
    fn publish_anew(&mut self, at_least: u64) -> Result<(), StateError> {
        let Some(trust) = &mut self.trust else { return Ok(()) };
        trust.raise_sequence_to(at_least);
        let mut authority = StoredAuthority::decode(&self.authority)?;
        // where nothing is on record, that says so: what was signed may live as long as anything
        if authority.rotation().is_some() {
            authority.rotation_mut().restore(trust.sequence());
            self.authority = authority.encoded()?;
        }
        Ok(())
    }

    /// The sequence of its bundle, if that stands for a time to come: the clock is wrong, or was where it was saved.
    pub fn sequence_ahead(&self, now: Timestamp) -> Option<u64> {
        self.trust.as_ref().map(TrustContent::sequence).filter(|sequence| is_ahead(*sequence, now))
    }

    /// The fingerprint of its signing certificate; none if that is plugged in.
    pub fn root(&self) -> Option<String> {
        root_of(&self.authority)
    }

    /// Where it stood when it was saved.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The content of the authority object.
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The content of the trust object, if there is one.
    ///
    /// # Errors
    ///
    /// When it can't be encoded, which does not happen.
    pub fn trust(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        self.trust.as_ref().map(encoded).transpose()
    }

    fn checked(self) -> Result<Self, ImportError> {
        let trust = self.trust()?.map_or(0, |trust| trust.len());
        for (object, size) in [(StateObject::Authority, self.authority.len()), (StateObject::Trust, trust)] {
            if size > MAX_OBJECT_BYTES {
                return Err(ImportError::Long { object, size });
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
