//! What is seen of objects, in which order ever: of two sights of one object the one of the later version counts, and one of before the
//! answer to a write of ours does not.

use std::collections::BTreeMap;

use super::{
    Ledger,
    entry::{Entry, State},
};
use crate::{
    domain::{
        clock::BootInstant,
        object_version::is_older,
        policy::{ObjectKind, ObjectName},
    },
    service::policy_objects::ports::{ObjectKey, Seen, SeenObject},
};

impl Ledger {
    /// Takes in what was seen.
    pub(in crate::service::policy_objects) fn see(&mut self, seen: Seen, now: BootInstant) {
        self.revision += 1;
        self.forget_orphans(now);
        match seen {
            Seen::Listed { kind, version, objects } => self.see_list(kind, version, objects, now),
            Seen::Put(key, object) => {
                self.tell(key.kind, &object.version);
                self.replace(&key, State::Present(object), now);
            }
            Seen::Gone(key, version) => {
                self.tell(key.kind, &version);
                self.remove(&key, &version, now);
            }
        }
    }

    fn see_list(
        &mut self,
        kind: ObjectKind,
        version: Box<str>,
        objects: Vec<(ObjectName, SeenObject)>,
        now: BootInstant,
    ) {
        let mut listed: BTreeMap<ObjectName, SeenObject> = objects.into_iter().collect();
        let known: Vec<ObjectKey> = self.keys_of(kind).cloned().collect();
        // then the cluster was set back to an earlier state, and what was known is of another past
        if self.listed.get(&kind).is_some_and(|told| is_older(&version, told)) {
            let all = self.entries.iter_mut().filter(|(key, _)| key.kind == kind);
            all.for_each(|(_, entry)| entry.forget_version());
        }
        for key in known {
            match listed.remove(&key.object) {
                Some(seen) => self.replace(&key, State::Present(seen), now),
                None => self.remove(&key, &version, now),
            }
        }
        for (object, seen) in listed {
            self.replace(&ObjectKey { kind, object }, State::Present(seen), now);
        }
        self.listed.insert(kind, version);
    }

    /// Of a kind that was listed, something was told at that version.
    fn tell(&mut self, kind: ObjectKind, version: &str) {
        if let Some(told) = self.listed.get_mut(&kind) {
            *told = version.into();
        }
    }

    /// An object was seen not to be there at that version.
    fn remove(&mut self, key: &ObjectKey, version: &str, now: BootInstant) {
        if !self.entries.get(key).is_some_and(|entry| entry.is_younger_than(version)) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.note(version);
            }
            self.replace(key, State::Absent, now);
        }
    }

    /// An object was seen in another state than before.
    fn replace(&mut self, key: &ObjectKey, state: State, now: BootInstant) {
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Box::new(Entry::new(self.listed.contains_key(&key.kind))));
        if entry.is_outlived_by(&state) {
            return;
        }
        if let (State::Present(known), State::Present(seen)) = (&entry.state, &state)
            && (known.version == seen.version || is_older(&seen.version, &known.version))
        {
            return;
        }
        if let State::Present(seen) = &state {
            entry.note(&seen.version);
        }
        entry.count_reversal(&state, now);
        let became_unusable = matches!(&state, State::Present(seen) if seen.is_unusable)
            && !matches!(&entry.state, State::Present(known) if known.is_unusable);
        if matches!(state, State::Absent) && key.kind == ObjectKind::BackendTlsPolicy && !self.is_planned {
            self.orphans.push_back((now, ObjectKey { kind: ObjectKind::SdsSecret, object: key.object.clone() }));
        }
        self.put(key, state, now);
        if became_unusable {
            self.doubt_secret_of(key, now);
        }
        self.attend(key, now);
        self.attend_related(key, now);
        self.forget_if_empty(key);
    }

    /// Of a policy that is seen it is also known which Secret there must be, and of one that has changed what it needs no more.
    pub(super) fn put(&mut self, key: &ObjectKey, mut state: State, now: BootInstant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        // the same name is in memory once
        if let (State::Present(seen), Some((wanted, _))) = (&mut state, &entry.wanted)
            && seen.needs.as_ref() == wanted.needs()
        {
            seen.needs = wanted.needs().cloned();
        }
        // of a policy that no Route leads to, no gateway makes anything
        let before = entry.needs().filter(|_| entry.routed().is_some()).cloned();
        entry.state = state;
        let needs = entry.needs().cloned();
        // one of another name is somebody else's, whoever has made the policy name it
        let is_ours = |needs: &&ObjectKey| needs.kind == ObjectKind::SdsSecret && needs.object == key.object;
        if let Some(secret) = needs.as_ref().filter(is_ours) {
            self.entries.entry(secret.clone()).or_insert_with(|| Box::new(Entry::new(false))).presume();
        }
        if let Some(left) = before.filter(|before| Some(before) != needs.as_ref())
            && let Some(left) = self.entries.get_mut(&left)
        {
            left.is_left(now);
        }
    }

    /// A gateway can't use a policy: its Secret may have been deleted, which is not seen otherwise.
    fn doubt_secret_of(&mut self, policy: &ObjectKey, now: BootInstant) {
        let secret = ObjectKey { kind: ObjectKind::SdsSecret, object: policy.object.clone() };
        if let Some(entry) = self.entries.get_mut(&secret) {
            entry.doubt();
            self.attend(&secret, now);
        }
    }
}
