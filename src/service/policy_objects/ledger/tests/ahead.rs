//! What goes before everything else, where Routes lead as well, and what goes after it.

use super::*;

const INTERVAL: Duration = Duration::from_millis(150);
const IDENTITIES: &str = "apply BackendTLSPolicy z/countersign-z";

/// Of a Service with a Route. What differs from one content to the other is whom it accepts.
fn portable_in_z(content: u8) -> Vec<(Wanted, Print)> {
    let roots = key_in("z", ObjectKind::ConfigMap, "countersign-mesh-ca");
    let policy = key_in("z", ObjectKind::BackendTlsPolicy, "countersign-z");
    vec![wanted(roots.clone(), None, 100), wanted(policy, Some(roots), content)]
}

/// Services in one namespace; with Routes where the content is even.
fn by_sds(numbers: std::ops::Range<u16>, content: u8) -> Vec<(Wanted, Print)> {
    let objects = |number| {
        let secret = key(ObjectKind::SdsSecret, &format!("{number:04}"));
        let policy = key(ObjectKind::BackendTlsPolicy, &format!("{number:04}"));
        [wanted(secret.clone(), None, 101), wanted(policy, Some(secret), content)]
    };
    numbers.flat_map(objects).collect()
}

impl Model {
    fn want_in_z(&mut self, content: u8) {
        self.ledger.want("z", portable_in_z(content), self.now);
    }

    /// The policy in `z` is there, and that of the first Service of many waits for a proxy that says nothing.
    fn beside_a_proxy_that_says_nothing() -> Self {
        let mut model = Self::new();
        model.want_in_z(2);
        model.want(Vec::new());
        model.settle();
        model.now = model.now.plus(INTERVAL);
        model.want(by_sds(0..100, 2));
        assert_eq!(model.step().len(), 101, "Secrets, and one policy");
        model
    }
}

#[test]
fn identities_wait_for_no_other_policy_and_no_other_policy_is_forgotten_for_them() {
    let mut model = Model::beside_a_proxy_that_says_nothing();
    for content in [4, 6] {
        model.now = model.now.plus(Duration::from_secs(1));
        model.want_in_z(content);
        assert_eq!(model.step(), [IDENTITIES]);
        let (service, is_used) = model.ledger.turns.awaited().unwrap();
        assert_eq!((&*service.namespace, *is_used), (NAMESPACE, true));
    }
    model.want_in_z(8);
    let refused = Outcome::Failed(WriteError::Refused("odd".into()));
    let Some(Todo::Apply { wanted, .. }) = model.ledger.next(model.now) else { panic!("not written") };
    model.ledger.done(&wanted.key, refused, model.now);
    assert!(model.ledger.turns.awaited().is_some(), "that one was not the one that failed");
    model.now = model.now.plus(Duration::from_secs(17));
    assert_eq!(model.step(), [IDENTITIES]);
    model.now = model.now.plus(Duration::from_secs(1));
    assert_eq!(model.step(), ["apply BackendTLSPolicy app/0001"]);
}

#[test]
fn other_policies_wait_for_identities_as_for_each_other() {
    let mut model = Model::new();
    model.want_in_z(2);
    model.want(Vec::new());
    model.settle();
    model.now = model.now.plus(Duration::from_secs(1));
    model.want_in_z(4);
    model.want(by_sds(0..1, 2));
    assert_eq!(model.step(), [IDENTITIES, "apply Secret app/0000"], "identities before everything");
    model.now = model.now.plus(INTERVAL);
    assert_eq!(model.step(), ["apply BackendTLSPolicy app/0000"]);
}

#[test]
fn a_policy_that_comes_or_gets_other_roots_waits_its_turn() {
    for before in [Vec::new(), by_sds(200..201, 2)] {
        let mut model = Model::beside_a_proxy_that_says_nothing();
        model.want([before, by_sds(0..100, 2)].concat());
        let there = key(ObjectKind::BackendTlsPolicy, "0000");
        let roots = roots();
        let mut all = by_sds(1..100, 2);
        all.extend([wanted(roots.clone(), None, 100), wanted(there, Some(roots), 4)]);
        model.want(all);
        let done = model.step();
        assert!(!done.iter().any(|done| done.contains("BackendTLSPolicy")), "{done:?}");
    }
}

