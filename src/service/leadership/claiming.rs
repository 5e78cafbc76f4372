//! Claims on their blocking threads: one at a time, and under a lease each with an answer in time.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::{
    domain::leadership::{Tenure, Term},
    service::{
        ports::StateError,
        signing_state::{Claim, SigningState},
    },
};

/// Claims terms in the state.
pub(super) struct Claiming {
    state: Arc<SigningState>,
    /// A claim that was not waited for any longer keeps its turn until it has ended: the next one finds what it has done.
    turn: Arc<Semaphore>,
    limit: Option<Duration>,
}

impl Claiming {
    pub(super) fn new(state: Arc<SigningState>, tenure: Tenure) -> Self {
        let limit = match tenure {
            Tenure::Lock => None,
            Tenure::Lease(timing) => Some(timing.step_down()),
        };
        Self { state, turn: Arc::new(Semaphore::new(1)), limit }
    }

    /// Claims `term`. What comes after the limit is dropped.
    pub(super) fn claim(&self, term: Term) -> impl Future<Output = Result<Claim, StateError>> + Send + use<> {
        let (state, turn, limit) = (Arc::clone(&self.state), Arc::clone(&self.turn), self.limit);
        let claim = async move {
            let turn = turn.acquire_owned().await.map_err(|closed| StateError::Io(closed.to_string()))?;
            let claim = spawn_blocking(move || {
                let _turn = turn;
                state.claim(term)
            });
            claim.await.unwrap_or_else(|error| Err(StateError::Io(error.to_string())))
        };
        async move {
            let Some(limit) = limit else { return claim.await };
            let too_late = |_elapsed| Err(StateError::Io(format!("a claim was not answered within {limit:?}")));
            timeout(limit, claim).await.unwrap_or_else(too_late)
        }
    }
}
