//! Writes that fail, by themselves, in one namespace, or all, and such as are heard of late or never.

use super::*;

/// Secrets of which some fail for a minute, as the API server would tell of a webhook: when each of the others was written.
fn while_some_fail(wanted_in: &[(&str, usize)], fails: impl Fn(&ObjectKey) -> bool) -> BTreeMap<ObjectKey, Duration> {
    let mut model = Model::new();
    for (namespace, count) in wanted_in {
        let secret = |number| key_in(namespace, ObjectKind::SdsSecret, &format!("{number:03}"));
        let all = (0..*count).map(|number| wanted(secret(number), None, 1)).collect();
        model.ledger.want(namespace, all, model.now);
    }
    model.ledger.planned(model.now);
    let (begin, mut written, mut tries) = (model.now, BTreeMap::new(), 0);
    while model.now.since(begin) < Duration::from_secs(60) {
        let Some(due) = model.ledger.next_wake(model.now) else { break };
        model.now = model.now.max(due);
        let mut under_way = Vec::new();
        while under_way.len() < 16
            && let Some(todo) = model.ledger.next(model.now)
        {
            under_way.push(todo);
        }
        for todo in under_way {
            let Todo::Apply { wanted, .. } = &todo else { panic!("{todo:?}") };
            let outcome = if fails(&wanted.key) {
                tries += 1;
                Outcome::Failed(WriteError::Unavailable { why: "failed calling webhook".into(), pause: None })
            } else {
                written.insert(wanted.key.clone(), model.now.since(begin));
                model.perform(todo.clone()).1
            };
            model.ledger.done(&wanted.key, outcome, model.now);
        }
    }
    assert!(tries < 16 + 200, "{tries} tries in vain");
    written
}

#[test]
fn one_that_always_fails_keeps_no_other_of_its_namespace_waiting() {
    for bad in ["000", "025", "050"] {
        let written = while_some_fail(&[(NAMESPACE, 51)], |key| &*key.object.name == bad);
        assert_eq!(written.len(), 50, "beside {bad}");
        assert!(written.values().all(|after| *after <= Duration::from_secs(1)), "{bad}: {written:?}");
    }
}

#[test]
fn a_namespace_in_which_all_fail_keeps_no_other_waiting() {
    for (bad, good) in [("a", "b"), ("b", "a")] {
        let written = while_some_fail(&[(bad, 200), (good, 50)], |key| &*key.object.namespace == bad);
        assert_eq!(written.len(), 50, "{bad} fails");
        assert!(written.values().all(|after| *after <= Duration::from_secs(1)), "{bad}: {written:?}");
    }
}

/// So many Secrets are wanted in a namespace.
fn secrets(ledger: &mut Ledger, namespace: &str, count: usize, now: BootInstant) {
    let secret = |number| key_in(namespace, ObjectKind::SdsSecret, &format!("{number:03}"));
    ledger.want(namespace, (0..count).map(|number| wanted(secret(number), None, 1)).collect(), now);
    ledger.planned(now);
}

#[test]
fn namespaces_in_which_all_hang_leave_places_to_others_before_it_is_known_that_they_do() {
    let mut model = Model::new();
    for (namespace, expected) in [("a", 9), ("b", 5), ("c", 3), ("d", 2), ("e", 2), ("f", 1), ("g", 1)] {
        secrets(&mut model.ledger, namespace, 200, model.now);
        let begun = std::iter::from_fn(|| model.ledger.next(model.now)).count();
        assert_eq!(begun, expected, "under way in {namespace}");
        assert_eq!(model.ledger.next_wake(model.now), None, "{namespace}");
        // one in which all is well has a place, however much hangs in others
        let healthy = format!("{namespace}-healthy");
        secrets(&mut model.ledger, &healthy, 50, model.now);
        let (begin, written) = (model.now, model.settle());
        assert_eq!((written.len(), model.now), (50, begin), "beside {namespace}");
        assert!(written.iter().all(|done| done.starts_with(&format!("apply Secret {healthy}/"))), "{written:?}");
    }
}

