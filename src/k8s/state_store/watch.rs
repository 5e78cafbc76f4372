//! The active looks at the Secrets now and then: it signs from memory and would not notice otherwise that they were edited,
//! deleted or restored by hand, until the next one can't take over from them.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Held, Inner, SecretStateStore,
    pair::{OBJECTS, secret_name},
};
use crate::service::{ports::StateError, state_condition::StateCondition};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// How soon it looks again at what it is not sure of.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest pause while the API server does not answer.
const CEILING: Duration = Duration::from_secs(12);

impl SecretStateStore {
    /// Watches what this replica has claimed, for ever. Between terms it does nothing.
    pub async fn watch(self) {
        let inner = self.0;
        let mut suspected = None;
        let mut failures = 0_u32;
        loop {
            let pause = match (&suspected, failures) {
                (Some(_), _) => AGAIN,
                (None, failures) => INTERVAL.saturating_mul(1 << failures.min(4)).min(CEILING),
            };
            sleep(pause).await;
            let Some(held) = inner.held().clone() else {
                (suspected, failures) = (None, 0);
                continue;
            };
            let condition = inner.look(&held).await;
            failures =
                if matches!(condition, Some(StateCondition::Unknown(_))) { failures.saturating_add(1) } else { 0 };
            // a write of our own may lie between the look and what it was compared with: what is wrong shows twice
            let sure = !matches!(condition, Some(StateCondition::Altered(_))) || suspected == condition;
            suspected = condition.clone().filter(|condition| matches!(condition, StateCondition::Altered(_)) && !sure);
            if let Some(condition) = condition.filter(|_| sure) {
                inner.report(condition, &held);
            }
        }
    }
}

impl Inner {
    /// Compares the Secrets with what is held. Nothing if a higher term was found, which ends the holding.
    async fn look(self: &Arc<Self>, held: &Held) -> Option<StateCondition> {
        let until = self.deadline();
        let (authority, trust) = tokio::join!(self.secrets.get(OBJECTS[0], until), self.secrets.get(OBJECTS[1], until));
        let mut condition = StateCondition::Sound;
        for (object, found) in OBJECTS.into_iter().zip([authority, trust]) {
            match self.compare(object, found, held) {
                Ok(_) => {}
                Err(StateError::Fenced { own, found }) => {
                    warn!(event = "state_claimed_by_other", secret = secret_name(object), term = %own, higher = %found);
                    self.fenced_by(found);
                    return None;
                }
                Err(error @ (StateError::Damaged(_) | StateError::Unusable(_))) => {
                    return Some(StateCondition::Altered(error.to_string()));
                }
                Err(error @ (StateError::Io(_) | StateError::Conflict { .. })) => {
                    condition = StateCondition::Unknown(error.to_string());
                }
            }
        }
        Some(condition)
    }

    /// Publishes a condition, and says it once.
    fn report(&self, condition: StateCondition, held: &Held) {
        // the term may have ended, or a write been acknowledged, since the look
        let same_term = self.held().as_ref().is_some_and(|now| now.term == held.term);
        self.condition.send_if_modified(|published| {
            if !same_term || *published == condition {
                return false;
            }
            match (&*published, &condition) {
                (_, StateCondition::Altered(problem)) => {
                    warn!(event = "state_altered", term = %held.term, problem);
                }
                (_, StateCondition::Unknown(why)) => warn!(event = "state_unknown", term = %held.term, why),
                (StateCondition::Altered(_) | StateCondition::Unknown(_), StateCondition::Sound) => {
                    info!(event = "state_sound_again", term = %held.term);
                }
                (StateCondition::Sound | StateCondition::Unwatched, _) | (_, StateCondition::Unwatched) => {}
            }
            *published = condition;
            true
        });
    }
}
