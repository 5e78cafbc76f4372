mod ahead;
mod any_order;
mod failures;
mod kept;
mod sights;
mod turns;

use std::time::Duration;

use super::*;
use crate::domain::clock::Timestamp;
use crate::service::policy_objects::ports::{Content, Pause, Seen};

const NAMESPACE: &str = "app";

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_nanos(seconds * 1_000_000_000)
}

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    key_in(NAMESPACE, kind, name)
}

fn key_in(namespace: &str, kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey { kind, object: ObjectName::new(namespace, name) }
}

fn roots() -> ObjectKey {
    key(ObjectKind::ConfigMap, "countersign-mesh-ca")
}

fn secret(name: &str) -> ObjectKey {
    key(ObjectKind::SdsSecret, name)
}

fn policy(name: &str) -> ObjectKey {
    key(ObjectKind::BackendTlsPolicy, name)
}

fn print(content: u8) -> Print {
    Print([content; 32])
}

fn wanted(key: ObjectKey, needs: Option<ObjectKey>, content: u8) -> (Wanted, Print) {
    let text = content.to_string();
    let content_of = match needs {
        Some(ca) => Content::Verification {
            service: "s".into(),
            hostname: text,
            ids: Vec::new(),
            ca,
            is_routed: content.is_multiple_of(2),
        },
        None => Content::Roots { pem: text.into() },
    };
    (Wanted { key, owner: None, content: content_of, only_if_there: false }, print(content))
}

/// What its print is made of.
fn content_of(wanted: &Wanted) -> u8 {
    match &wanted.content {
        Content::Verification { hostname, .. } => hostname.parse().unwrap(),
        Content::Roots { pem } => pem.parse().unwrap(),
        Content::Sds { .. } => panic!("{wanted:?}"),
    }
}

fn portable(content: u8) -> Vec<(Wanted, Print)> {
    vec![wanted(roots(), None, 100), wanted(policy("a"), Some(roots()), content)]
}

fn sds() -> Vec<(Wanted, Print)> {
    vec![wanted(secret("a"), None, 101), wanted(policy("a"), Some(secret("a")), 50)]
}

fn seen(version: u64, content: u8, needs: Option<ObjectKey>) -> SeenObject {
    SeenObject {
        version: version.to_string().into(),
        uid: "u".into(),
        generation: 1,
        changed_at: Timestamp::from_seconds(0),
        print: print(content),
        ours: true,
        going: None,
        needs,
        is_unusable: false,
        routed: None,
    }
}

fn listed(kind: ObjectKind, version: u64, objects: Vec<(ObjectName, SeenObject)>) -> Seen {
    Seen::Listed { kind, version: version.to_string().into(), objects }
}

/// A cluster that takes everything, and tells of what is not a Secret.
struct Model {
    ledger: Ledger,
    objects: BTreeMap<ObjectKey, SeenObject>,
    version: u64,
    now: BootInstant,
    done: Vec<String>,
}

impl Model {
    fn new() -> Self {
        let mut model =
            Self { ledger: Ledger::default(), objects: BTreeMap::new(), version: 0, now: at(1), done: Vec::new() };
        model.list();
        model
    }

    fn list(&mut self) {
        for kind in [ObjectKind::ConfigMap, ObjectKind::BackendTlsPolicy] {
            let of_kind = self.objects.iter().filter(|(key, _)| key.kind == kind);
            let all = of_kind.map(|(key, seen)| (key.object.clone(), seen.clone())).collect();
            self.ledger.see(listed(kind, self.version, all), self.now);
        }
    }

