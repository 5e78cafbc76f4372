//! Whatever happens in whatever order, what is wanted is there in the end, and then nothing is written. Writes take their time, fail
//! in every way, and are heard of late or never; what is seen of the cluster, lists included, comes late as well.

mod event;

use std::collections::VecDeque;

use proptest::prelude::*;

use self::event::{Event, Failure, event, failure};
use super::*;

const NAMESPACES: [&str; 2] = ["app", "team"];
const PLANS: u8 = 6;
/// Of a namespace.
const TARGETS: u8 = 5;

fn target(namespace: u8, which: u8) -> ObjectKey {
    let (kind, name) = match which {
        0 => (ObjectKind::ConfigMap, "countersign-mesh-ca"),
        1 => (ObjectKind::BackendTlsPolicy, "a"),
        2 => (ObjectKind::BackendTlsPolicy, "b"),
        3 => (ObjectKind::SdsSecret, "a"),
        _ => (ObjectKind::SdsSecret, "b"),
    };
    key_in(NAMESPACES[usize::from(namespace)], kind, name)
}

fn plan(namespace: u8, which: u8) -> Vec<(Wanted, Print)> {
    let of = |which| target(namespace, which);
    let with_roots = |policy, content| wanted(of(policy), Some(of(0)), content);
    let with_secret = |policy: u8| {
        let secret = of(policy + 2);
        [wanted(secret.clone(), None, 101), wanted(of(policy), Some(secret), 50)]
    };
    match which {
        0 => Vec::new(),
        1 => [with_secret(1), with_secret(2)].concat(),
        2 => [vec![wanted(of(0), None, 100), with_roots(1, 1)], with_secret(2).into()].concat(),
        3 => vec![wanted(of(0), None, 100), with_roots(2, 1)],
        content => vec![wanted(of(0), None, 90 + content), with_roots(1, content), with_roots(2, content)],
    }
}

