//! Reviews of tokens by the API server: as few as possible, and never so many bad ones that good ones wait for them.
//!
//! An answer is kept: an acceptance for the configured time but never past the token's own `exp`, a refusal for two seconds,
//! in a place of its own, so that bad tokens push out no good ones. That there was no answer is never kept. While a token is
//! under review, everybody who brings it waits for the same review; that goes on when one of them gives up.
//!
//! How a flood of bad tokens is kept from starving good ones is told in `admission`.

mod admission;
mod kept;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ring::digest::{Context, SHA256};
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use self::{
    admission::{Admission, Place},
    kept::Kept,
};
use super::{
    flights::{Flight, Flights, Joined, Key, landed},
    metrics::{Metrics, ReviewOutcome},
    ports::TokenReviewer,
};
use crate::domain::{
    attestation::{ReviewError, ReviewRules, ReviewedAccount},
    clock::{Clock, Timestamp},
    jwt::UnverifiedToken,
};

/// What came of a review.
pub type Reviewed = Result<ReviewedAccount, ReviewError>;

/// How long one call of the API server may take.
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// How long a refusal is kept.
const REFUSALS_KEPT: Duration = Duration::from_secs(2);
/// At most this many acceptances are kept: some 300 bytes each.
const ACCEPTED: usize = 8192;
/// At most this many refusals are kept.
const REFUSED: usize = 1024;

/// The reviews of a replica.
pub struct TokenReviews(Arc<Shared>);

struct Shared {
    reviewer: Arc<dyn TokenReviewer>,
    rules: ReviewRules,
    kept_for: Duration,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    admission: Admission,
    /// Bounded by the places of `admission`.
    flights: Flights<Reviewed>,
    answers: Mutex<Answers>,
}

struct Answers {
    accepted: Kept<Accepted>,
    refused: Kept<ReviewError>,
}

#[derive(Clone)]
struct Accepted {
    account: ReviewedAccount,
    expires: Timestamp,
}

enum Found {
    Answer(Reviewed),
    UnderWay(Flight<Reviewed>),
}

impl TokenReviews {
    /// Reviews by `reviewer`, whose acceptances are believed for `kept_for`.
    pub fn new(
        reviewer: Arc<dyn TokenReviewer>,
        rules: ReviewRules,
        kept_for: Duration,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let answers = Mutex::new(Answers { accepted: Kept::new(ACCEPTED), refused: Kept::new(REFUSED) });
        let (admission, flights) = (Admission::new(), Flights::new());
        Self(Arc::new(Shared { reviewer, rules, kept_for, clock, metrics, admission, flights, answers }))
    }

    /// What tokens are held to.
    pub fn rules(&self) -> &ReviewRules {
        &self.0.rules
    }

    /// Whom `token` speaks for, by the API server's word. `claims` is what the token says of itself, `source` where it came
    /// from. Waits at most until `deadline`; the review goes on after it, so that the next try finds its answer.
    ///
    /// # Errors
    ///
    /// When the token proves nobody, and, as undecided, when that could not be found out in time.
    pub async fn review(
        &self,
        token: &Zeroizing<String>,
        claims: &UnverifiedToken,
        source: Option<IpAddr>,
        deadline: Instant,
    ) -> Reviewed {
        let key = key_of(token, &self.0.rules);
        let flight = match self.0.find_or_begin(key, token, claims, source) {
            Found::Answer(answer) => return answer,
            Found::UnderWay(flight) => flight,
        };
        match timeout_at(deadline, landed(flight)).await {
            Ok(answer) => answer.unwrap_or_else(|| unavailable("its review ended without a result")),
            Err(_elapsed) => unavailable("the API server has not answered yet"),
        }
    }
}

impl Shared {
    fn find_or_begin(
        self: &Arc<Self>,
        key: Key,
        token: &Zeroizing<String>,
        claims: &UnverifiedToken,
        source: Option<IpAddr>,
    ) -> Found {
        let now = self.clock.boot();
        // held until the end: what lands meanwhile is kept first, and is found there next time
        let answers = self.answers();
        if let Some(accepted) = answers.accepted.get(&key, now).filter(|kept| kept.expires > self.clock.now()) {
            self.metrics.token_reviewed(ReviewOutcome::Kept);
            return Found::Answer(Ok(accepted.account.clone()));
        }
        if let Some(refusal) = answers.refused.get(&key, now) {
            self.metrics.token_reviewed(ReviewOutcome::Kept);
            return Found::Answer(Err(refusal.clone()));
        }
        let review = || {
            let place = self.admission.enter(source, &claims.origin, now);
            place.map(|place| Arc::clone(self).carry_out(key, token.clone(), claims.expires, place))
        };
        match self.flights.join(key, review) {
            Ok(Joined::First(flight) | Joined::Other(flight)) => Found::UnderWay(flight),
            Err(busy) => {
                self.metrics.token_reviewed(ReviewOutcome::Unavailable);
                Found::Answer(unavailable(&busy.to_string()))
            }
        }
    }

    /// In a task of its own: it ends within the limits of waiting and calling, whoever has given up meanwhile.
    async fn carry_out(
        self: Arc<Self>,
        key: Key,
        token: Zeroizing<String>,
        expires: Timestamp,
        place: Place,
    ) -> Reviewed {
        let reviewed = self.ask(&token, &place).await;
        let now = self.clock.boot();
        place.learn(&reviewed, now);
        self.metrics.token_reviewed(match &reviewed {
            Ok(_) => ReviewOutcome::Accepted,
            Err(error) if error.is_undecided() => ReviewOutcome::Unavailable,
            Err(_) => ReviewOutcome::Refused,
        });
        let mut answers = self.answers();
        match &reviewed {
            Ok(account) => {
                let accepted = Accepted { account: account.clone(), expires };
                answers.accepted.keep(key, accepted, now, self.kept_for);
            }
            Err(error) if error.is_undecided() => {}
            Err(error) => answers.refused.keep(key, error.clone(), now, REFUSALS_KEPT),
        }
        drop(answers);
        reviewed
    }

    async fn ask(&self, token: &str, place: &Place) -> Reviewed {
        let Ok(Some(_turn)) = timeout(CALL_LIMIT, place.turn()).await else {
            return unavailable("too many tokens are under review");
        };
        match timeout(CALL_LIMIT, self.reviewer.review(token, &self.rules.audiences)).await {
            Ok(Ok(status)) => status.verdict(&self.rules.audiences),
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(_elapsed) => unavailable(&format!("the API server did not answer within {CALL_LIMIT:?}")),
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(reason: &str) -> Reviewed {
    Err(ReviewError::Unavailable(reason.to_owned()))
}

/// Each part with its length before it, so that no two sets of parts give the same bytes.
fn key_of(token: &str, rules: &ReviewRules) -> Key {
    let mut context = Context::new(&SHA256);
    for part in [token, &rules.cluster].into_iter().chain(rules.audiences.iter().map(String::as_str)) {
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests;
