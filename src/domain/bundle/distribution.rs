//! Which place gets the roots next. Level-triggered: whatever the order of events, the same is written in the end, and
//! nothing is written that is right already.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{Attempts, FoundRoots, OwnRoots, Reversals, Verdict};
use crate::domain::{clock::BootInstant, object_version::is_older};

/// There may be thousands of places that can't be written, all for one reason.
const LONGEST_IN_VAIN: Duration = Duration::from_secs(64);

/// What is known of all places: those in which our roots are to stand, and the object that stands in each.
#[derive(Debug)]
pub struct Distribution {
    roots: OwnRoots,
    adopt: bool,
    places: BTreeMap<String, Place>,
    places_listed: bool,
    objects_listed: bool,
    /// What has just happened to somebody goes before what everybody gets.
    urgent: VecDeque<String>,
    rest: VecDeque<String>,
    later: BTreeSet<(BootInstant, String)>,
}

/// An object that holds roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedObject {
    /// What the store names this state of it.
    pub version: String,
    /// The roots in it.
    pub found: FoundRoots,
}

/// What was seen of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All places in which the roots are to stand.
    Places(Vec<String>),
    /// One more.
    Wanted(String),
    /// One less: it is gone, or going.
    NotWanted(String),
    /// All objects there are.
    Objects(Vec<(String, PlacedObject)>),
    /// One is there, or was changed.
    Object(String, PlacedObject),
    /// One was deleted.
    ObjectGone(String),
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub place: String,
    /// The version of the object that is to be changed, which must be that still; `None`: there is none yet.
    pub version: Option<String>,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Our roots stand there.
    Written(PlacedObject),
    /// The object, or the place, is not as it was when the write was decided on.
    Outdated,
    /// It was refused, or nobody knows.
    Failed,
}

/// How it stands with the places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Places in which our roots are to stand.
    pub wanted: usize,
    /// Those in which they do.
    pub right: usize,
    /// Those that hold other roots.
    pub conflicts: Vec<String>,
    /// Those in which another writer insists on other roots.
    pub fights: Vec<String>,
    /// Those that could not be written.
    pub failing: Vec<String>,
}

#[derive(Debug, Default)]
struct Place {
    wanted: bool,
    object: Option<PlacedObject>,
    writing: bool,
    is_urgent: bool,
    is_queued: bool,
    reversals: Reversals,
    attempts: Attempts,
    failed: bool,
}

impl Distribution {
    /// Knows of no place. `adopt`: other people's roots are written over.
    pub const fn new(roots: OwnRoots, adopt: bool) -> Self {
        Self {
            roots,
            adopt,
            places: BTreeMap::new(),
            places_listed: false,
            objects_listed: false,
            urgent: VecDeque::new(),
            rest: VecDeque::new(),
            later: BTreeSet::new(),
        }
    }

    /// What is written.
    pub const fn roots(&self) -> &OwnRoots {
        &self.roots
    }

    /// From now on these are ours. What was given up is tried once more with them.
    pub fn set_roots(&mut self, roots: OwnRoots, now: BootInstant) {
        self.roots = roots;
        for place in self.places.values_mut() {
            (place.reversals, place.attempts) = Default::default();
        }
        self.attend_all(now);
    }

    /// Takes in what was seen.
    pub fn see(&mut self, seen: Seen, now: BootInstant) {
        match seen {
            Seen::Places(names) => {
                self.places_listed = true;
                let wanted: BTreeSet<String> = names.into_iter().collect();
                self.places.values_mut().for_each(|place| place.wanted = false);
                for name in wanted {
                    self.places.entry(name).or_default().wanted = true;
                }
                self.forget_empty();
                self.attend_all(now);
            }
            Seen::Wanted(name) => {
                self.places.entry(name.clone()).or_default().wanted = true;
                self.attend(&name, true, now);
            }
            Seen::NotWanted(name) => {
                if let Some(place) = self.places.get_mut(&name) {
                    place.wanted = false;
                }
                self.forget_empty_one(&name);
            }
            Seen::Objects(objects) => {
                self.objects_listed = true;
                let mut listed: BTreeMap<String, PlacedObject> = objects.into_iter().collect();
                let known: Vec<String> = self.places.keys().cloned().collect();
                for name in known {
                    let object = listed.remove(&name);
                    self.replace(&name, object, now);
                }
                for (name, object) in listed {
                    self.replace(&name, Some(object), now);
                }
                self.forget_empty();
                self.attend_all(now);
            }
            Seen::Object(name, object) => {
                self.replace(&name, Some(object), now);
                self.attend(&name, true, now);
            }
            Seen::ObjectGone(name) => {
                self.replace(&name, None, now);
                self.forget_empty_one(&name);
                self.attend(&name, true, now);
            }
        }
    }

