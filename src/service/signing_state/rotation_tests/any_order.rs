//! Whatever the order in which operators, clients, time and deaths come.

use proptest::prelude::*;

use super::world::{Happening, World};
use crate::{domain::authority::rotation::Phase, service::ports::AuthorityKind};

fn happening() -> impl Strategy<Value = Happening> {
    let kind = prop_oneof![3 => Just(AuthorityKind::X509), 2 => Just(AuthorityKind::Jwt)];
    let phase = prop_oneof![
        3 => Just((Phase::Prepared, false)),
        2 => Just((Phase::Old, false)),
        3 => Just((Phase::Old, true)),
    ];
    let step = (kind.clone(), phase.clone());
    prop_oneof![
        4 => (1..80_u64).prop_map(Happening::Passes),
        5 => Just(Happening::Answers),
        5 => any::<prop::sample::Index>().prop_map(Happening::Hears),
        4 => step.clone().prop_map(|(kind, (phase, tainted))| Happening::Step(kind, phase, tainted)),
        2 => step.prop_map(|(kind, (phase, tainted))| Happening::Forced(kind, phase, tainted)),
        2 => kind.clone().prop_map(Happening::Prepare),
        1 => kind.clone().prop_map(Happening::GoesBack),
        1 => kind.prop_map(Happening::Withdraws),
        1 => Just(Happening::FailsOver),
        2 => (0..4_usize).prop_map(Happening::DiesAfter),
        2 => (0..4_usize).prop_map(Happening::FailsAfter),
        2 => any::<bool>().prop_map(Happening::Partner),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// All that has not ended verifies, by signature, by all that somebody goes by; but for those of whom it was said, when a step was taken by
    /// force, that it would break them.
    #[test]
    fn what_has_not_ended_verifies_whatever_the_order_of_steps_and_deaths(
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new();
        for happening in &happenings {
            world.happens(happening);
        }
    }
}
