//! Writes of the holder of a term, each on the condition that the Secret is still what it has in memory.

use tokio::time::Instant;
use tracing::debug;

use super::{
    ATTEMPTS, Held, Inner, KEEPS_CHANGING,
    pair::{Pair, other, secret_name},
    record::{Record, Stored},
    secrets::WriteError,
};
use crate::{
    domain::leadership::Term,
    service::ports::{StateError, StateObject},
};

/// Roots that are remembered as replaced: far more than those of one rotation, back and forth.
const MAX_REPLACED: usize = 8;

impl Inner {
    pub(super) async fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError> {
        let until = self.deadline();
        let _turn = self.one_at_a_time(until).await?;
        let version = self.replace(object, expected, term, content, until).await?;
        // the other one names this one too; if that fails, the Lease still does
        if let Err(error) = self.renew_view(other(object), self.deadline()).await {
            debug!(event = "state_view_not_renewed", ?object, %error);
        }
        Ok(version)
    }

    async fn replace(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
        until: Instant,
    ) -> Result<u64, StateError> {
        let mut known = self.certain(object);
        for _ in 0..ATTEMPTS {
            let stored = match known.take() {
                Some(stored) => stored,
                None => self.current(object, until).await?,
            };
            let old = &stored.record;
            if old.claimed > term {
                return Err(StateError::Fenced { own: term, found: old.claimed });
            }
            // an object that was claimed, or given up, counts on, but holds nothing yet
            let found = if old.content.is_empty() { 0 } else { old.version };
            if found != expected {
                return Err(StateError::Conflict { object, expected, found });
            }
            let record = Record {
                version: old.version.saturating_add(1),
                writer: term,
                claimed: term,
                content: content.to_vec().into(),
                replaces: self.replaced_by(object, old, content),
                ..old.clone()
            };
            if self.write(object, &stored, record.clone(), until).await? {
                return Ok(record.version);
            }
        }
        Err(self.secrets.failed("written", object, KEEPS_CHANGING))
    }

    /// The roots that the next content takes the place of: in a rotation the one that signed until now, which the other object
    /// and the Lease still name for a moment.
    fn replaced_by(&self, object: StateObject, old: &Record, content: &[u8]) -> Vec<String> {
        let mut replaces = old.replaces.clone();
        if object == StateObject::Authority {
            let (before, after) = ((self.root_of)(&old.content), (self.root_of)(content));
            if before != after {
                replaces.extend(before);
                replaces.retain(|replaced| Some(replaced) != after.as_ref());
                let beyond = replaces.len().saturating_sub(MAX_REPLACED);
                replaces.drain(..beyond);
            }
        }
        replaces
    }

    /// Writes what is known of the whole state onto an object, and nothing else.
    async fn renew_view(&self, object: StateObject, until: Instant) -> Result<(), StateError> {
        let stored = match self.certain(object) {
            Some(stored) => stored,
            None => self.current(object, until).await?,
        };
        self.write(object, &stored, stored.record.clone(), until).await.map(drop)
    }

    /// What is held of an object, unless a write without an answer has made that uncertain. The API server refuses to have it
    /// replaced if it is not that any more.
    fn certain(&self, object: StateObject) -> Option<Stored> {
        let held = self.held();
        let held = held.as_ref().filter(|held| held.in_doubt.of(object).is_none())?;
        Some(held.objects.of(object).clone())
    }

    /// Writes a record of the own term in the place of `stored`. False if somebody else wrote first.
    async fn write(
        &self,
        object: StateObject,
        stored: &Stored,
        mut record: Record,
        until: Instant,
    ) -> Result<bool, StateError> {
        let mut held = self.held().clone().ok_or_else(closed)?;
        let mut records =
            Pair { authority: Some(&held.objects.authority.record), trust: Some(&held.objects.trust.record) };
        let unseen = record.clone();
        *records.of_mut(object) = Some(&unseen);
        record.view = self.acknowledged(&records);
        match self.secrets.put(stored.with(object, &record), until).await {
            Ok(written) => {
                *held.objects.of_mut(object) = Stored::written(written, record);
                *held.in_doubt.of_mut(object) = None;
                self.hold(held);
                Ok(true)
            }
            Err(WriteError::Conflict) => Ok(false),
            Err(WriteError::Refused(why)) => Err(self.secrets.failed("written", object, &why)),
            Err(WriteError::Unknown(why)) => {
                *held.in_doubt.of_mut(object) = Some(record);
                self.hold(held);
                Err(self.secrets.failed("written", object, &why))
            }
        }
    }

    /// Reads an object and makes sure that it is what was acknowledged, or what a write without an answer has written.
    pub(super) async fn current(&self, object: StateObject, until: Instant) -> Result<Stored, StateError> {
        let found = self.secrets.get(object, until).await;
        let mut held = self.held().clone().ok_or_else(closed)?;
        match self.compare(object, found, &held) {
            Ok(stored) => {
                *held.objects.of_mut(object) = stored.clone();
                *held.in_doubt.of_mut(object) = None;
                self.hold(held);
                Ok(stored)
            }
            Err(StateError::Fenced { own, found }) => {
                self.fenced_by(found);
                Err(StateError::Fenced { own, found })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether what was found is what is held.
    pub(super) fn compare(
        &self,
        object: StateObject,
        found: Result<Option<Stored>, StateError>,
        held: &Held,
    ) -> Result<Stored, StateError> {
        let name = secret_name(object);
        let Some(stored) = found? else {
            return Err(self.secrets.damaged(&format!("Secret {name} is gone; {FROM_MEMORY}")));
        };
        let (record, expected) = (&stored.record, &held.objects.of(object).record);
        if record.claimed > held.term {
            return Err(StateError::Fenced { own: held.term, found: record.claimed });
        }
        let as_claimed = record.claimed == held.term;
        let is_doubted = held.in_doubt.of(object).as_ref().is_some_and(|doubted| record.same_content(doubted));
        if as_claimed && (record.same_content(expected) || is_doubted) {
            return Ok(stored);
        }
        Err(self.secrets.damaged(&format!(
            "Secret {name} was changed by hand: it has version {} of term {}, not {} of term {}; {FROM_MEMORY}",
            record.version, record.claimed, expected.version, held.term
        )))
    }
}

const FROM_MEMORY: &str =
    "the active still signs from memory, and `countersign authority export` in its pod saves that";

fn closed() -> StateError {
    StateError::Io("the state is not claimed by this replica".into())
}