/// A cluster in which everything takes its time.
struct World {
    ledger: Ledger,
    now: BootInstant,
    objects: BTreeMap<ObjectKey, SeenObject>,
    kept: BTreeSet<ObjectKey>,
    version: u64,
    /// What has happened and was not seen yet.
    echoes: VecDeque<Seen>,
    /// With the answer, once there is one.
    under_way: Vec<(Todo, Option<Outcome>)>,
    plans: [u8; 2],
    /// Whether somebody or a lost answer has made it possible that a policy names what is not there.
    is_disturbed: bool,
    /// Secrets that nobody can know of: they go with their Service.
    unheard: BTreeSet<ObjectKey>,
    /// Whether the ledger has seen nothing of policies yet.
    is_new: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            ledger: Ledger::default(),
            now: at(1),
            objects: BTreeMap::new(),
            kept: BTreeSet::new(),
            version: 0,
            echoes: VecDeque::new(),
            under_way: Vec::new(),
            plans: [0, 0],
            is_disturbed: false,
            unheard: BTreeSet::new(),
            is_new: true,
        };
        world.list();
        world.echo(usize::MAX);
        world.ledger.planned(world.now);
        world
    }

    /// What is there now will be seen in the place of what has happened until now.
    fn list(&mut self) {
        self.echoes.clear();
        if self.is_new {
            // of Secrets it hears by the policies that name them, and of no others
            let named: BTreeSet<&ObjectKey> =
                self.objects.values().filter_map(|object| object.needs.as_ref()).collect();
            let secrets = self.objects.keys().filter(|key| key.kind == ObjectKind::SdsSecret && !named.contains(key));
            self.unheard.extend(secrets.cloned());
        }
        for kind in [ObjectKind::ConfigMap, ObjectKind::BackendTlsPolicy] {
            let of_kind = self.objects.iter().filter(|(key, _)| key.kind == kind);
            let all = of_kind.map(|(key, seen)| (key.object.clone(), seen.clone())).collect();
            self.echoes.push_back(listed(kind, self.version, all));
        }
    }

    fn want(&mut self, namespace: u8, which: u8) {
        self.plans[usize::from(namespace)] = which;
        self.ledger.want(NAMESPACES[usize::from(namespace)], plan(namespace, which), self.now);
        self.ledger.planned(self.now);
    }

    fn put(&mut self, key: &ObjectKey, change: impl FnOnce(&mut SeenObject)) -> SeenObject {
        self.version += 1;
        let new = SeenObject { uid: self.version.to_string().into(), ..seen(0, 0, None) };
        let object = self.objects.entry(key.clone()).or_insert(new);
        object.version = self.version.to_string().into();
        change(object);
        if key.kind != ObjectKind::SdsSecret {
            self.echoes.push_back(Seen::Put(key.clone(), object.clone()));
        }
        object.clone()
    }

    fn delete(&mut self, key: &ObjectKey) -> Removed {
        if self.kept.contains(key) {
            self.put(key, |object| object.going = Some("example.test/keep".into()));
            return Removed::Going;
        }
        self.version += 1;
        self.objects.remove(key);
        if key.kind != ObjectKind::SdsSecret {
            self.echoes.push_back(Seen::Gone(key.clone(), self.version.to_string().into()));
        }
        Removed::Gone
    }

    fn release(&mut self, key: &ObjectKey) {
        if self.kept.remove(key) && self.objects.get(key).is_some_and(|object| object.going.is_some()) {
            self.delete(key);
        }
    }

    fn echo(&mut self, count: usize) {
        let seen: Vec<Seen> = self.echoes.drain(..count.min(self.echoes.len())).collect();
        for seen in seen {
            self.is_new &= !matches!(seen, Seen::Listed { kind: ObjectKind::BackendTlsPolicy, .. });
            self.ledger.see(seen, self.now);
        }
    }

    fn begin(&mut self) -> bool {
        let Some(due) = self.ledger.next_wake(self.now) else { return false };
        self.now = self.now.max(due);
        self.under_way.extend(self.ledger.next(self.now).map(|todo| (todo, None)));
        true
    }

    /// As the API server does it.
    fn serve(&mut self, todo: &Todo) -> Outcome {
        match todo {
            Todo::Apply { wanted, version } => {
                let current = self.objects.get(&wanted.key).map(|object| &object.version);
                if version.is_some() && version.as_ref() != current {
                    return Outcome::Failed(Failure::Outdated.error());
                }
                if let Some(needs) = wanted.needs() {
                    assert!(self.is_disturbed || self.objects.contains_key(needs), "{} before {needs}", wanted.key);
                }
                Outcome::Applied(self.put(&wanted.key, |object| {
                    object.print = print(content_of(wanted));
                    object.needs = wanted.needs().cloned();
                }))
            }
            Todo::Remove { key, seen } => {
                let named = self.objects.values().any(|object| object.needs.as_ref() == Some(key));
                assert!(self.is_disturbed || !named, "{key} is still named");
                let is_seen = key.kind != ObjectKind::SdsSecret;
                match (self.objects.get(key), seen) {
                    (None, _) => Outcome::Removed(Removed::Gone),
                    (Some(object), Some(seen)) if is_seen && object.version != seen.version => {
                        Outcome::Failed(Failure::Outdated.error())
                    }
                    _ => Outcome::Removed(self.delete(key)),
                }
            }
        }
    }

    /// It is done, and nobody knows.
    fn serve_unheard(&mut self, todo: &Todo) {
        self.is_disturbed = true;
        if let (Outcome::Applied(_), Todo::Apply { wanted, .. }) = (self.serve(todo), todo)
            && wanted.key.kind == ObjectKind::SdsSecret
        {
            self.unheard.insert(wanted.key.clone());
        }
    }

    fn take(&mut self, event: Event) {
        let count = self.under_way.len();
        match event {
            Event::Want(namespace, which) => self.want(namespace, which),
            Event::Edit(namespace, which, content) => {
                let key = target(namespace, which);
                if self.objects.contains_key(&key) {
                    self.put(&key, |object| object.print = print(content));
                }
            }
            Event::Delete(namespace, which) => {
                let key = target(namespace, which);
                if self.objects.contains_key(&key) {
                    self.is_disturbed = true;
                    self.delete(&key);
                }
            }
            Event::Keep(namespace, which) => {
                let key = target(namespace, which);
                if self.objects.get(&key).is_some_and(|object| object.going.is_none()) {
                    self.is_disturbed = true;
                    self.kept.insert(key.clone());
                    self.put(&key, |_| {});
                }
            }
            Event::Release(namespace, which) => self.release(&target(namespace, which)),
            Event::Echo(count) => self.echo(count.into()),
            Event::List => self.list(),
            Event::TakeOver(comes_to_something) => self.take_over(comes_to_something, false),
            Event::Restart(comes_to_something) => self.take_over(comes_to_something, true),
            Event::Withdraw(is_so) => self.ledger.withdraw(is_so, self.now),
            Event::Begin => drop(self.begin()),
            _ if count == 0 => {}
            Event::Serve(which, fails) => {
                let (todo, answer) = self.under_way[which.index(count)].clone();
                if answer.is_none() {
                    let answer = fails.map_or_else(|| self.serve(&todo), |failure| Outcome::Failed(failure.error()));
                    self.under_way[which.index(count)].1 = Some(answer);
                }
            }
            Event::End(which) => {
                let which = which.index(count);
                if self.under_way[which].1.is_some() {
                    self.end(which);
                }
            }
            Event::Lose(which) => {
                let (todo, answer) = self.under_way.remove(which.index(count));
                match answer {
                    None => self.serve_unheard(&todo),
                    Some(Outcome::Applied(_)) => drop(self.unheard.insert(key_of(&todo).clone())),
                    Some(_) => {}
                }
                self.is_disturbed = true;
                self.ledger.done(key_of(&todo), Outcome::Failed(Failure::Unavailable.error()), self.now);
            }
        }
    }

    /// Whoever wrote has died, and the next one may have just been started.
    fn take_over(&mut self, comes_to_something: bool, is_new: bool) {
        for (todo, answer) in std::mem::take(&mut self.under_way) {
            if let (Todo::Apply { wanted, .. }, Some(Outcome::Applied(_))) = (&todo, &answer) {
                self.unheard.insert(wanted.key.clone());
            }
            self.is_disturbed = true;
            if comes_to_something && answer.is_none() {
                self.serve_unheard(&todo);
            }
        }
        if is_new {
            (self.ledger, self.is_new) = (Ledger::default(), true);
            self.list();
        } else {
            self.ledger.suspend();
        }
        (0..2).for_each(|namespace| self.want(namespace, self.plans[usize::from(namespace)]));
    }

    fn end(&mut self, which: usize) {
        let (todo, answer) = self.under_way.remove(which);
        let answer = answer.unwrap_or_else(|| self.serve(&todo));
        self.ledger.done(key_of(&todo), answer, self.now);
    }

    /// All that is to be done in that time, with everything seen at once, while writes of one object fail.
    fn settle(&mut self, within: Duration, cursed: Option<&(ObjectKey, Failure)>) -> Vec<Todo> {
        let end = self.now.plus(within);
        let mut written = Vec::new();
        loop {
            while let Some((todo, _)) = self.under_way.first() {
                written.push(todo.clone());
                match cursed.filter(|(key, _)| key == key_of(&self.under_way[0].0)) {
                    Some((key, failure)) => {
                        let mut failure = *failure;
                        if self.under_way.remove(0).1.is_some() {
                            // done already: it was not refused, its answer is lost
                            failure = Failure::Unavailable;
                            self.is_disturbed = true;
                            self.unheard.insert(key.clone());
                        }
                        self.ledger.done(key, Outcome::Failed(failure.error()), self.now);
                    }
                    None => self.end(0),
                }
            }
            self.echo(usize::MAX);
            if self.now > end || !self.begin() {
                return written;
            }
            assert!(written.len() < 2000, "it never ends");
        }
    }

    fn wanted(&self) -> impl Iterator<Item = (Wanted, Print)> {
        (0..).zip(self.plans).flat_map(|(namespace, which)| plan(namespace, which))
    }

    /// What differs from the plans, but for some.
    fn wrong(&self, is_excused: impl Fn(&ObjectKey) -> bool) -> Vec<String> {
        let expected: BTreeMap<ObjectKey, Print> = self.wanted().map(|(wanted, print)| (wanted.key, print)).collect();
        let keys = self.objects.keys().chain(expected.keys()).collect::<BTreeSet<_>>().into_iter();
        let found = |key: &ObjectKey| self.objects.get(key).map(|object| object.print);
        let is_leftover = |key: &ObjectKey| self.unheard.contains(key) && !expected.contains_key(key);
        keys.filter(|key| found(key).as_ref() != expected.get(*key) && !is_excused(key) && !is_leftover(key))
            .map(|key| format!("{key}: {:?} in the place of {:?}", found(key), expected.get(key)))
            .collect()
    }
}

