//! The search for the active among replicas that may be it: whom to ask when, and what follows from the answers. Pure: time
//! is handed in, and somebody else does the asking.

use std::time::Duration;

use tokio::time::Instant;

use super::ports::{ActiveReplica, Candidate};
use crate::domain::leadership::Term;

/// After an answer, while nobody is known to be active: a held request must not wait for the next look.
const WHILE_UNKNOWN: Duration = Duration::from_millis(20);
/// After a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// The known active, after its answer: requests raise doubt by themselves.
const WHILE_KNOWN: Duration = Duration::from_secs(1);

/// What a candidate answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The process.
    pub replica: String,
    /// The term that it may sign in.
    pub active_term: Option<Term>,
}

/// A candidate to be asked, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    number: u64,
    /// Whom.
    pub candidate: Candidate,
}

/// The state of a search.
#[derive(Debug)]
pub struct ActiveSearch {
    /// The replica that searches.
    own: String,
    known: Vec<Known>,
    active: Option<ActiveReplica>,
    /// A request to the active has failed, and it has not answered since.
    doubted: bool,
    /// Why there are no candidates.
    nobody: String,
    numbers: u64,
}

#[derive(Debug)]
struct Known {
    candidate: Candidate,
    /// The question that it has not answered yet.
    asked: Option<u64>,
    /// When it answered last, or failed to.
    last: Option<Instant>,
    /// When it may be asked again.
    next: Instant,
    /// What it said last, for people.
    said: String,
}

impl ActiveSearch {
    /// For `own`, which is never an answer.
    pub fn new(own: String) -> Self {
        let nobody = "nobody has looked yet".into();
        Self { own, known: Vec::new(), active: None, doubted: false, nobody, numbers: 0 }
    }

    /// Forgets everything: whoever was active is so no more.
    pub fn begin_anew(&mut self) {
        self.known.clear();
        self.active = None;
    }

    /// Goes on with these candidates. One that is new is asked at once.
    pub fn set_candidates(&mut self, candidates: Result<Vec<Candidate>, String>, now: Instant) {
        let candidates = candidates.unwrap_or_else(|reason| {
            self.nobody = reason;
            Vec::new()
        });
        let mut before = std::mem::take(&mut self.known);
        self.known = candidates
            .into_iter()
            .map(|candidate| {
                let at = before.iter().position(|known| known.candidate.is_still(&candidate));
                match at.map(|at| before.swap_remove(at)) {
                    Some(known) => Known { candidate, ..known },
                    None => Known { candidate, asked: None, last: None, next: now, said: String::new() },
                }
            })
            .collect();
        // what is left is known no more, or stands for a process that has another in its place now
        if before.iter().any(|gone| self.active.as_ref().is_some_and(|active| gone.candidate.is_at(active))) {
            self.active = None;
        }
    }

    /// Whom to ask now. Each question is to be given to [`Self::answered`].
    pub fn due(&mut self, now: Instant) -> Vec<Question> {
        let Self { own, known, active, doubted, numbers, .. } = self;
        let due = known.iter_mut().filter(|known| known.is_wanted(own, active.as_ref(), *doubted) && known.next <= now);
        due.map(|known| {
            *numbers += 1;
            known.asked = Some(*numbers);
            Question { number: *numbers, candidate: known.candidate.clone() }
        })
        .collect()
    }

    /// When somebody will be due, if nothing is answered before.
    pub fn next_due(&self) -> Option<Instant> {
        let wanted = self.known.iter().filter(|known| known.is_wanted(&self.own, self.active.as_ref(), self.doubted));
        wanted.map(|known| known.next).min()
    }

    /// Takes in what came of a question. Of several who say that they are active, the highest term is right.
    pub fn answered(&mut self, question: &Question, answer: Result<Reply, String>, now: Instant) {
        let Some(known) = self.known.iter_mut().find(|known| known.asked == Some(question.number)) else { return };
        let was_active = self.active.as_ref().is_some_and(|active| known.candidate.is_at(active));
        let answer = answer.map(|standing| (standing.replica == self.own, standing));
        known.asked = None;
        known.last = Some(now);
        known.next = now
            + match &answer {
                Ok((false, Reply { active_term: None, .. })) => WHILE_UNKNOWN,
                Ok(_) => WHILE_KNOWN,
                Err(_) => AFTER_FAILURE,
            };
        let endpoint = known.candidate.endpoint.clone();
        let (said, found) = match answer {
            Ok((true, _)) => (OWN.to_owned(), None),
            Ok((false, Reply { replica, active_term: Some(term) })) => {
                (format!("{replica} is active in term {term}"), Some(ActiveReplica { replica, term, endpoint }))
            }
            Ok((false, Reply { replica, active_term: None })) => (format!("{replica} is not active"), None),
            Err(reason) => (reason, None),
        };
        known.said = said;
        let outranked = found
            .as_ref()
            .is_some_and(|found| !was_active && self.active.as_ref().is_some_and(|active| found.term <= active.term));
        if outranked || (found.is_none() && !was_active) {
            return;
        }
        self.active = found;
        self.doubted = false;
    }

    /// A request to the active failed. It stays the active until it answers otherwise, or not at all, or another one says
    /// that it is; until then everybody is asked.
    pub fn doubt(&mut self, now: Instant) {
        let Some(active) = &self.active else { return };
        self.doubted = true;
        if let Some(known) = self.known.iter_mut().find(|known| known.candidate.is_at(active)) {
            // at once, but in no tighter a loop than a search
            known.next = known.last.map_or(now, |last| now.max(last + WHILE_UNKNOWN));
        }
    }

    /// The active.
    pub const fn active(&self) -> Option<&ActiveReplica> {
        self.active.as_ref()
    }

    /// Why there is none, for people.
    pub fn absence(&self) -> String {
        let said = |known: &'_ Known| match &known.candidate.replica {
            Some(replica) if *replica == self.own => Some(OWN.to_owned()),
            _ => (!known.said.is_empty()).then(|| known.said.clone()),
        };
        let said: Vec<_> = self.known.iter().filter_map(said).collect();
        if said.is_empty() { self.nobody.clone() } else { said.join("; ") }
    }
}

const OWN: &str = "this replica was active last";

impl Candidate {
    /// Whether `other` can be the same process.
    fn is_still(&self, other: &Self) -> bool {
        let named_otherwise = self.replica.is_some() && other.replica.is_some() && self.replica != other.replica;
        self.endpoint == other.endpoint && !named_otherwise
    }

    fn is_at(&self, active: &ActiveReplica) -> bool {
        self.endpoint == active.endpoint
    }
}

impl Known {
    fn is_wanted(&self, own: &str, active: Option<&ActiveReplica>, doubted: bool) -> bool {
        let useful = active.is_none_or(|active| {
            // a higher term than the active's is a hint that there is another one
            doubted || self.candidate.is_at(active) || self.candidate.term.is_some_and(|term| term > active.term)
        });
        useful && self.asked.is_none() && self.candidate.replica.as_deref() != Some(own)
    }
}

#[cfg(test)]
mod tests;
