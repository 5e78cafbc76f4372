//! Policies that are wanted for no other reason than that they are there.

use super::*;

fn kept() -> Vec<(Wanted, Print)> {
    let mut all = portable(7);
    all.iter_mut().for_each(|(wanted, _)| wanted.only_if_there = wanted.key == policy("a"));
    all
}

/// Else its coming would begin the wish anew that its going ends, without end.
#[test]
fn what_is_wanted_only_while_it_is_there_is_put_right_but_not_made_again() {
    let mut model = Model::new();
    model.want(portable(7));
    model.settle();
    model.want(kept());
    assert!(model.settle().is_empty());
    model.edit(&policy("a"), 3);
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);

    model.delete(&policy("a"));
    assert!(model.settle().is_empty());
    model.want(kept());
    assert!(model.settle().is_empty());
    // somebody leads there again
    model.want(portable(7));
    assert_eq!(model.settle(), ["apply BackendTLSPolicy app/a"]);
}
