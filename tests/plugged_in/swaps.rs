//! Files that change while certificates are signed.

use crate::{
    place::Place,
    support::swaps::{BrokenSwaps, GoodSwaps},
};

#[test]
fn swaps_under_load_fail_no_call() {
    let (place, swaps) = (Place::new(), GoodSwaps::new());
    let ca = swaps.directory();
    let replicas = [place.start("serve-0", &ca), place.start("serve-1", &ca)];
    let socket = place.data().join("workload.sock");
    swaps.run(&[ca], &replicas, &[socket], |roots| place.caller(roots));
}

#[test]
fn a_broken_swap_is_told_and_changes_nothing() {
    let (place, swaps) = (Place::new(), BrokenSwaps::new());
    let ca = swaps.directory();
    let serve = place.start("serve", &ca);
    let caller = place.caller(swaps.roots());
    swaps.run(&[ca], &[serve], &caller);
}
