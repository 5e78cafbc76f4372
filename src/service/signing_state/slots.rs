//! What the authority object says of a rotation, as one field of it, which a version without rotations passes over: the
//! authority that signs stays where such a version looks for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::unknown_fields::UnknownFields;
use crate::{
    domain::{
        authority::rotation::Phase,
        clock::Timestamp,
        jwt::{JwtSigner, MintError},
    },
    service::ports::StateError,
};

/// A key of JWT-SVIDs has no certificate with an end, so it is given one.
pub(super) const JWT_KEY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Default, Serialize, Deserialize)]
pub(super) struct RotationContent {
    /// Keys of JWT-SVIDs in the order in which they were published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) jwt: Vec<JwtKeyContent>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// A key of JWT-SVIDs.
#[derive(Serialize, Deserialize)]
pub(super) struct JwtKeyContent {
    /// PEM.
    key: Zeroizing<String>,
    pub(super) phase: PhaseContent,
    /// Seconds since the epoch.
    not_after: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) tainted: bool,
    /// The sequence of the first bundle that holds it.
    published_in: u64,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PhaseContent {
    Prepared,
    Active,
    Old,
}

impl RotationContent {
    /// Makes a key of JWT-SVIDs if there is none that signs. Returns whether there was none.
    pub(super) fn ensure_jwt(&mut self, now: Timestamp, sequence: u64) -> Result<bool, StateError> {
        if self.jwt.iter().any(|key| key.phase == PhaseContent::Active) {
            return Ok(false);
        }
        let signer = JwtSigner::generate(Timestamp::from_seconds(now.plus(JWT_KEY_LIFETIME).seconds()));
        let signer = signer.map_err(|error| StateError::Io(error.to_string()))?;
        self.jwt.push(JwtKeyContent::new(&signer, Phase::Active, sequence));
        Ok(true)
    }

    /// All keys of JWT-SVIDs, ready to sign, and which of them does.
    pub(super) fn jwt_signers(&self) -> Result<Vec<(PhaseContent, JwtSigner)>, StateError> {
        self.jwt.iter().map(|key| Ok((key.phase, key.signer()?))).collect()
    }
}

impl JwtKeyContent {
    pub(super) fn new(signer: &JwtSigner, phase: Phase, published_in: u64) -> Self {
        Self {
            key: signer.to_pem(),
            phase: phase.into(),
            not_after: signer.not_after().seconds(),
            tainted: false,
            published_in,
            unknown: UnknownFields::default(),
        }
    }

    fn signer(&self) -> Result<JwtSigner, StateError> {
        let signer = JwtSigner::from_pem(self.key.as_bytes(), Timestamp::from_seconds(self.not_after));
        signer.map_err(|error: MintError| StateError::Unusable(format!("a stored key of JWT-SVIDs: {error}")))
    }
}

impl From<Phase> for PhaseContent {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Prepared => Self::Prepared,
            Phase::Active => Self::Active,
            Phase::Old => Self::Old,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
