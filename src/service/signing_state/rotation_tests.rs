//! Rotations over the real state, which is killed between any two of its writes.

mod any_order;
mod partners;
mod world;

use self::world::{Failed, Happening, TTL, World};
use super::{testing::trust_domain, *};
use crate::{
    domain::authority::{
        authority_id,
        rotation::{Phase, StepRefused},
    },
    service::ports::{AuthorityKind, WantedStep},
};

impl World {
    /// The process is killed after so many writes of this at the latest, and another one takes over.
    fn dies_in(&mut self, writes: usize, happening: &Happening) {
        self.store.dies_after(writes);
        self.happens(happening);
        self.store.dies_after(usize::MAX);
        self.happens(&Happening::FailsOver);
        self.happens(&Happening::Answers);
    }

    fn waits(&self, kind: AuthorityKind, step: &WantedStep) {
        let early = self.step(kind, step);
        assert!(matches!(early, Err(Failed::Refused(StepRefused::Obstacles(_)))), "{early:?}");
    }

    /// Whatever was done of it before the process was killed.
    fn prepares(&mut self, kind: AuthorityKind, writes: usize) -> String {
        self.dies_in(writes, &Happening::Prepare(kind));
        if self.named(kind, Phase::Prepared, false).is_none() {
            assert_eq!(writes, 0, "it was killed before anything was written");
            self.happens(&Happening::Prepare(kind));
        }
        self.named(kind, Phase::Prepared, false).unwrap()
    }
}

/// Prepare, activate, taint, revoke, of both kinds, each killed after each number of its writes; with a way back before the
/// last step.
#[test]
fn a_rotation_that_is_killed_at_every_write_comes_to_its_end() {
    let kinds = [AuthorityKind::X509, AuthorityKind::Jwt];
    for (kind, writes) in kinds.into_iter().flat_map(|kind| (0..3).map(move |writes| (kind, writes))) {
        let mut world = World::new();
        let first = world.named(kind, Phase::Active, false).unwrap();
        world.happens(&Happening::Answers);
        let next = world.prepares(kind, writes);
        let (activate, back) = (WantedStep::Activate(next.clone()), WantedStep::Activate(first.clone()));
        world.waits(kind, &activate);
        world.clock.forward(TTL * 2);
        world.waits(kind, &activate);
        world.all_hear();
        world.dies_in(writes, &Happening::Step(kind, Phase::Prepared, false));
        if world.named(kind, Phase::Active, false).as_ref() == Some(&first) {
            world.step(kind, &activate).unwrap();
        }
        world.step(kind, &back).unwrap();
        world.happens(&Happening::Answers);
        world.step(kind, &activate).unwrap();
        world.happens(&Happening::Answers);

        world.dies_in(writes, &Happening::Step(kind, Phase::Old, false));
        world.happens(&Happening::Step(kind, Phase::Old, false));
        assert_eq!(world.published().tainted, std::slice::from_ref(&first));
        world.waits(kind, &WantedStep::Revoke(first));
        world.clock.forward(TTL * 2);
        world.dies_in(writes, &Happening::Step(kind, Phase::Old, true));
        world.happens(&Happening::Step(kind, Phase::Old, true));
        let ids: Vec<_> = world.slots(kind).into_iter().map(|slot| slot.id).collect();
        assert_eq!(ids, [next], "{kind:?} after {writes} writes");
        assert!(world.published().tainted.is_empty());
    }
}

#[test]
fn a_version_without_rotations_finds_the_authority_that_signs_where_it_looks() {
    let mut world = World::new();
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    world.clock.forward(TTL * 2);
    world.all_hear();
    world.happens(&Happening::Step(AuthorityKind::X509, Phase::Prepared, false));
    let signs = world.claimed.authority.as_ref().unwrap().borrow().certificate().clone();
    assert_eq!(world.store.json(StateObject::Authority)["certificate"], signs.to_pem());
    let root: String = signs.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(root_of(world.store.text(StateObject::Authority).as_bytes()), Some(root));
    let trust = world.store.json(StateObject::Trust);
    let bundle = TrustBundle::from_pem(trust_domain(), trust["bundle"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(bundle.roots().len(), 2);
}

#[test]
fn a_root_that_ended_while_nobody_was_there_gives_way_to_the_one_that_was_prepared() {
    let mut world = World::new();
    world.clock.forward(ROOT_LIFETIME - Duration::from_secs(3600));
    world.happens(&Happening::FailsOver);
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    let next = world.named(AuthorityKind::X509, Phase::Prepared, false).unwrap();
    world.clock.forward(Duration::from_secs(7200));
    world.fail_over();
    assert_eq!(world.claimed.authority.as_ref().unwrap().borrow().id(), next);
}

#[test]
fn a_step_whose_answer_was_lost_is_in_effect_as_soon_as_the_state_is_read_again() {
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        let mut world = World::new();
        world.happens(&Happening::Prepare(kind));
        let next = world.named(kind, Phase::Prepared, false).unwrap();
        world.clock.forward(TTL * 2);
        world.all_hear();
        world.store.loses_answers(true);
        assert!(matches!(world.step(kind, &WantedStep::Activate(next.clone())), Err(Failed::State(StateError::Io(_)))));
        world.store.loses_answers(false);
        world.state().settle().unwrap();
        let signs = match kind {
            AuthorityKind::X509 => world.claimed.authority.as_ref().unwrap().borrow().id().to_owned(),
            AuthorityKind::Jwt => world.claimed.jwt_signer.borrow().clone().unwrap().key_id().to_owned(),
        };
        assert_eq!(signs, next, "{kind:?}");
        world.check();
    }
}

#[test]
fn of_an_intermediate_that_is_tainted_the_root_is_too() {
    let mut world = World::new();
    // the authority that signs is said to be one that was imported, below a root of its own
    let above = crate::domain::authority::testing::authority();
    let root = above.certificate().to_pem();
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    let mut stored = world.store.json(StateObject::Authority);
    assert!(stored["rotation"]["active"].is_object(), "{stored}");
    stored["rotation"]["active"]["roots"] = serde_json::json!([root]);
    world.store.set_text(StateObject::Authority, &stored.to_string());
    let first = world.named(AuthorityKind::X509, Phase::Active, false).unwrap();
    let next = world.named(AuthorityKind::X509, Phase::Prepared, false).unwrap();
    world.force(AuthorityKind::X509, &WantedStep::Activate(next)).unwrap();
    world.force(AuthorityKind::X509, &WantedStep::Taint(first.clone())).unwrap();
    let trust = world.published();
    assert_eq!(trust.tainted, [first, authority_id(above.certificate())]);
    assert_eq!(
        trust.own_roots().unwrap().roots().len(),
        2,
        "until it is revoked, what it signed proves who somebody is"
    );
}