    /// The next write; it counts as under way until [`Self::wrote`].
    pub fn next(&mut self, now: BootInstant) -> Option<Write> {
        if !self.is_known() {
            return None;
        }
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            self.rest.extend(self.later.pop_first().map(|(_, name)| name));
        }
        while let Some(name) = self.urgent.pop_front().or_else(|| self.rest.pop_front()) {
            let Some(place) = self.places.get_mut(&name) else { continue };
            (place.is_urgent, place.is_queued) = (false, false);
            if !place.is_to_be_written(&self.roots, self.adopt) {
                continue;
            }
            if let Some(due) = place.attempts.due(LONGEST_IN_VAIN).filter(|due| *due > now) {
                self.later.insert((due, name));
                continue;
            }
            place.attempts.begin(now);
            place.writing = true;
            return Some(Write { place: name, version: place.object.as_ref().map(|object| object.version.clone()) });
        }
        None
    }

    /// When [`Self::next`] is worth asking; `None`: not before something is seen.
    pub fn next_wake(&self, now: BootInstant) -> Option<BootInstant> {
        if !self.is_known() {
            None
        } else if self.urgent.is_empty() && self.rest.is_empty() {
            self.later.first().map(|(due, _)| *due)
        } else {
            Some(now)
        }
    }

    /// A write has ended.
    pub fn wrote(&mut self, name: &str, outcome: Outcome, now: BootInstant) {
        let Some(place) = self.places.get_mut(name) else { return };
        place.writing = false;
        place.failed = outcome == Outcome::Failed;
        place.attempts.end(!matches!(outcome, Outcome::Written(_)));
        if let Outcome::Written(object) = outcome {
            place.object = Some(object);
        }
        self.forget_empty_one(name);
        self.attend(name, false, now);
    }

    /// Whether all places and objects have been seen: what is counted before is not all.
    pub const fn is_known(&self) -> bool {
        self.places_listed && self.objects_listed
    }

    /// How it stands.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (name, place) in self.places.iter().filter(|(_, place)| place.wanted) {
            summary.wanted += 1;
            match place.verdict(&self.roots, self.adopt) {
                Verdict::Right => summary.right += 1,
                Verdict::Conflict => summary.conflicts.push(name.clone()),
                Verdict::Write if place.is_fought_over() => summary.fights.push(name.clone()),
                Verdict::Write if place.failed => summary.failing.push(name.clone()),
                Verdict::Write => {}
            }
        }
        summary
    }

    /// An object was seen in another state than before.
    fn replace(&mut self, name: &str, object: Option<PlacedObject>, now: BootInstant) {
        let place = self.places.entry(name.to_owned()).or_default();
        if let (Some(before), Some(after)) = (&place.object, &object)
            && self.roots.are_source_of(&before.found)
            && !self.roots.are_source_of(&after.found)
            && self.roots.verdict(&after.found) != Verdict::Right
            && !is_older(&after.version, &before.version)
        {
            place.reversals.count(now);
        }
        place.object = object;
    }

    fn attend_all(&mut self, now: BootInstant) {
        let names: Vec<String> = self.places.keys().cloned().collect();
        names.iter().for_each(|name| self.attend(name, false, now));
    }

    fn attend(&mut self, name: &str, urgent: bool, now: BootInstant) {
        let Some(place) = self.places.get_mut(name) else { return };
        if !place.is_to_be_written(&self.roots, self.adopt) {
            return;
        }
        if let Some(due) = place.attempts.due(LONGEST_IN_VAIN).filter(|due| *due > now) {
            self.later.insert((due, name.to_owned()));
        } else if urgent && !place.is_urgent {
            place.is_urgent = true;
            self.urgent.push_back(name.to_owned());
        } else if !urgent && !place.is_urgent && !place.is_queued {
            place.is_queued = true;
            self.rest.push_back(name.to_owned());
        }
    }

    fn forget_empty(&mut self) {
        self.places.retain(|_, place| !place.is_empty());
    }

    fn forget_empty_one(&mut self, name: &str) {
        if self.places.get(name).is_some_and(Place::is_empty) {
            self.places.remove(name);
        }
    }
}

impl Place {
    fn is_empty(&self) -> bool {
        !self.wanted && self.object.is_none() && !self.writing
    }

    fn verdict(&self, roots: &OwnRoots, adopt: bool) -> Verdict {
        match self.object.as_ref().map(|object| roots.verdict(&object.found)) {
            None => Verdict::Write,
            Some(Verdict::Conflict) if adopt => Verdict::Write,
            Some(verdict) => verdict,
        }
    }

    fn is_to_be_written(&self, roots: &OwnRoots, adopt: bool) -> bool {
        self.wanted && !self.writing && !self.is_fought_over() && self.verdict(roots, adopt) == Verdict::Write
    }

    /// An object that was deleted is nobody's any more.
    const fn is_fought_over(&self) -> bool {
        self.object.is_some() && self.reversals.is_a_fight()
    }
}

#[cfg(test)]
mod tests;
