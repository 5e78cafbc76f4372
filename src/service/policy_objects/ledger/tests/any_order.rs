//! Whatever happens in whatever order, what is wanted is there in the end, and then nothing is written.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Want(u8),
    Edit(bool, u8),
    Delete(u8),
    List,
    TakeOver,
    Step,
}

fn plans(which: u8) -> Vec<(Wanted, Print)> {
    match which {
        0 => Vec::new(),
        1 => sds(),
        content => portable(content),
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u8..4).prop_map(Event::Want),
        (any::<bool>(), 5_u8..8).prop_map(|(of_roots, content)| Event::Edit(of_roots, content)),
        (0_u8..2).prop_map(Event::Delete),
        Just(Event::List),
        Just(Event::TakeOver),
        Just(Event::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_order_of_events_ends_in_what_is_wanted_and_then_nothing_is_written(
        events in prop::collection::vec(event(), 0..40),
        last in 0_u8..4,
    ) {
        let mut model = Model::new();
        let mut current = 0;
        for event in events {
            match event {
                Event::Want(which) => {
                    current = which;
                    model.want(plans(which));
                }
                Event::Edit(of_roots, content) => {
                    let key = if of_roots { roots() } else { policy("a") };
                    if model.objects.contains_key(&key) {
                        model.edit(&key, content);
                    }
                }
                Event::Delete(which) => model.delete(&if which == 0 { roots() } else { policy("a") }),
                Event::List => model.list(),
                Event::TakeOver => {
                    model.ledger.suspend();
                    model.want(plans(current));
                }
                Event::Step => {
                    if let Some(due) = model.ledger.next_wake(model.now) {
                        model.now = model.now.max(due);
                        // an edit may come between, so what was to be done is made as the cluster is then
                        if let Some(todo) = model.ledger.next(model.now) {
                            let (key, outcome) = model.perform(todo);
                            model.ledger.done(&key, outcome, model.now);
                        }
                    }
                }
            }
            model.done.clear();
        }
        model.want(plans(last));
        model.settle();
        let expected: BTreeMap<ObjectKey, Print> =
            plans(last).into_iter().map(|(wanted, print)| (wanted.key, print)).collect();
        let left: BTreeMap<ObjectKey, Print> =
            model.objects.iter().map(|(key, seen)| (key.clone(), seen.print)).collect();
        prop_assert_eq!(left, expected);
        model.list();
        model.want(plans(last));
        prop_assert!(model.settle().is_empty());
    }
}
