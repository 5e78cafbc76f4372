//! A backup of the signing authority: the objects of the state as they were acknowledged, encrypted with a passphrase. What
//! the objects say is not looked at here, so a backup by one version can be restored by another.

mod seal;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

pub use self::seal::{Passphrase, PassphraseError, SealError};
use super::ports::{Kept, StateError, StateObject, StateStore, Versioned};
use crate::domain::{clock::Timestamp, leadership::Term, random::SecureRandom};

/// The contents of a state.
pub struct Backup {
    /// The authority object: certificate, key, chain.
    pub authority: Zeroizing<Vec<u8>>,
    /// The trust object: bundle, sequence, denials; none beside a plugged-in authority of which nobody was denied anything.
    pub trust: Option<Zeroizing<Vec<u8>>>,
    /// Where it stood.
    pub standing: Standing,
}

/// Where a state stood: what is put in its place must be above that, for whoever remembers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The highest term that was known.
    #[serde(default)]
    pub term: u64,
    /// The version of the authority object.
    #[serde(default)]
    pub authority: u64,
    /// The version of the trust object.
    #[serde(default)]
    pub trust: u64,
}

/// What stands outside of the encryption, for people, and is protected against changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// Fingerprint of the root.
    pub root: Option<String>,
    /// When it was made.
    pub made: Timestamp,
}

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Nothing was ever stored.
    #[error("there is no signing authority yet: nothing to export")]
    Nothing,
    /// The store refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is stored is no text, which every version writes.
    #[error("the stored {0:?} object can't be exported: it is not text")]
    NotText(StateObject),
    /// Encryption failed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Why a backup can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not one of ours.
    #[error("this is no backup by `countersign authority export`: {0}")]
    NotBackup(String),
    /// Made by a later version.
    #[error("the backup has format {found}, this version reads {known}: use the version that made it, or a newer one")]
    Newer {
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The key does not fit.
    #[error("the passphrase is wrong, or the backup was changed")]
    Passphrase,
}

/// What is encrypted. The objects are JSON texts.
#[derive(Serialize, Deserialize)]
struct Contents {
    authority: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust: Option<Zeroizing<String>>,
    #[serde(default)]
    standing: Standing,
}

impl Backup {
    /// What a store holds, that `term` has claimed.
    ///
    /// # Errors
    ///
    /// When there is nothing, or it can't be read.
    pub fn of(store: &dyn StateStore, term: Term) -> Result<Self, BackupError> {
        let authority = store.load(StateObject::Authority)?.ok_or(BackupError::Nothing)?;
        Ok(Self::of_objects(term, authority, store.load(StateObject::Trust)?))
    }

    /// What a replica kept in memory.
    pub fn of_kept(kept: Kept) -> Self {
        Self::of_objects(kept.term, kept.authority, kept.trust)
    }

    fn of_objects(term: Term, authority: Versioned, trust: Option<Versioned>) -> Self {
        let standing = Standing {
            term: term.number(),
            authority: authority.version,
            trust: trust.as_ref().map_or(0, |trust| trust.version),
        };
        Self { authority: authority.content, trust: trust.map(|trust| trust.content), standing }
    }

    /// The backup file. `cover` stands outside of the encryption. Takes about half a second of computing.
    ///
    /// # Errors
    ///
    /// When a content is not text, or there is no randomness.
    pub fn seal(
        &self,
        cover: &Cover,
        passphrase: &Passphrase,
        random: &dyn SecureRandom,
    ) -> Result<Vec<u8>, BackupError> {
        let text = |object, content: &Zeroizing<Vec<u8>>| {
            let text = String::from_utf8(content.to_vec()).map_err(|error| {
                error.into_bytes().zeroize();
                BackupError::NotText(object)
            });
            text.map(Zeroizing::new)
        };
        let contents = Contents {
            authority: text(StateObject::Authority, &self.authority)?,
            trust: self.trust.as_ref().map(|trust| text(StateObject::Trust, trust)).transpose()?,
            standing: self.standing,
        };
        let plain = serde_json::to_vec(&contents).map(Zeroizing::new);
        let plain = plain.map_err(|error| SealError(error.to_string()))?;
        Ok(seal::seal(&plain, cover, passphrase, random)?)
    }