fn key_of(todo: &Todo) -> &ObjectKey {
    match todo {
        Todo::Apply { wanted, .. } => &wanted.key,
        Todo::Remove { key, .. } => key,
    }
}

/// What must wait for an object that can't be written: who names it, or is named by it.
fn hangs_on(cursed: &ObjectKey, key: &ObjectKey) -> bool {
    let is_shared = |key: &ObjectKey| key.kind == ObjectKind::ConfigMap;
    let is_same = key.object.name == cursed.object.name || is_shared(key) || is_shared(cursed);
    key.object.namespace == cursed.object.namespace && is_same
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]
    #[test]
    fn any_order_of_events_ends_in_what_is_wanted_and_then_nothing_is_written(
        events in prop::collection::vec(event(), 0..80),
        last in (0..PLANS, 0..PLANS),
        cursed in prop::option::of((0_u8..2, 0..TARGETS, failure())),
        is_new: bool,
    ) {
        let mut world = World::new();
        events.into_iter().for_each(|event| world.take(event));
        for which in 0..3 {
            (0..2).for_each(|namespace| world.release(&target(namespace, which)));
        }
        world.want(0, last.0);
        world.want(1, last.1);
        if let Some((namespace, which, failure)) = cursed {
            let cursed = (target(namespace, which), failure);
            world.settle(Duration::from_secs(900), Some(&cursed));
            let wrong = world.wrong(|key| hangs_on(&cursed.0, key));
            prop_assert!(wrong.is_empty(), "beside {}: {wrong:?}", cursed.0);
        }
        world.settle(Duration::MAX, None);
        let wrong = world.wrong(|_| false);
        prop_assert!(wrong.is_empty(), "{wrong:?}");
        world.list();
        world.want(0, last.0);
        world.want(1, last.1);
        prop_assert_eq!(world.settle(Duration::MAX, None), []);
        // but that whoever takes over can't see Secrets
        world.take_over(false, is_new);
        let again = world.settle(Duration::MAX, None);
        let mut applied: Vec<&ObjectKey> = again.iter().map(key_of).collect();
        applied.sort();
        prop_assert!(again.iter().all(|todo| matches!(todo, Todo::Apply { .. })), "{again:?}");
        let keys = world.wanted().map(|(wanted, _)| wanted.key);
        let secrets: BTreeSet<ObjectKey> = keys.filter(|key| key.kind == ObjectKind::SdsSecret).collect();
        prop_assert_eq!(applied, secrets.iter().collect::<Vec<_>>());
        let wrong = world.wrong(|_| false);
        prop_assert!(wrong.is_empty(), "{wrong:?}");
    }
}
