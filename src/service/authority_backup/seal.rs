//! The file around a backup: JSON that says what it is and how it is encrypted. The key comes from the passphrase by
//! PBKDF2-HMAC-SHA256, the content is encrypted with AES-256-GCM, and that protects all other fields as well.

use std::{fmt, num::NonZeroU32};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    pbkdf2,
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::{Zeroize, Zeroizing};

use super::{Cover, OpenError};
use crate::domain::{clock::Timestamp, random::SecureRandom};

const KIND: &str = "authority backup";
const FORMAT: u32 = 1;
const KDF: &str = "PBKDF2-HMAC-SHA256";
const CIPHER: &str = "AES-256-GCM";
/// What OWASP asks for PBKDF2 with SHA-256.
const ITERATIONS: u32 = 600_000;
/// A file must not make its reader compute for hours, nor weaken the key.
const ACCEPTED_ITERATIONS: std::ops::RangeInclusive<u32> = 100_000..=10_000_000;
const SALT: usize = 16;
const SHORTEST: usize = 8;

/// What a backup is encrypted with.
pub struct Passphrase(Zeroizing<String>);

/// Too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the passphrase is too short: at least {SHORTEST} characters, better several words")]
pub struct PassphraseError;

/// Encryption failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backup can't be encrypted: {0}")]
pub struct SealError(pub(super) String);

impl Passphrase {
    /// From a text; an end of line is none of it.
    ///
    /// # Errors
    ///
    /// When it is too short.
    pub fn new(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        let line = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        if line.chars().count() < SHORTEST { Err(PassphraseError) } else { Ok(Self(line)) }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    countersign: String,
    format: u32,
    kdf: String,
    iterations: u32,
    salt: String,
    cipher: String,
    nonce: String,
    root: Option<String>,
    made: String,
    content: String,
}

/// Read before the rest, which another format may not have.
#[derive(Deserialize)]
struct Header {
    countersign: String,
    format: u32,
}

impl Envelope {
    fn protected(&self) -> Vec<u8> {
        let Self { countersign, format, kdf, iterations, salt, cipher, nonce, root, made, content: _ } = self;
        let root = root.as_deref().unwrap_or_default();
        [countersign, &format.to_string(), kdf, &iterations.to_string(), salt, cipher, nonce, root, made]
            .map(str::to_owned)
            .join("\n")
            .into_bytes()
    }

    fn key(&self, passphrase: &Passphrase) -> Result<LessSafeKey, String> {
        let iterations = NonZeroU32::new(self.iterations).filter(|count| ACCEPTED_ITERATIONS.contains(&count.get()));
        let iterations = iterations.ok_or_else(|| format!("iterations {} are not accepted", self.iterations))?;
        let salt = decoded("salt", &self.salt)?;
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, passphrase.0.as_bytes(), key.as_mut());
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|error| error.to_string())?;
        Ok(LessSafeKey::new(key))
    }

    fn nonce(&self) -> Result<Nonce, String> {
        let nonce = decoded("nonce", &self.nonce)?;
        Nonce::try_assume_unique_for_key(&nonce).or(Err(format!("nonce is not {NONCE_LEN} bytes")))
    }
}

pub(super) fn seal(
    plain: &[u8],
    cover: &Cover,
    passphrase: &Passphrase,
    random: &dyn SecureRandom,
) -> Result<Vec<u8>, SealError> {
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE_LEN]);
    let drawn = random.fill(&mut salt).and_then(|()| random.fill(&mut nonce));
    drawn.map_err(|error| SealError(error.to_string()))?;
    let mut envelope = Envelope {
        countersign: KIND.into(),
        format: FORMAT,
        kdf: KDF.into(),
        iterations: ITERATIONS,
        salt: STANDARD.encode(salt),
        cipher: CIPHER.into(),
        nonce: STANDARD.encode(nonce),
        root: cover.root.clone(),
        made: cover.made.to_string(),
        content: String::new(),
    };
    let key = envelope.key(passphrase).map_err(SealError)?;
    let nonce = envelope.nonce().map_err(SealError)?;
    // room for the tag: a vector that grows leaves a copy behind
    let mut content = Zeroizing::new(Vec::with_capacity(plain.len().saturating_add(AES_256_GCM.tag_len())));
    content.extend_from_slice(plain);
    let sealed = key.seal_in_place_append_tag(nonce, Aad::from(envelope.protected()), &mut *content);
    sealed.or(Err(SealError("the content is too long".into())))?;
    envelope.content = STANDARD.encode(&*content);
    let mut file = serde_json::to_vec_pretty(&envelope).map_err(|error| SealError(error.to_string()))?;
    file.push(b'\n');
    Ok(file)
}

pub(super) fn open(file: &[u8], passphrase: &Passphrase) -> Result<(Zeroizing<Vec<u8>>, Cover), OpenError> {
    let not_ours = |why: String| OpenError::NotBackup(why);
    let Header { countersign, format } = serde_json::from_slice(file).map_err(|error| not_ours(error.to_string()))?;
    if countersign != KIND {
        return Err(not_ours(format!("it is {countersign:?}")));
    }
    if format != FORMAT {
        return Err(OpenError::Newer { found: format, known: FORMAT });
    }
    let envelope: Envelope = serde_json::from_slice(file).map_err(|error| not_ours(error.to_string()))?;
    if (envelope.kdf.as_str(), envelope.cipher.as_str()) != (KDF, CIPHER) {
        return Err(not_ours(format!("it is encrypted with {} and {}", envelope.kdf, envelope.cipher)));
    }
    let key = envelope.key(passphrase).map_err(not_ours)?;
    let nonce = envelope.nonce().map_err(not_ours)?;
    let mut content = Zeroizing::new(decoded("content", &envelope.content).map_err(not_ours)?);
    let opened = key.open_in_place(nonce, Aad::from(envelope.protected()), &mut content);
    let length = opened.map(|plain| plain.len()).or(Err(OpenError::Passphrase))?;
    content.get_mut(length..).unwrap_or_default().zeroize();
    content.truncate(length);
    let made = OffsetDateTime::parse(&envelope.made, &Rfc3339).map_err(|error| not_ours(error.to_string()))?;
    Ok((content, Cover { root: envelope.root, made: Timestamp::from_seconds(made.unix_timestamp()) }))
}

fn decoded(field: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("{field}: {error}"))
}