#[test]
fn there_is_an_end_to_what_is_under_way_at_once() {
    let mut model = Model::new();
    for number in 0..50 {
        secrets(&mut model.ledger, &format!("n{number:02}"), 20, model.now);
    }
    let begun: Vec<Todo> = std::iter::from_fn(|| model.ledger.next(model.now)).collect();
    assert_eq!(begun.len(), 48, "32 namespaces with one each, and 16 more");
    assert_eq!(model.ledger.next_wake(model.now), None);
    let (key, outcome) = model.perform(begun.into_iter().next_back().unwrap());
    model.ledger.done(&key, outcome, model.now);
    assert_eq!(std::iter::from_fn(|| model.ledger.next(model.now)).count(), 1, "in its place");
}

#[test]
fn namespaces_that_are_known_to_hang_keep_nobody_waiting_when_they_are_tried_again() {
    let mut model = Model::new();
    let hanging = ["a", "b", "c", "d", "e", "f", "g"];
    hanging.iter().for_each(|namespace| secrets(&mut model.ledger, namespace, 20, model.now));
    let begin = |model: &mut Model| -> Vec<Todo> { std::iter::from_fn(|| model.ledger.next(model.now)).collect() };
    let time_out = |model: &mut Model, all: Vec<Todo>| {
        for todo in all {
            let Todo::Apply { wanted, .. } = todo else { panic!("{todo:?}") };
            let error = WriteError::Unavailable { why: "no answer within 5s".into(), pause: None };
            model.ledger.done(&wanted.key, Outcome::Failed(error), model.now);
        }
    };
    let first = begin(&mut model);
    model.now = model.now.plus(Duration::from_secs(5));
    time_out(&mut model, first);
    model.now = model.ledger.next_wake(model.now).expect("they are tried again");
    let again = begin(&mut model);
    assert!(!again.is_empty());
    secrets(&mut model.ledger, "healthy", 50, model.now);
    let since = model.now;
    assert_eq!(model.settle().len(), 50, "beside {again:?}");
    assert_eq!(model.now, since);
}

#[test]
fn a_webhook_that_asks_for_time_has_its_own_namespace_wait_and_the_api_server_all() {
    let long = Duration::from_secs(40);
    for (pause, other) in [(Pause::Namespace(long), Duration::from_millis(500)), (Pause::Everywhere(long), long)] {
        let mut model = Model::new();
        secrets(&mut model.ledger, "a", 1, model.now);
        let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) else { panic!("nothing to do") };
        let busy = WriteError::Unavailable { why: "busy".into(), pause: Some(pause) };
        model.ledger.done(&wanted.key, Outcome::Failed(busy), model.now);
        let begin = model.now;
        assert_eq!(model.ledger.next_wake(begin), Some(begin.plus(long)), "{pause:?}");
        secrets(&mut model.ledger, "b", 1, model.now);
        assert_eq!(model.ledger.next_wake(begin), Some(begin.plus(other)), "{pause:?}");
        assert_eq!(model.settle(), ["apply Secret b/000", "apply Secret a/000"], "{pause:?}");
        assert_eq!(model.now, begin.plus(long), "{pause:?}");
    }
}

#[test]
fn what_comes_later_in_another_namespace_does_not_wait_at_all() {
    let mut model = Model::new();
    let in_vain = || Outcome::Failed(WriteError::Unavailable { why: "failed".into(), pause: None });
    model.ledger.want("a", vec![wanted(key_in("a", ObjectKind::SdsSecret, "x"), None, 1)], model.now);
    model.want(vec![wanted_secret()]);
    for _ in 0..10 {
        model.now = model.ledger.next_wake(model.now).unwrap();
        let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) else { panic!("nothing to do") };
        if &*wanted.key.object.namespace == "a" {
            model.ledger.done(&wanted.key, in_vain(), model.now);
        } else {
            let (key, outcome) = model.perform(Todo::Apply { wanted, version: None });
            model.ledger.done(&key, outcome, model.now);
        }
    }
    assert_eq!(model.ledger.closed().count(), 0, "another namespace has shown that it is this one's");
    let later = key_in("c", ObjectKind::SdsSecret, "x");
    model.ledger.want("c", vec![wanted(later.clone(), None, 1)], model.now);
    assert_eq!(model.ledger.next_wake(model.now), Some(model.now));
    assert!(matches!(model.ledger.next(model.now), Some(Todo::Apply { wanted, .. }) if wanted.key == later));
}

