//! What is on record of X.509-SVIDs that were handed out, and of whom a prepared key of JWT-SVIDs has reached.

use super::{content::StoredAuthority, objects::Objects, slots::RotationContent};
use crate::{
    domain::{authority::rotation::HandedOut, clock::Timestamp},
    service::ports::StateError,
};

impl Objects {
    /// Marks that of X.509-SVIDs, everything up to `end` may have been handed out by the authority that signs.
    pub(super) fn hand_out(&mut self, authority: &str, sequence: u64, end: Timestamp, now: Timestamp) {
        let rotation = self.authority.rotation_mut();
        let active = rotation.active.as_ref().map(|active| active.published_in);
        let others = rotation.others.iter().map(|slot| slot.standing.published_in);
        let published = others.chain(active).collect();
        let mut marks = rotation.handed_out();
        marks.forget_before(now);
        marks.record(authority, sequence, end);
        marks.merge_between(&published);
        rotation.set_handed_out(&marks);
    }

    /// After a backup was put back: whatever its authorities may have signed since, for whoever knew another bundle than this one, may
    /// live until `end`. Returns whether there was need.
    pub(super) fn mark_restored(&mut self, end: Timestamp, now: Timestamp) -> Result<bool, StateError> {
        let rotation = self.authority.rotation_mut();
        if !std::mem::take(&mut rotation.restored) {
            return Ok(false);
        }
        rotation.jwt.iter_mut().for_each(|key| key.may_have_signed(now));
        if let StoredAuthority::Own(_) = &self.authority {
            let before = self.trust.sequence().saturating_sub(1);
            self.x509_slots()?.iter().for_each(|slot| self.hand_out(&slot.id, before, end, now));
        }
        Ok(true)
    }

    /// Marks that everybody has the key of JWT-SVIDs that is prepared, if it is still this one. Returns whether that was not on record.
    pub(super) fn reach_all(&mut self, key_id: &str) -> Result<bool, StateError> {
        let Some(prepared) = self.authority.rotation_mut().jwt.iter_mut().find(|key| key.is_prepared()) else {
            return Ok(false);
        };
        Ok(prepared.slot()?.id == key_id && prepared.reach_all())
    }

    pub(super) fn handed_out(&self) -> HandedOut {
        self.authority.rotation().map(RotationContent::handed_out).unwrap_or_default()
    }
}
