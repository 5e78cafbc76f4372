//! One object: what it is to be, and what it is.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        bundle::{Attempts, Reversals},
        clock::BootInstant,
        object_version::is_older,
        policy::ObjectKind,
    },
    service::policy_objects::ports::{Content, ObjectKey, Print, SeenObject, Wanted, WriteError},
};

/// Between tries of an object that is refused by itself.
const LONGEST_IN_VAIN: Duration = Duration::from_secs(64);
/// What holds roots stays for so long after a policy that Routes lead to: a gateway's controller hears of the two by different watches,
/// perhaps in another order, and for a policy without its roots requests are answered 500.
const OUTLIVES: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Option<(Wanted, Print)>,
    pub(super) state: State,
    under_way: Option<Box<UnderWay>>,
    /// The number of its failure among all of them, 0 if it has not failed: it is tried after those with lower ones. Else one that
    /// always fails would be the one that is tried whenever a single one may be.
    pub(super) failed: u64,
    attempts: Attempts,
    reversals: Reversals,
    failure: Option<String>,
    routed: Option<Arc<str>>,
    /// One that we have removed and that is not seen to be gone yet: sights of before may still come.
    removed: Option<Removed>,
    /// Since the last policy that named it has gone.
    stays_until: Option<BootInstant>,
}

#[derive(Debug)]
struct UnderWay {
    kind: Kind,
    has_turn: bool,
    /// The newest version of the object that was seen since: the answer may be older.
    seen: Option<Box<str>>,
}

#[derive(Debug)]
enum Kind {
    Applying { needs: Option<ObjectKey>, print: Print },
    Removing { uid: Option<Arc<str>> },
}

/// What is known of an object.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing.
    Unknown,
    /// Nothing, but a policy of ours names it, or it was as we wrote it here.
    Presumed(Option<SeenObject>),
    Absent,
    Present(SeenObject),
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service::policy_objects) enum Todo {
    Apply { wanted: Wanted, version: Option<Box<str>> },
    Remove { key: ObjectKey, seen: Option<SeenObject> },
}

/// An object as it was when it was removed.
#[derive(Debug)]
struct Removed {
    uid: Arc<str>,
    version: Box<str>,
}