    /// Reads a backup file.
    ///
    /// # Errors
    ///
    /// When it is none, a newer one, was changed, or the passphrase is wrong.
    pub fn open(file: &[u8], passphrase: &Passphrase) -> Result<(Self, Cover), OpenError> {
        let (plain, cover) = seal::open(file, passphrase)?;
        let Contents { authority, trust, standing } =
            serde_json::from_slice(&plain).map_err(|error| OpenError::NotBackup(error.to_string()))?;
        let bytes = |text: Zeroizing<String>| Zeroizing::new(text.as_bytes().to_vec());
        Ok((Self { authority: bytes(authority), trust: trust.map(bytes), standing }, cover))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::random::RandomUnavailable;

    const STANDING: Standing = Standing { term: 7, authority: 2, trust: 5 };

    struct Counting;

    impl SecureRandom for Counting {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
            bytes.iter_mut().zip(1..).for_each(|(byte, count)| *byte = count);
            Ok(())
        }
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned().into()).unwrap()
    }

    fn sealed(trust: Option<&str>) -> Vec<u8> {
        let backup = Backup {
            authority: br#"{"key":"SECRET"}"#.to_vec().into(),
            trust: trust.map(|text| text.as_bytes().to_vec().into()),
            standing: STANDING,
        };
        let cover = Cover { root: Some("ab".into()), made: Timestamp::from_seconds(1_700_000_000) };
        backup.seal(&cover, &passphrase("correct horse"), &Counting).unwrap()
    }

    #[test]
    fn comes_back_with_the_passphrase_and_with_no_other() {
        for trust in [Some("{}"), None] {
            let file = sealed(trust);
            let (backup, cover) = Backup::open(&file, &passphrase("correct horse")).unwrap();
            assert_eq!(backup.authority.as_slice(), br#"{"key":"SECRET"}"#);
            assert_eq!(backup.trust.as_ref().map(|trust| trust.as_slice()), trust.map(str::as_bytes));
            assert_eq!(cover.root.as_deref(), Some("ab"));
            assert_eq!(backup.standing, STANDING);
            assert_eq!(cover.made, Timestamp::from_seconds(1_700_000_000));
            assert_eq!(Backup::open(&file, &passphrase("correct hors")).err(), Some(OpenError::Passphrase));
        }
    }

    #[test]
    fn shows_what_it_is_and_nothing_of_what_is_in_it() {
        let text = String::from_utf8(sealed(Some("{}"))).unwrap();
        for shown in ["countersign", "authority backup", "\"root\": \"ab\"", "2023-11-14T22:13:20Z", "PBKDF2"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert!(!text.contains("SECRET"));
    }

    #[test]
    fn every_field_is_protected() {
        let file = String::from_utf8(sealed(Some("{}"))).unwrap();
        let document: serde_json::Value = serde_json::from_str(&file).unwrap();
        for (field, value) in [
            ("root", serde_json::json!("cd")),
            ("made", serde_json::json!("2024-11-14T22:13:20Z")),
            ("iterations", serde_json::json!(600_001)),
            ("salt", serde_json::json!("AAAAAAAAAAAAAAAAAAAAAA==")),
            ("nonce", serde_json::json!("AAAAAAAAAAAAAAAA")),
            ("content", serde_json::json!("AAAA")),
        ] {
            let mut changed = document.clone();
            changed[field] = value;
            let changed = serde_json::to_vec(&changed).unwrap();
            let opened = Backup::open(&changed, &passphrase("correct horse"));
            assert_eq!(opened.err(), Some(OpenError::Passphrase), "{field}");
        }
    }

    #[test]
    fn what_is_none_of_ours_or_too_new_or_would_compute_for_ever_is_refused() {
        let file = sealed(None);
        let document: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let with = |field: &str, value: serde_json::Value| {
            let mut changed = document.clone();
            changed[field] = value;
            let changed = serde_json::to_vec(&changed).unwrap();
            Backup::open(&changed, &passphrase("correct horse")).err().unwrap()
        };
        assert_eq!(with("format", serde_json::json!(2)), OpenError::Newer { found: 2, known: 1 });
        for (field, value) in [
            ("countersign", serde_json::json!("something else")),
            ("iterations", serde_json::json!(4_000_000_000_u32)),
            ("iterations", serde_json::json!(1)),
            ("kdf", serde_json::json!("none")),
            ("cipher", serde_json::json!("none")),
            ("salt", serde_json::json!("?")),
        ] {
            assert!(matches!(with(field, value), OpenError::NotBackup(_)), "{field}");
        }
        assert!(matches!(Backup::open(b"-----BEGIN", &passphrase("correct horse")), Err(OpenError::NotBackup(_))));
    }

    #[test]
    fn a_short_passphrase_is_refused_and_a_line_end_is_none_of_it() {
        assert_eq!(Passphrase::new("seven77".to_owned().into()).err(), Some(PassphraseError));
        let file = sealed(None);
        let with_end = Passphrase::new("correct horse\r\n".to_owned().into()).unwrap();
        assert!(Backup::open(&file, &with_end).is_ok());
        assert!(!format!("{with_end:?}").contains("horse"));
    }
}
