//! What the authority object says of a rotation, as one field of it, which a version without rotations passes over: the
//! authority that signs stays where such a version looks for it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{settings::LONGEST_JWT_TTL, unknown_fields::UnknownFields};
use crate::{
    domain::{
        authority::rotation::{HandedOut, Phase, Slot},
        clock::Timestamp,
        jwt::{JwtSigner, MintError},
        x509::{Certificate, PrivateKey, TrustBundle},
    },
    service::ports::StateError,
};

#[derive(Default, Serialize, Deserialize)]
pub(super) struct RotationContent {
    /// Of the authority that signs; `None` in what was just imported or made, and with a plugged-in authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<ActiveContent>,
    /// Those beside the one that signs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<SlotContent>,
    /// Keys of JWT-SVIDs in the order in which they were published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) jwt: Vec<JwtKeyContent>,
    #[serde(default)]
    handed_out: MarksContent,
    /// Put back from a backup, and not claimed since: what was handed out after it was saved is not on record.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) restored: bool,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// What is known of the authority that signs beside its certificate, key and chain.
#[derive(Serialize, Deserialize)]
pub(super) struct ActiveContent {
    /// The roots that it leads to, PEM; none if it is one itself.
    pub(super) roots: Vec<String>,
    pub(super) published_in: u64,
    /// When it was made or taken over, seconds since the epoch.
    pub(super) since: i64,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// An X.509 authority.
#[derive(Serialize, Deserialize)]
pub(super) struct SlotContent {
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chain: Vec<String>,
    pub(super) standing: ActiveContent,
    phase: PhaseContent,
    #[serde(default, skip_serializing_if = "is_false")]
    tainted: bool,
    #[serde(flatten)]
    unknown: UnknownFields,
}

/// A key of JWT-SVIDs.
#[derive(Serialize, Deserialize)]
pub(super) struct JwtKeyContent {
    /// PEM.
    key: Zeroizing<String>,
    phase: PhaseContent,
    /// Seconds since the epoch, as all times here.
    not_after: i64,
    pub(super) since: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    tainted: bool,
    /// The sequence of the first bundle that holds it.
    published_in: u64,
    /// When the last of what it signed ends, once it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_end: Option<i64>,
    /// The longest that anything was allowed to live that it signs, in seconds: the setting may be another one by the time that it
    /// signs no more. Absent in what a version wrote that knew the setting of the moment alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    longest: Option<u64>,
    /// The sequence of the first bundle that holds it, once everybody was seen to have that; says nothing if the key is published in
    /// another one since, as after a backup was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reached: Option<u64>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Default, Serialize, Deserialize)]
struct MarksContent {
    #[serde(default)]
    by_authority: BTreeMap<String, i64>,
    #[serde(default)]
    by_sequence: Vec<(u64, i64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseContent {
    Prepared,
    Active,
    Old,
}

impl RotationContent {
    /// Of X.509-SVIDs.
    pub(super) fn handed_out(&self) -> HandedOut {
        let MarksContent { by_authority, by_sequence } = &self.handed_out;
        let by_authority = by_authority.iter().map(|(id, end)| (id.clone(), Timestamp::from_seconds(*end)));
        let by_sequence = by_sequence.iter().map(|(sequence, end)| (*sequence, Timestamp::from_seconds(*end)));
        HandedOut::restored(by_authority, by_sequence)
    }

    pub(super) fn set_handed_out(&mut self, marks: &HandedOut) {
        let (by_authority, by_sequence) = marks.marks();
        self.handed_out = MarksContent {
            by_authority: by_authority.map(|(id, end)| (id.to_owned(), whole(end))).collect(),
            by_sequence: by_sequence.map(|(sequence, end)| (sequence, whole(end))).collect(),
        };
    }

    /// Of JWT-SVIDs: what still can be of use to somebody of those keys that sign no more.
    pub(super) fn jwt_handed_out(&self) -> Result<HandedOut, StateError> {
        let ends = self.jwt.iter().filter_map(|key| Some((key.slot(), key.last_end()?)));
        let ends: Result<Vec<_>, StateError> = ends.map(|(slot, end)| Ok((slot?.id, end))).collect();
        Ok(HandedOut::restored(ends?, []))
    }

    /// It is put back: all that there are were published in the bundle of this sequence first.
    pub(super) fn restore(&mut self, sequence: u64) {
        self.restored = true;
        let x509 = self.others.iter_mut().map(|slot| &mut slot.standing).chain(&mut self.active);
        let x509 = x509.map(|standing| &mut standing.published_in);
        x509.chain(self.jwt.iter_mut().map(|key| &mut key.published_in)).for_each(|published| *published = sequence);
    }

    /// Before the key of JWT-SVIDs that signs does so for such a life. Returns whether that was not on record.
    pub(super) fn allow_jwt(&mut self, life: Duration) -> bool {
        self.jwt.iter_mut().find(|key| key.signs()).is_some_and(|key| key.allow(life))
    }

    /// Has the keys of JWT-SVIDs stand as `slots` say: those that are not named are gone. The one that signs no more did so until
    /// `signed_until`, the one that does now signs for `life` at the most.
    pub(super) fn set_jwt(
        &mut self,
        slots: &[Slot],
        signed_until: Timestamp,
        life: Duration,
    ) -> Result<(), StateError> {
        let mut keys = Vec::with_capacity(slots.len());
        for mut key in std::mem::take(&mut self.jwt) {
            let id = key.slot()?.id;
            let Some(slot) = slots.iter().find(|slot| slot.id == id) else { continue };
            let phase = PhaseContent::from(slot.phase);
            match (key.phase, phase) {
                (PhaseContent::Active, PhaseContent::Old) => {
                    key.allow(life);
                    key.last_end = Some(whole(signed_until.plus(key.longest())));
                }
                (_, PhaseContent::Active) => {
                    key.allow(life);
                    key.last_end = None;
                }
                _ => {}
            }
            (key.phase, key.tainted) = (phase, slot.tainted);
            keys.push(key);
        }
        self.jwt = keys;
        Ok(())
    }
}

impl SlotContent {
    pub(super) fn new(certificate: &Certificate, key: &PrivateKey, since: Timestamp, published_in: u64) -> Self {
        Self {
            certificate: certificate.to_pem(),
            key: key.to_pem(),
            chain: Vec::new(),
            standing: ActiveContent::root(since, published_in),
            phase: PhaseContent::Prepared,
            tainted: false,
            unknown: UnknownFields::default(),
        }
    }

    /// One that signed until now.
    pub(super) fn old(
        certificate: String,
        key: Zeroizing<String>,
        chain: Vec<String>,
        standing: ActiveContent,
    ) -> Self {
        let unknown = UnknownFields::default();
        Self { certificate, key, chain, standing, phase: PhaseContent::Old, tainted: false, unknown }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.into()
    }

    pub(super) const fn is_tainted(&self) -> bool {
        self.tainted
    }

    pub(super) fn stand(&mut self, phase: Phase, tainted: bool) {
        (self.phase, self.tainted) = (phase.into(), tainted);
    }
}

impl JwtKeyContent {
    pub(super) fn new(signer: &JwtSigner, phase: Phase, since: Timestamp, published_in: u64) -> Self {
        Self {
            key: signer.to_pem(),
            phase: phase.into(),
            not_after: whole(signer.not_after()),
            since: whole(since),
            tainted: false,
            published_in,
            last_end: None,
            longest: Some(0),
            reached: None,
            unknown: UnknownFields::default(),
        }
    }

    pub(super) fn signs(&self) -> bool {
        self.phase == PhaseContent::Active
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.phase == PhaseContent::Prepared
    }

    /// Whether it is on record that everybody has it who could be asked to believe it.
    pub(super) fn has_reached_all(&self) -> bool {
        self.reached == Some(self.published_in)
    }

    /// Everybody has it. Returns whether that was not on record.
    pub(super) fn reach_all(&mut self) -> bool {
        self.reached.replace(self.published_in) != Some(self.published_in)
    }

    fn longest(&self) -> Duration {
        self.longest.map_or(LONGEST_JWT_TTL, Duration::from_secs)
    }

    fn allow(&mut self, life: Duration) -> bool {
        let longest = self.longest().max(life).as_secs();
        self.longest.replace(longest) != Some(longest)
    }

    /// It may have signed until now, for the longest life that there is.
    pub(super) fn may_have_signed(&mut self, now: Timestamp) {
        if !self.signs() {
            self.last_end = self.last_end().map(whole).max(Some(whole(now.plus(LONGEST_JWT_TTL))));
        }
        self.longest = Some(LONGEST_JWT_TTL.as_secs());
    }

    fn last_end(&self) -> Option<Timestamp> {
        let end = Timestamp::from_seconds(self.last_end?);
        Some(if self.longest.is_some() { end } else { end.plus(LONGEST_JWT_TTL) })
    }

    pub(super) fn signer(&self) -> Result<JwtSigner, StateError> {
        let signer = JwtSigner::from_pem(self.key.as_bytes(), Timestamp::from_seconds(self.not_after));
        signer.map_err(|error: MintError| StateError::Unusable(format!("a stored key of JWT-SVIDs: {error}")))
    }

    pub(super) fn slot(&self) -> Result<Slot, StateError> {
        Ok(Slot {
            id: self.signer()?.key_id().to_owned(),
            phase: self.phase.into(),
            not_after: Timestamp::from_seconds(self.not_after),
            tainted: self.tainted,
            published_in: self.published_in,
        })
    }
}

impl ActiveContent {
    /// Of an authority that has been the only one so far, whose bundle is `bundle`.
    pub(super) fn of_only(
        certificate: &Certificate,
        bundle: &TrustBundle,
        since: Timestamp,
        published_in: u64,
    ) -> Self {
        let is_root = bundle.roots() == std::slice::from_ref(certificate);
        let roots = if is_root { Vec::new() } else { bundle.roots().iter().map(Certificate::to_pem).collect() };
        Self { roots, ..Self::root(since, published_in) }
    }

    fn root(since: Timestamp, published_in: u64) -> Self {
        Self { roots: Vec::new(), published_in, since: whole(since), unknown: UnknownFields::default() }
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

impl From<PhaseContent> for Phase {
    fn from(phase: PhaseContent) -> Self {
        match phase {
            PhaseContent::Prepared => Self::Prepared,
            PhaseContent::Active => Self::Active,
            PhaseContent::Old => Self::Old,
        }
    }
}

/// Rounded up: marks are never too low.
fn whole(time: Timestamp) -> i64 {
    let seconds = time.seconds();
    if Timestamp::from_seconds(seconds) < time { seconds.saturating_add(1) } else { seconds }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}
