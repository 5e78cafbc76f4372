//! The election against an adversary: two or three machines, a model lease (or lock) and model state objects, in true
//! time that no replica sees. The adversary delays, loses and reorders messages, crashes, pauses and restarts replicas,
//! takes the server away, edits and deletes the lease by hand, and gives each replica a clock of its own rate.
//!
//! The invariants are the functions of `invariants`. A failure prints the case and everything that happened in it;
//! `PROPTEST_CASES` sets the number of cases. Builds with `--no-default-features`.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a broken model is to fail loudly"
)]

mod invariants;
mod world;

use countersign::domain::leadership::{LeaseTiming, Tenure};
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use world::{Edit, Fault, Scenario, World};

const CASES: u32 = 10_000;

#[test]
fn the_lease_keeps_its_invariants_whatever_the_adversary_does() {
    run(Tenure::Lease(LeaseTiming::DEFAULT), lease_fault().boxed(), 5_000..40_000);
}

#[test]
fn the_lock_keeps_its_invariants_whatever_the_adversary_does() {
    run(Tenure::Lock, process_fault().boxed(), 500..8_000);
}

fn run(tenure: Tenure, fault: BoxedStrategy<Fault>, length: std::ops::Range<u64>) {
    #[expect(clippy::disallowed_methods, reason = "the number of cases is the developer's choice")]
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/leadership_model.regressions"))),
        max_shrink_iters: 2_000,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&scenario(fault, length), |scenario| {
        let mut world = World::new(tenure, scenario);
        world.run().map_err(|broken| TestCaseError::fail(format!("{broken}\n{}", world.story())))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn scenario(fault: BoxedStrategy<Fault>, length: std::ops::Range<u64>) -> impl Strategy<Value = Scenario> {
    let rates = prop::collection::vec(900_u64..=1_100, 2..=3);
    (any::<u64>(), rates, length, 0_u64..35, 0_u64..25).prop_flat_map(move |(seed, rates, length, loss, slow)| {
        let faults = prop::collection::vec((0..length, fault.clone()), 0..24);
        faults.prop_map(move |faults| Scenario { seed, rates: rates.clone(), length, loss, slow, faults })
    })
}

fn process_fault() -> impl Strategy<Value = Fault> {
    let replica = 0_usize..3;
    prop_oneof![
        (replica.clone(), 0_u64..2_000).prop_map(|(replica, down)| Fault::Crash { replica, down }),
        (replica.clone(), 0_u64..8_000, any::<bool>()).prop_map(|(replica, length, whole)| Fault::Pause {
            replica,
            length,
            whole
        }),
        (replica.clone(), 0_u64..2_000).prop_map(|(replica, down)| Fault::Shutdown { replica, down }),
        (replica, 1_usize..5).prop_map(|(replica, times)| Fault::Ticks { replica, times }),
        Just(Fault::StateRaised),
        (0_usize..3).prop_map(|replica| Fault::StateUnusable { replica }),
    ]
}

fn lease_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => process_fault(),
        1 => (0_u64..8_000).prop_map(|length| Fault::ServerAway { length }),
        1 => (0_usize..3).prop_map(|replica| Fault::Nudge { replica }),
        4 => prop_oneof![
            Just(Edit::Delete),
            Just(Edit::Vacate),
            Just(Edit::Stranger),
            (0_usize..3).prop_map(Edit::Holder),
            (-4_i64..=4).prop_map(Edit::Term),
            any::<prop::sample::Index>().prop_map(Edit::Restore),
        ].prop_map(Fault::Edit),
    ]
}
