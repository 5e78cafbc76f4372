//! What is seen late, and of another past.

use super::*;

#[test]
fn a_list_of_before_an_answer_says_nothing_of_what_was_answered_and_one_of_after_it_does() {
    for (list_sees_it, expected) in [(false, 0), (true, 1)] {
        let mut model = Model::new();
        let empty = listed(ObjectKind::ConfigMap, model.version, Vec::new());
        model.want(vec![wanted(roots(), None, 100)]);
        let todo = model.ledger.next(model.now).unwrap();
        let (key, answer) = model.perform(todo);
        if list_sees_it {
            // it was deleted since, and the answer is late
            model.version += 1;
            model.objects.clear();
            model.ledger.see(listed(ObjectKind::ConfigMap, model.version, Vec::new()), model.now);
        }
        model.ledger.done(&key, answer, model.now);
        if !list_sees_it {
            model.ledger.see(empty, model.now);
        }
        model.done.clear();
        assert_eq!(model.settle().len(), expected, "{list_sees_it}");
    }
}

#[test]
fn of_a_cluster_that_was_set_back_only_what_is_seen_now_counts() {
    let mut model = Model::new();
    model.version = 1000;
    model.want(portable(1));
    model.settle();
    model.list();
    model.objects.remove(&policy("a"));
    model.objects.insert(roots(), seen(2, 99, None));
    model.version = 500;
    model.list();
    assert_eq!(model.settle(), ["apply ConfigMap app/countersign-mesh-ca", "apply BackendTLSPolicy app/a"]);
}

#[test]
fn a_list_of_before_it_was_made_does_not_say_that_one_which_was_removed_is_seen_to_be_gone() {
    let mut model = Model::new();
    let empty = listed(ObjectKind::ConfigMap, model.version, Vec::new());
    model.want(vec![wanted(roots(), None, 100)]);
    let todo = model.ledger.next(model.now).unwrap();
    let (key, answer) = model.perform(todo);
    model.ledger.done(&key, answer, model.now);
    let late = model.objects[&roots()].clone();
    model.want(Vec::new());
    let todo = model.ledger.next(model.now).unwrap();
    let (key, answer) = model.perform(todo);
    model.ledger.done(&key, answer, model.now);
    model.ledger.see(empty, model.now);
    model.ledger.see(Seen::Put(roots(), late), model.now);
    model.done.clear();
    model.want(portable(1));
    assert_eq!(model.settle(), ["apply ConfigMap app/countersign-mesh-ca", "apply BackendTLSPolicy app/a"]);
}

#[test]
fn what_was_removed_is_not_there_again_because_it_is_seen_late() {
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    let late = model.objects[&roots()].clone();
    model.want(Vec::new());
    model.settle();
    model.ledger.see(Seen::Put(roots(), late.clone()), model.now);
    model.want(portable(1));
    let both = ["apply ConfigMap app/countersign-mesh-ca", "apply BackendTLSPolicy app/a"];
    assert_eq!(model.settle(), both);
    // one that somebody else makes meanwhile is another one
    model.want(Vec::new());
    model.ledger.see(Seen::Gone(policy("a"), "90".into()), model.now);
    model.now = model.now.plus(Duration::from_secs(2));
    let Some(Todo::Remove { key, .. }) = model.ledger.next(model.now) else { panic!("nothing to remove") };
    assert_eq!(key, roots());
    model.ledger.see(Seen::Gone(roots(), "91".into()), model.now);
    let theirs = SeenObject { ours: false, uid: "another".into(), version: "92".into(), ..late };
    model.ledger.see(Seen::Put(roots(), theirs), model.now);
    model.ledger.done(&key, Outcome::Removed(Removed::Gone), model.now);
    model.want(portable(1));
    assert_eq!(model.troubles(), ["ConfigMap app/countersign-mesh-ca Taken"]);
}

#[test]
fn a_secret_that_a_policy_of_ours_was_made_to_name_is_not_taken_for_ours() {
    let mut model = Model::new();
    model.want(sds());
    model.settle();
    let version = model.next_version();
    let edited = seen(version, 51, Some(secret("theirs")));
    model.objects.insert(policy("a"), edited.clone());
    model.ledger.see(Seen::Put(policy("a"), edited), model.now);
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
    model.ledger.suspend();
    model.want(Vec::new());
    assert_eq!(model.settle(), ["remove BackendTLSPolicy app/a", "remove Secret app/a"]);
}

#[test]
fn config_maps_with_other_roots_are_told_of_once_they_were_seen() {
    assert_eq!(Ledger::default().config_maps_other_than(&print(100)), None);
    let mut model = Model::new();
    model.want(portable(1));
    model.settle();
    model.objects.insert(
        key_in("other", ObjectKind::ConfigMap, "countersign-mesh-ca"),
        SeenObject { ours: false, ..seen(1, 7, None) },
    );
    model.list();
    let other_than = |content| model.ledger.config_maps_other_than(&print(content)).unwrap();
    assert_eq!(other_than(100), [""; 0], "one of somebody else's is none of ours");
    assert_eq!(other_than(1), [NAMESPACE]);
}
