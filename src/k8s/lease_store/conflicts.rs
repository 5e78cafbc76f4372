//! Conflicts that can't be: a write is refused because the object is another one, and then it is the same.

use std::sync::{Mutex, PoisonError};

use crate::domain::leadership::{Event, Version};

/// The last write that was a conflict.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Mutex<Option<Refused>>);

#[derive(Debug)]
struct Refused {
    /// What it was to replace; nothing, if it was to make the object.
    expected: Option<Version>,
    /// Whether it was read since, and is as it was expected.
    confirmed: bool,
    /// Whether that was so before this write too, which was refused all the same.
    senseless: bool,
}

impl Conflicts {
    /// Takes note of an answer, to a write of what is `expected` there or to a read. Whether the last two writes were conflicts, and a
    /// read between them showed what they expected.
    pub(super) fn are_senseless(&self, expected: Option<Option<Version>>, answer: &Event) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (answer, expected) {
            (Event::LeaseConflict, Some(expected)) => {
                let before = last.take().filter(|last| last.expected == expected);
                let senseless = before.is_some_and(|before| before.confirmed || before.senseless);
                *last = Some(Refused { expected, confirmed: false, senseless });
            }
            (Event::LeaseWritten(_), _) => *last = None,
            (Event::LeaseRead(found), _) => {
                let found = found.as_ref().map(|found| &found.version);
                let same = last.take().filter(|last| last.expected.as_ref() == found);
                *last = same.map(|last| Refused { confirmed: true, ..last });
            }
            _ => {}
        }
        last.as_ref().is_some_and(|last| last.senseless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::leadership::{HolderId, LeaseRecord, Observed, Occupancy, Term};

    fn read(version: &str) -> Event {
        let record = LeaseRecord { term: Term::new(1), occupancy: Occupancy::Held(HolderId::parse("me").unwrap()) };
        Event::LeaseRead(Some(Observed { version: Version::new(version), record }))
    }

    #[test]
    fn a_conflict_is_senseless_when_it_comes_twice_for_the_same_object() {
        let conflicts = Conflicts::default();
        let write = |version: &str| Some(Some(Version::new(version)));
        assert!(!conflicts.are_senseless(write("1"), &Event::LeaseConflict));
        assert!(!conflicts.are_senseless(None, &read("2")), "somebody was faster");
        assert!(!conflicts.are_senseless(write("2"), &Event::LeaseConflict));
        assert!(!conflicts.are_senseless(write("2"), &Event::LeaseConflict), "nobody has looked");
        assert!(!conflicts.are_senseless(None, &read("2")));
        assert!(conflicts.are_senseless(write("2"), &Event::LeaseConflict));
        assert!(conflicts.are_senseless(None, &read("2")), "a read doesn't end it");
        assert!(!conflicts.are_senseless(write("2"), &Event::LeaseWritten(Version::new("3"))));
        assert!(!conflicts.are_senseless(Some(None), &Event::LeaseConflict));
        assert!(!conflicts.are_senseless(None, &Event::LeaseRead(None)));
        assert!(conflicts.are_senseless(Some(None), &Event::LeaseConflict), "it can't be made, though there is none");
    }
}