/// What is not right with an object, and will not be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::service::policy_objects) enum Trouble<'a> {
    /// Somebody else has made one of that name.
    Taken,
    /// Somebody changes it back again and again.
    Fought,
    /// It is to be gone, and a finalizer keeps it.
    Going(&'a str),
    /// It could not be written.
    Failing(&'a str),
}

impl Entry {
    /// `is_listed`: whether one that was not seen is not there.
    pub(super) fn new(is_listed: bool) -> Self {
        Self {
            wanted: None,
            state: if is_listed { State::Absent } else { State::Unknown },
            under_way: None,
            failed: 0,
            attempts: Attempts::default(),
            reversals: Reversals::default(),
            failure: None,
            routed: None,
            removed: None,
            stays_until: None,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.wanted.is_none()
            && self.under_way.is_none()
            && self.removed.is_none()
            && matches!(self.state, State::Unknown | State::Absent)
    }

    /// Whether that is another wish than before.
    pub(super) fn want(&mut self, wanted: Option<(Wanted, Print)>) -> bool {
        let is_as_before = self.wanted == wanted;
        let print_of = |of: &Option<(Wanted, Print)>| of.as_ref().map(|(_, print)| *print);
        if print_of(&self.wanted) != print_of(&wanted) {
            // what went wrong, or was fought over, was another content
            (self.attempts, self.reversals, self.failure, self.failed) = Default::default();
        }
        if !is_as_before {
            if let Some((Wanted { content: Content::Verification { service, is_routed, .. }, .. }, _)) = &wanted {
                self.routed = is_routed.then(|| Arc::clone(service));
            }
            self.wanted = wanted;
        }
        !is_as_before
    }

    pub(super) fn suspend(&mut self, kind: ObjectKind) {
        (self.wanted, self.under_way) = (None, None);
        (self.attempts, self.reversals, self.failure, self.failed) = Default::default();
        if kind == ObjectKind::SdsSecret {
            self.state = match self.state {
                State::Unknown | State::Absent => State::Unknown,
                State::Presumed(_) | State::Present(_) => State::Presumed(None),
            };
        }
    }

    /// The Service for which gateways have something to change when this does: of a policy that goes, when it was wanted last, or as
    /// they have said themselves.
    pub(super) fn routed(&self) -> Option<&Arc<str>> {
        match (&self.routed, &self.state) {
            (None, State::Present(seen)) => seen.routed.as_ref(),
            (routed, _) => routed.as_ref(),
        }
    }

    /// Whether proxies are to use it when what is to be done now has come to them, if they can be heard to do so.
    pub(super) fn will_be_used(&self) -> Option<bool> {
        let is_by_sds = |needs: Option<&ObjectKey>| needs.is_some_and(|needs| needs.kind == ObjectKind::SdsSecret);
        match (&self.wanted, &self.state) {
            (Some((wanted, _)), State::Absent) if is_by_sds(wanted.needs()) => Some(true),
            (None, State::Present(seen)) if is_by_sds(seen.needs.as_ref()) => Some(false),
            _ => None,
        }
    }

    /// Whether it is there, and ours, and another one than that.
    pub(super) fn is_other_than(&self, print: &Print) -> bool {
        matches!(&self.state, State::Present(seen) if seen.ours && seen.print != *print)
    }

    /// A policy of ours names it.
    pub(super) fn presume(&mut self) {
        if matches!(self.state, State::Unknown) {
            self.state = State::Presumed(None);
        }
    }

    /// It was seen at this version, or gone at it.
    pub(super) fn note(&mut self, version: &str) {
        if let Some(under_way) = &mut self.under_way {
            under_way.seen = Some(version.into());
        }
    }

    /// What is to come is not to be compared with what is known.
    pub(super) fn forget_version(&mut self) {
        self.removed = None;
        if let State::Present(seen) = &mut self.state {
            seen.version = Box::default();
        }
    }

    /// The one that was to be removed is gone. Returns whether another one is seen in its place already.
    pub(super) fn is_removed(&mut self) -> bool {
        let removed = match self.under_way.as_deref() {
            Some(UnderWay { kind: Kind::Removing { uid }, .. }) => uid.clone(),
            Some(UnderWay { kind: Kind::Applying { .. }, .. }) | None => None,
        };
        match (&self.state, removed) {
            (State::Present(seen), Some(uid)) if seen.uid == uid => {
                self.removed = Some(Removed { uid, version: seen.version.clone() });
                false
            }
            (State::Present(_), Some(_)) => true,
            (State::Present(_) | State::Unknown | State::Presumed(_) | State::Absent, _) => false,
        }
    }

    /// Whether it was not there at that version because it was not made yet.
    pub(super) fn is_younger_than(&self, version: &str) -> bool {
        let known = match (&self.state, &self.removed) {
            (State::Present(seen), _) => &seen.version,
            (_, Some(removed)) => &removed.version,
            (State::Unknown | State::Presumed(_) | State::Absent, None) => return false,
        };
        is_older(version, known)
    }

    /// Whether that is a sight of one that was removed since. That it is gone is seen in the end.
    pub(super) fn is_outlived_by(&mut self, state: &State) -> bool {
        match state {
            State::Present(seen) => self.removed.as_ref().is_some_and(|removed| removed.uid == seen.uid),
            State::Unknown | State::Presumed(_) | State::Absent => {
                self.removed = None;
                false
            }
        }
    }

    /// What was seen last, if something was while it was written.
    pub(super) fn seen_meanwhile(&self) -> Option<&str> {
        self.under_way.as_ref()?.seen.as_deref()
    }

    /// It may not be there any more.
    pub(super) fn doubt(&mut self) {
        if let State::Present(seen) = &self.state {
            self.state = State::Presumed(Some(seen.clone()));
        }
    }

    pub(super) fn is_going(&mut self) {
        if let State::Present(seen) = &mut self.state {
            seen.going.get_or_insert_default();
        }
    }

    /// What others did to it without our doing.
    pub(super) fn count_reversal(&mut self, state: &State, now: BootInstant) {
        let Some((_, print)) = &self.wanted else { return };
        let is_right =
            |state: &State| matches!(state, State::Present(seen) if seen.print == *print && seen.going.is_none());
        if is_right(&self.state) && !is_right(state) {
            self.reversals.count(now);
        }
    }

    /// It was written, and this is in the answer: what an admission has made of it is another reversal.
    pub(super) fn count_mutation(&mut self, answer: &SeenObject, now: BootInstant) {
        let written = self.under_way.as_ref().map(|under_way| &under_way.kind);
        if matches!(written, Some(Kind::Applying { print, .. }) if answer.print != *print) {
            self.reversals.count(now);
        }
    }

    /// Whether there is something to be done that has not begun.
    pub(super) fn is_waiting(&self, kind: ObjectKind) -> bool {
        self.under_way.is_none() && self.is_pending(kind)
    }

    /// Whether it is not as it is to be, and can be made so.
    pub(super) fn is_pending(&self, kind: ObjectKind) -> bool {
        match (&self.wanted, &self.state) {
            (Some(_), State::Unknown | State::Presumed(_)) => kind == ObjectKind::SdsSecret,
            // what is seen to go ends the wish for it: to make it again would begin that anew, and so on
            (Some((wanted, _)), State::Absent) => !wanted.only_if_there,
            (None, State::Presumed(_)) => true,
            (Some((_, print)), State::Present(seen)) => seen.ours && seen.going.is_none() && seen.print != *print,
            (None, State::Present(seen)) => seen.ours && seen.going.is_none(),
            (None, State::Unknown | State::Absent) => false,
        }
    }

    /// A policy that named it does so no more.
    pub(super) fn is_left(&mut self, now: BootInstant) {
        self.stays_until = Some(now.plus(OUTLIVES));
    }

    /// Not before then.
    pub(super) fn due(&self) -> Option<BootInstant> {
        let stays_until = self.stays_until.filter(|_| self.wanted.is_none());
        self.attempts.due(LONGEST_IN_VAIN).max(stays_until)
    }

    /// Of a policy: whether it is there with the roots that it is to have, in a ConfigMap. Then gateways go by it, and what differs is
    /// whom they are to accept.
    pub(super) fn differs_in_identities(&self) -> bool {
        let roots = self.wanted.as_ref().and_then(|(wanted, _)| wanted.needs());
        roots.is_some_and(|roots| roots.kind == ObjectKind::ConfigMap) && self.needs() == roots
    }

    /// Of a policy: whether it is right and names this Secret, and no gateway says that it can't use it.
    pub(super) fn vouches_for(&self, secret: &ObjectKey) -> bool {
        self.is_right()
            && self.needs() == Some(secret)
            && !matches!(&self.state, State::Present(seen) if seen.is_unusable)
    }

    /// Whose roots it has, if it is a policy of ours that is there.
    pub(super) fn needs(&self) -> Option<&ObjectKey> {
        match &self.state {
            State::Present(seen) if seen.ours => seen.needs.as_ref(),
            State::Present(_) | State::Unknown | State::Presumed(_) | State::Absent => None,
        }
    }

    /// `has_turn`: others wait until it is done and taken in.
    pub(super) fn begin(&mut self, key: &ObjectKey, has_turn: bool, now: BootInstant) -> Todo {
        let (seen, was_seen) = match &self.state {
            State::Present(seen) => (Some(seen), Some(seen)),
            State::Presumed(seen) => (None, seen.as_ref()),
            State::Unknown | State::Absent => (None, None),
        };
        let (kind, todo) = match &self.wanted {
            Some((wanted, print)) => {
                let version = seen.map(|seen| seen.version.clone());
                let kind = Kind::Applying { needs: wanted.needs().cloned(), print: *print };
                (kind, Todo::Apply { wanted: wanted.clone(), version })
            }
            None => {
                let uid = was_seen.map(|seen| Arc::clone(&seen.uid));
                (Kind::Removing { uid }, Todo::Remove { key: key.clone(), seen: was_seen.cloned() })
            }
        };
        self.attempts.begin(now);
        self.under_way = Some(Box::new(UnderWay { kind, has_turn, seen: None }));
        todo
    }

    /// Whether what is under way has begun when it was its turn.
    pub(super) fn has_turn(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.has_turn)
    }

    pub(super) fn end(&mut self, ended: Result<(), WriteError>) {
        self.under_way = None;
        match &ended {
            // says nothing of this object; its namespace and its kind wait
            Err(WriteError::Unavailable { .. }) => self.attempts.take_back(),
            ended => {
                self.failed = 0;
                self.attempts.end(ended.is_err());
            }
        }
        self.failure = match ended {
            // it is seen soon what it is
            Ok(()) | Err(WriteError::Outdated(_)) => None,
            Err(WriteError::Refused(why) | WriteError::Unavailable { why, .. }) => Some(why),
        };
    }

    pub(super) fn is_right(&self) -> bool {
        match (&self.wanted, &self.state) {
            (Some((_, print)), State::Present(seen)) => seen.ours && seen.going.is_none() && seen.print == *print,
            _ => false,
        }
    }

    /// Whether a policy may name it.
    pub(super) fn is_usable(&self) -> bool {
        let is_there = matches!(&self.state, State::Present(seen) if seen.ours && seen.going.is_none());
        is_there && !self.under_way.as_ref().is_some_and(|under_way| matches!(under_way.kind, Kind::Removing { .. }))
    }

    /// Whether it is there, or about to be, and names the other.
    pub(super) fn names(&self, other: &ObjectKey) -> bool {
        let will = |under_way: &UnderWay| matches!(&under_way.kind, Kind::Applying { needs, .. } if needs.as_ref() == Some(other));
        self.needs() == Some(other) || self.under_way.as_deref().is_some_and(will)
    }

    pub(super) fn trouble(&self) -> Option<Trouble<'_>> {
        let seen = match &self.state {
            State::Present(seen) => Some(seen),
            State::Unknown | State::Presumed(_) | State::Absent => None,
        };
        match (seen, &self.failure) {
            (Some(seen), _) if !seen.ours => self.wanted.is_some().then_some(Trouble::Taken),
            (Some(seen), _) if seen.going.is_some() => Some(Trouble::Going(seen.going.as_deref().unwrap_or_default())),
            _ if self.wanted.is_some() && self.reversals.is_a_fight() => Some(Trouble::Fought),
            (_, Some(why)) => Some(Trouble::Failing(why)),
            (_, None) => None,
        }
    }
}