#[test]
fn an_object_that_is_refused_does_not_keep_others_waiting() {
    let mut model = Model::new();
    model.want(portable(1));
    let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) else { panic!("nothing to do") };
    let mut others = portable(1);
    others.push(wanted_secret());
    model.want(others);
    model.ledger.done(&wanted.key, Outcome::Failed(WriteError::Refused("odd".into())), model.now);
    assert_eq!(model.troubles(), [r#"ConfigMap app/countersign-mesh-ca Failing("odd")"#]);
    let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) else { panic!("nothing else to do") };
    assert_eq!(wanted.key, secret("b"));
}

#[test]
fn an_edit_that_is_seen_before_the_answer_to_our_own_write_is_put_right() {
    let mut model = Model::new();
    model.want(vec![wanted(roots(), None, 100)]);
    let todo = model.ledger.next(model.now).unwrap();
    let (key, answer) = model.perform(todo);
    model.done.clear();
    model.edit(&roots(), 9);
    model.ledger.done(&key, answer, model.now);
    assert_eq!(model.settle(), ["apply ConfigMap app/countersign-mesh-ca"]);
}

#[test]
fn roots_stay_while_a_policy_that_names_them_is_being_written() {
    let mut model = Model::new();
    model.want(vec![wanted(roots(), None, 100)]);
    model.settle();
    model.want(portable(1));
    let todo = model.ledger.next(model.now).unwrap();
    model.want(Vec::new());
    assert_eq!(model.ledger.next(model.now), None);
    let (key, outcome) = model.perform(todo);
    model.ledger.done(&key, outcome, model.now);
    model.done.clear();
    assert_eq!(model.settle(), ["remove BackendTLSPolicy app/a", "remove ConfigMap app/countersign-mesh-ca"]);
}

#[test]
fn a_secret_whose_removal_was_not_heard_of_is_written_again() {
    let mut model = Model::new();
    model.want(vec![wanted_secret()]);
    model.settle();
    model.want(Vec::new());
    let Some(Todo::Remove { key, seen: Some(_) }) = model.ledger.next(model.now) else { panic!("nothing to remove") };
    let unheard = WriteError::Unavailable { why: "no answer".into(), pause: None };
    model.ledger.done(&key, Outcome::Failed(unheard), model.now);
    model.want(vec![wanted_secret()]);
    assert_eq!(model.settle(), ["apply Secret app/b"]);
}

#[test]
fn a_secret_that_is_not_what_it_was_is_written_without_a_version() {
    let mut model = Model::new();
    model.want(sds());
    model.settle();
    model.want(vec![wanted(secret("a"), None, 102)]);
    let mut asked = Vec::new();
    for _ in 0..2 {
        model.now = model.ledger.next_wake(model.now).unwrap();
        while let Some(todo) = model.ledger.next(model.now) {
            if let Todo::Apply { wanted, version } = &todo {
                asked.push(version.is_some());
                let answer = WriteError::Outdated("the object has been modified".into());
                model.ledger.done(&wanted.key, Outcome::Failed(answer), model.now);
            } else {
                let (key, outcome) = model.perform(todo);
                model.ledger.done(&key, outcome, model.now);
            }
        }
    }
    assert_eq!(asked, [true, false]);
}

#[test]
fn what_an_admission_makes_of_each_write_is_reported_and_written_ever_more_slowly() {
    let mut model = Model::new();
    model.want(portable(1));
    let mut waits = Vec::new();
    while waits.len() < 12 {
        let due = model.ledger.next_wake(model.now).expect("it is not right yet");
        let (before, now) = (model.now, model.now.max(due));
        model.now = now;
        let todo = model.ledger.next(now).unwrap();
        let (key, mut outcome) = model.perform(todo);
        if let Outcome::Applied(seen) = &mut outcome
            && key == policy("a")
        {
            seen.print = print(9);
            model.objects.insert(key.clone(), seen.clone());
            model.ledger.see(Seen::Put(key.clone(), seen.clone()), now);
            waits.push(now.since(before));
            assert_eq!(model.troubles().is_empty(), waits.len() < 3, "before the answer of write {}", waits.len());
        }
        model.ledger.done(&key, outcome, now);
        assert_eq!(model.troubles().is_empty(), waits.len() < 2, "{:?}", model.troubles());
    }
    assert_eq!(model.troubles(), ["BackendTLSPolicy app/a Fought"]);
    assert_eq!(waits.last(), Some(&Duration::from_secs(64)), "{waits:?}");
    // one that leaves it alone: another wish begins anew
    model.want(portable(3));
    model.settle();
    assert!(model.troubles().is_empty());
}
