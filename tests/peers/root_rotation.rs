//! The pair's root is rotated while Envoys call each other, with the active killed in the middle of every step, and after it.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    pair::{GATE, Pair},
    support::{certificate::Certificate, countersign::root_file, wait::wait_until},
    traffic::Traffic,
};

/// What a command that is given again says when the step was taken the first time.
const TAKEN_ALREADY: [&str; 3] = ["prepared already", "signs already", "there is no authority"];

/// Five Envoys are enough for one machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Rotation {
    pair: Pair,
    traffic: Traffic,
    begun: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Rotation {
    fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Pair::start();
        let traffic = Traffic::start(&pair);
        Self { pair, traffic, begun: Instant::now(), _turn: turn }
    }

    fn active(&self) -> String {
        self.pair.only("x509", "active")
    }

    fn roots(&self) -> PathBuf {
        root_file(&self.pair.data())
    }

    /// Takes a step when nothing stands in its way. The active is killed in the middle of it, its successor is told to take it
    /// again, and is killed as well.
    fn step(&mut self, step: &[&str]) {
        let dry_run = [step, &["--dry-run"]].concat();
        wait_until(GATE, &format!("{step:?} does not wait"), || {
            self.traffic.check();
            let would = self.pair.done("x509", &dry_run);
            if would.contains("nobody is known to break by it") { Ok(()) } else { Err(would) }
        });
        let at_first = self.pair.killed_amid("x509", step);
        // one that was not taken may have to wait once more: its successor does not know yet whom it reaches
        let again = wait_until(GATE, &format!("{step:?} again"), || {
            self.traffic.check();
            match self.pair.run("x509", step) {
                Err(refusal) if !TAKEN_ALREADY.iter().any(|known| refusal.contains(known)) => Err(refusal),
                decided => Ok(decided),
            }
        });
        println!("{:?}: {step:?}, killed: {at_first:?}; again: {again:?}", self.begun.elapsed());
        self.pair.kill_active();
        self.traffic.check();
    }

    /// One root is left, which the Envoys believe alone: this one or another.
    fn end(self, first_root: &str, is_first: bool) {
        self.traffic.wait_for_roots(&self.roots(), GATE);
        self.traffic.wait_for_renewals(GATE);
        let left = serials(&self.roots());
        assert_eq!((left.len(), left[0] == first_root), (1, is_first), "{left:?}");
        let (requests, shown) = self.traffic.end();
        println!("{requests} requests, none failed, {shown} certificates of clients, in {:?}", self.begun.elapsed());
    }
}

fn serials(roots: &PathBuf) -> Vec<String> {
    let roots = Certificate::from_pem(&fs::read_to_string(roots).unwrap());
    roots.into_iter().map(|root| root.serial).collect()
}

#[test]
fn no_request_fails_through_a_whole_rotation_with_the_active_killed_in_every_step() {
    let mut rotation = Rotation::start();
    let (first, first_root) = (rotation.active(), serials(&rotation.roots()).remove(0));
    rotation.step(&["prepare"]);
    rotation.traffic.wait_for_roots(&rotation.roots(), GATE);
    let next = rotation.pair.only("x509", "prepared");
    rotation.step(&["activate", &next]);
    assert_eq!((rotation.active(), rotation.pair.only("x509", "old")), (next.clone(), first.clone()));
    rotation.traffic.wait_for_renewals(GATE);
    rotation.step(&["taint", &first]);
    rotation.step(&["revoke", &first]);
    assert_eq!(rotation.active(), next);
    rotation.end(&first_root, false);
}

#[test]
fn no_request_fails_through_a_rotation_that_is_taken_back_half_way_with_the_active_killed_in_every_step() {
    let mut rotation = Rotation::start();
    let (first, first_root) = (rotation.active(), serials(&rotation.roots()).remove(0));
    rotation.step(&["prepare"]);
    let next = rotation.pair.only("x509", "prepared");
    rotation.step(&["activate", &next]);
    rotation.traffic.wait_for_renewals(GATE);
    rotation.step(&["activate", &first]);
    assert_eq!((rotation.active(), rotation.pair.only("x509", "old")), (first, next.clone()));
    rotation.step(&["taint", &next]);
    rotation.step(&["revoke", &next]);
    rotation.end(&first_root, true);
}