    fn want(&mut self, wanted: Vec<(Wanted, Print)>) {
        self.ledger.want(NAMESPACE, wanted, self.now);
        self.ledger.planned(self.now);
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn perform(&mut self, todo: Todo) -> (ObjectKey, Outcome) {
        let version = self.next_version();
        match todo {
            Todo::Apply { wanted, version: known } => {
                let current = self.objects.get(&wanted.key);
                assert!(
                    known.is_none() || current.map(|seen| &seen.version) == known.as_ref(),
                    "{known:?} {current:?}"
                );
                let (content, needs) = (content_of(&wanted), wanted.needs().cloned());
                if let Some(needs) = &needs {
                    assert!(self.objects.contains_key(needs), "{} before {needs}", wanted.key);
                }
                self.done.push(format!("apply {}", wanted.key));
                let uid = current.map_or_else(|| version.to_string().into(), |seen| Arc::clone(&seen.uid));
                let seen = SeenObject { uid, ..seen(version, content, needs) };
                self.objects.insert(wanted.key.clone(), seen.clone());
                (wanted.key, Outcome::Applied(seen))
            }
            Todo::Remove { key, .. } => {
                let named = self.objects.values().any(|seen| seen.needs.as_ref() == Some(&key));
                assert!(!named, "{key} is still named");
                self.done.push(format!("remove {key}"));
                self.objects.remove(&key);
                (key, Outcome::Removed(Removed::Gone))
            }
        }
    }

    /// All that is to be done, with as much patience as it takes.
    fn settle(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(due) = self.ledger.next_wake(self.now) {
            self.now = self.now.max(due);
            if let Some(todo) = self.ledger.next(self.now) {
                let (key, outcome) = self.perform(todo);
                self.ledger.done(&key, outcome, self.now);
                told.push(key);
            }
            assert!(told.len() < 1000, "it never ends: {:?}", self.done);
        }
        std::mem::take(&mut self.done)
    }

    /// Does all that may be done by now.
    fn step(&mut self) -> Vec<String> {
        while let Some(todo) = self.ledger.next(self.now) {
            let (key, outcome) = self.perform(todo);
            self.ledger.done(&key, outcome, self.now);
        }
        std::mem::take(&mut self.done)
    }

    fn edit(&mut self, key: &ObjectKey, content: u8) {
        let version = self.next_version();
        let seen =
            SeenObject { print: print(content), version: version.to_string().into(), ..self.objects[key].clone() };
        self.objects.insert(key.clone(), seen.clone());
        self.ledger.see(Seen::Put(key.clone(), seen), self.now);
    }

    fn delete(&mut self, key: &ObjectKey) {
        if let Some(seen) = self.objects.remove(key)
            && key.kind != ObjectKind::SdsSecret
        {
            self.ledger.see(Seen::Gone(key.clone(), seen.version), self.now);
        }
    }

    fn troubles(&self) -> Vec<String> {
        self.ledger.troubles().map(|(key, trouble)| format!("{key} {trouble:?}")).collect()
    }
}

fn wanted_secret() -> (Wanted, Print) {
    wanted(secret("b"), None, 3)
}

#[test]
fn roots_are_there_before_their_policy_and_longer() {
    for (content, stays) in [(2, Duration::from_secs(2)), (1, Duration::ZERO)] {
        let mut model = Model::new();
        model.want(portable(content));
        assert_eq!(model.settle(), ["apply ConfigMap app/countersign-mesh-ca", "apply BackendTLSPolicy app/a"]);
        model.now = model.now.plus(Duration::from_secs(1));
        let begin = model.now;
        model.want(Vec::new());
        assert_eq!(model.settle(), ["remove BackendTLSPolicy app/a", "remove ConfigMap app/countersign-mesh-ca"]);
        assert_eq!(
            model.now.since(begin),
            stays,
            "where a Route leads to it, who hears of both may hear of this one first"
        );
        model.list();
        assert!(model.ledger.entries.is_empty());
    }
}

#[test]
fn a_flavour_changes_by_adding_before_removing() {
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    model.want(sds());
    let begin = model.now;
    let there_and_back =
        ["apply Secret app/a", "apply BackendTLSPolicy app/a", "remove ConfigMap app/countersign-mesh-ca"];
    assert_eq!(model.settle(), there_and_back);
    assert!(model.now.since(begin) >= Duration::from_secs(2));
    model.want(portable(2));
    let expected = ["apply ConfigMap app/countersign-mesh-ca", "apply BackendTLSPolicy app/a", "remove Secret app/a"];
    let begin = model.now;
    assert_eq!(model.settle(), expected);
    assert!(model.now.since(begin) >= Duration::from_secs(2));
}

#[test]
fn nothing_is_done_before_everything_is_known() {
    let mut ledger = Ledger::default();
    ledger.want(NAMESPACE, portable(1), at(1));
    ledger.planned(at(1));
    ledger.see(listed(ObjectKind::ConfigMap, 1, Vec::new()), at(1));
    assert_eq!((ledger.next(at(1)), ledger.next_wake(at(1))), (None, None));
    ledger.see(listed(ObjectKind::BackendTlsPolicy, 1, Vec::new()), at(1));
    assert!(ledger.next(at(1)).is_some());
    let mut ledger = Ledger::default();
    let stale = vec![(ObjectName::new("gone", "a"), seen(1, 1, None))];
    ledger.see(listed(ObjectKind::ConfigMap, 1, Vec::new()), at(1));
    ledger.see(listed(ObjectKind::BackendTlsPolicy, 1, stale), at(1));
    assert_eq!(ledger.next(at(1)), None, "what is wanted is not known yet");
    ledger.planned(at(1));
    assert!(matches!(ledger.next(at(1)), Some(Todo::Remove { .. })));
}

#[test]
fn what_is_right_is_not_written_again() {
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    model.want(portable(1));
    model.list();
    let unchanged = model.objects[&policy("a")].clone();
    model.ledger.see(Seen::Put(policy("a"), SeenObject { version: "99".into(), ..unchanged }), model.now);
    assert!(model.settle().is_empty());
}

#[test]
fn edits_and_deletions_are_put_right_ever_more_slowly_and_reported() {
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    let begin = model.now;
    model.edit(&policy("a"), 9);
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
    assert_eq!(model.now, begin, "the first one at once");
    assert!(model.troubles().is_empty());
    for _ in 0..20 {
        model.delete(&policy("a"));
        assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
    }
    assert_eq!(model.troubles(), ["BackendTLSPolicy app/a Fought"]);
    assert!(model.now.since(begin) > Duration::from_secs(600), "{:?}", model.now.since(begin));
    let before = model.now;
    model.want(portable(2));
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
    assert_eq!(model.now, before, "another wish does not wait for it");
    assert!(model.troubles().is_empty());
}

#[test]
fn what_somebody_else_has_made_is_left_alone() {
    let mut model = Model::new();
    let theirs = SeenObject { ours: false, ..seen(1, 7, None) };
    model.ledger.see(Seen::Put(roots(), theirs.clone()), model.now);
    model.ledger.see(Seen::Put(policy("b"), SeenObject { ours: false, ..seen(1, 7, None) }), model.now);
    model.want(portable(1));
    assert!(model.settle().is_empty(), "a policy must not name roots of somebody else");
    assert_eq!(model.troubles(), ["ConfigMap app/countersign-mesh-ca Taken"]);
    model.ledger.see(Seen::Gone(roots(), theirs.version), model.now);
    assert_eq!(model.settle().len(), 2);
}

#[test]
fn what_a_finalizer_keeps_is_reported_and_written_when_it_is_gone() {
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    let going = SeenObject {
        going: Some("example.test/keep".into()),
        version: "50".into(),
        ..model.objects[&policy("a")].clone()
    };
    model.ledger.see(Seen::Put(policy("a"), going), model.now);
    assert!(model.settle().is_empty());
    assert_eq!(model.troubles(), [r#"BackendTLSPolicy app/a Going("example.test/keep")"#]);
    model.objects.remove(&policy("a"));
    model.ledger.see(Seen::Gone(policy("a"), "51".into()), model.now);
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
    assert!(model.troubles().is_empty());
}

#[test]
fn a_secret_that_a_gateway_misses_is_written_again() {
    let mut model = Model::new();
    model.want(sds());
    model.settle();
    model.delete(&secret("a"));
    assert!(model.settle().is_empty());
    let unusable = SeenObject { is_unusable: true, version: "60".into(), ..model.objects[&policy("a")].clone() };
    model.ledger.see(Seen::Put(policy("a"), unusable.clone()), model.now);
    assert_eq!(model.settle(), ["apply Secret app/a"]);
    model.ledger.see(Seen::Put(policy("a"), SeenObject { version: "61".into(), ..unusable }), model.now);
    assert!(model.settle().is_empty(), "once is enough");
}

#[test]
fn another_active_goes_on_from_what_it_sees() {
    let mut model = Model::new();
    model.want(sds());
    model.settle();
    model.ledger.suspend();
    assert_eq!(model.ledger.next_wake(model.now), None);
    model.want(sds());
    assert_eq!(model.settle(), ["apply Secret app/a"], "which nobody can see");
    model.ledger.suspend();
    model.want(Vec::new());
    assert_eq!(model.settle(), ["remove BackendTLSPolicy app/a", "remove Secret app/a"]);
}

#[test]
fn who_goes_on_removes_the_secret_of_a_policy_whose_remover_died_if_it_has_not_been_long() {
    for (passed, expected) in [(1, vec!["remove Secret app/a"]), (600, vec![])] {
        let mut model = Model::new();
        model.want(sds());
        model.settle();
        model.ledger.suspend();
        model.delete(&policy("a"));
        model.now = model.now.plus(Duration::from_secs(passed));
        model.list();
        model.want(Vec::new());
        assert_eq!(model.settle(), expected, "after {passed} s");
    }
}

#[test]
fn while_nothing_is_taken_one_asks_for_all_and_ever_more_slowly() {
    let mut model = Model::new();
    let many = (0..50).map(|number| wanted(key(ObjectKind::ConfigMap, &number.to_string()), None, 1)).collect();
    model.want(many);
    let (begin, mut asked) = (model.now, 0);
    while model.now.since(begin) < Duration::from_secs(600) {
        let Some(due) = model.ledger.next_wake(model.now) else { panic!("it gave up") };
        model.now = model.now.max(due);
        if let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) {
            asked += 1;
            let error = WriteError::Unavailable { why: "configmaps is forbidden".into(), pause: None };
            model.ledger.done(&wanted.key, Outcome::Failed(error), model.now);
        }
    }
    assert!((60..100).contains(&asked), "{asked}");
    assert_eq!(model.ledger.closed().count(), 1);
    assert_eq!(model.settle().len(), 50);
    assert_eq!(model.ledger.closed().count(), 0);
}