#[test]
fn who_takes_over_does_first_what_has_changed_and_then_makes_sure_of_each_secret_once() {
    let mut model = Model::new();
    model.want_in_z(1);
    model.want(by_sds(0..300, 51));
    model.settle();
    model.ledger.suspend();
    model.want_in_z(3);
    model.want(by_sds(1..301, 51));
    let done = model.settle();
    let changed = [
        IDENTITIES,
        "apply Secret app/0300",
        "apply BackendTLSPolicy app/0300",
        "remove BackendTLSPolicy app/0000",
        "remove Secret app/0000",
    ];
    assert_eq!(done[..5], changed);
    let secrets: Vec<String> = (1..300).map(|number| format!("apply Secret app/{number:04}")).collect();
    assert_eq!(done[5..], secrets, "nobody can see whether they are there");
    model.list();
    assert!(model.settle().is_empty());
}

#[test]
fn who_takes_over_makes_sure_first_of_a_secret_that_somebody_needs() {
    for is_missed in [true, false] {
        let mut model = Model::new();
        model.want(by_sds(0..300, 51));
        model.settle();
        model.ledger.suspend();
        model.want(by_sds(0..300, 51));
        let policy = key(ObjectKind::BackendTlsPolicy, "0250");
        if is_missed {
            let unusable = SeenObject { is_unusable: true, version: "9000".into(), ..model.objects[&policy].clone() };
            model.ledger.see(Seen::Put(policy, unusable), model.now);
            assert_eq!(model.settle()[0], "apply Secret app/0250", "a gateway says that it can't use it");
        } else {
            model.edit(&policy, 9);
            assert_eq!(model.settle()[..2], ["apply Secret app/0250", "apply BackendTLSPolicy app/0250"]);
        }
    }
}

#[test]
fn secrets_of_which_it_is_made_sure_are_no_crowd() {
    let mut model = Model::new();
    model.want(by_sds(0..300, 51));
    model.settle();
    model.ledger.suspend();
    model.want([by_sds(0..300, 51), by_sds(300..303, 2)].concat());
    // each of them takes its time
    let mut secrets = Vec::new();
    while let Some(todo) = model.ledger.next(model.now) {
        match &todo {
            Todo::Apply { wanted, .. } if wanted.key.object.name < "0300".into() => secrets.push(todo),
            Todo::Apply { .. } | Todo::Remove { .. } => {
                let (key, outcome) = model.perform(todo);
                model.ledger.done(&key, outcome, model.now);
            }
        }
    }
    let policies = model.done.iter().filter(|done| done.contains("BackendTLSPolicy"));
    assert_eq!(policies.count(), 1, "{:?}", model.done);
    assert!(!secrets.is_empty());
}

#[test]
fn what_sidecars_may_follow_goes_at_once_beside_a_proxy_that_says_nothing() {
    for is_taken_over in [false, true] {
        let mut model = Model::new();
        model.want(by_sds(0..200, 2));
        model.settle();
        model.want(by_sds(0..199, 2));
        model.now = model.now.plus(Duration::from_secs(1000));
        assert_eq!(model.step(), ["remove BackendTLSPolicy app/0199"]);
        assert_eq!(model.ledger.turns.awaited().map(|(_, is_used)| *is_used), Some(false));
        if is_taken_over {
            model.ledger.suspend();
        }
        model.want(Vec::new());
        let expected: Vec<String> = (0..199).map(|number| format!("remove BackendTLSPolicy app/{number:04}")).collect();
        if !is_taken_over {
            assert!(model.step().is_empty(), "for any other reason it waits its turn");
        }
        model.ledger.withdraw(true, model.now);
        assert_eq!(model.step(), expected);
        model.ledger.withdraw(false, model.now);
        model.settle();
        assert!(model.objects.is_empty());
    }
}

#[test]
fn once_sidecars_do_not_follow_them_policies_go_one_after_the_other_again() {
    let mut model = Model::new();
    model.want(by_sds(0..3, 2));
    model.settle();
    model.now = model.now.plus(Duration::from_secs(100));
    model.ledger.withdraw(true, model.now);
    model.ledger.withdraw(false, model.now);
    model.want(Vec::new());
    assert_eq!(model.step(), ["remove BackendTLSPolicy app/0000"]);
}
