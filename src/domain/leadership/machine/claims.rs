//! Claiming a term in the state objects: one claim at a time, with backoff.

use std::time::Duration;

use super::{Action, Event, Term, backoff::Backoff};
use crate::domain::clock::BootInstant;

/// What a claim's answer means for the term that is wanted.
pub(super) enum Answer {
    /// It is claimed.
    Claimed,
    /// It can't be had; a higher one is needed.
    Refused,
    /// It is of no use here.
    Unusable,
    /// Nothing yet, or a word about another term.
    None,
}

#[derive(Debug)]
pub(super) struct Claims {
    /// The highest term known of, wherever it was seen.
    highest: Term,
    under_way: bool,
    not_before: BootInstant,
    backoff: Backoff,
}

impl Claims {
    pub(super) const fn new(now: BootInstant, first: Duration, ceiling: Duration) -> Self {
        Self { highest: Term::NONE, under_way: false, not_before: now, backoff: Backoff::new(first, ceiling) }
    }

    pub(super) const fn highest(&self) -> Term {
        self.highest
    }

    pub(super) fn learn(&mut self, term: Term) {
        self.highest = self.highest.max(term);
    }

    /// Asks for `term`, if it is time and nothing is asked yet.
    pub(super) fn ask(&mut self, term: Term, now: BootInstant, actions: &mut Vec<Action>) {
        if !self.under_way && now >= self.not_before {
            self.under_way = true;
            actions.push(Action::ClaimState { term });
        }
    }

    /// When to ask, for one who wants to.
    pub(super) fn due(&self) -> Option<BootInstant> {
        (!self.under_way).then_some(self.not_before)
    }

    /// Takes the answer to whatever claim is under way, which may be for another term than the one `wanted` by now.
    pub(super) fn answered(&mut self, event: &Event, wanted: Option<Term>, now: BootInstant) -> Answer {
        self.under_way = false;
        if let Event::StateClaimed { term } = *event {
            self.learn(term);
            self.backoff.reset();
            match wanted {
                Some(wanted) if wanted != term => Answer::None,
                Some(_) if self.highest > term => Answer::Refused,
                Some(_) => Answer::Claimed,
                None => Answer::None,
            }
        } else if let Event::StateRefused { term, highest } = *event {
            self.learn(highest);
            self.not_before = now.plus(self.backoff.refused());
            if wanted == Some(term) { Answer::Refused } else { Answer::None }
        } else {
            self.not_before = now.plus(self.backoff.failed());
            let unusable = matches!(*event, Event::StateUnusable { term } if wanted == Some(term));
            if unusable { Answer::Unusable } else { Answer::None }
        }
    }
}
