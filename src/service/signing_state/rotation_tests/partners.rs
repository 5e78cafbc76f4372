//! What other trust domains do while the own authorities rotate.

use super::{
    world::{Happening, World},
    *,
};
use crate::domain::bundle::SpiffeBundle;

/// What `world` publishes, as one that federates reads it.
fn told(world: &World, trust_domain: &str) -> SpiffeBundle {
    SpiffeBundle { trust_domain: trust_domain.parse().unwrap(), ..world.published().own.clone() }
}

#[test]
fn two_that_read_each_other_come_to_rest() {
    let (mut one, mut other) = (World::new(), World::new());
    let sequences = |one: &World, other: &World| [one, other].map(|world| world.published().own.sequence.unwrap());
    let read_in_turn = |one: &mut World, other: &mut World| {
        for _ in 0..10 {
            let news = told(one, "one.test");
            other.keeps(news).unwrap();
            let news = told(other, "other.test");
            one.keeps(news).unwrap();
        }
    };
    read_in_turn(&mut one, &mut other);
    let at_rest = sequences(&one, &other);
    assert!(at_rest.iter().all(|sequence| *sequence <= 3), "{at_rest:?}");
    read_in_turn(&mut one, &mut other);
    assert_eq!(sequences(&one, &other), at_rest);
    one.happens(&Happening::Prepare(AuthorityKind::X509));
    read_in_turn(&mut one, &mut other);
    assert_eq!(sequences(&one, &other), at_rest.map(|sequence| sequence + 1), "a new root is news to both, once");
}

#[test]
fn however_often_a_partner_changes_there_is_room_for_what_is_handed_out() {
    let mut world = World::new();
    let size = |world: &World| world.store.text(StateObject::Authority).len();
    world.happens(&Happening::Answers);
    let before = size(&world);
    for _ in 0..100 {
        world.partner_changes(true).unwrap();
        world.happens(&Happening::Answers);
    }
    assert!(world.published().own.sequence.unwrap() > 100);
    assert!(size(&world) < before + 100, "{before} bytes, now {}", size(&world));
}

/// A follower that has the number of the bundle with the prepared authority has that authority.
#[test]
fn news_of_a_partner_do_not_take_the_number_of_a_bundle_whose_write_failed() {
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        let mut world = World::new();
        world.store.fails_after(1);
        assert!(matches!(world.step(kind, &WantedStep::Prepare), Err(Failed::State(StateError::Io(_)))));
        world.partner_changes(true).unwrap();
        let trust = world.published();
        let next = world.named(kind, Phase::Prepared, false).unwrap();
        let mut published = trust.own.x509_authorities.iter().map(authority_id).collect::<Vec<_>>();
        published.extend(trust.own.jwt_authorities.iter().map(|key| key.key_id().to_owned()));
        assert!(published.contains(&next), "{kind:?}: {published:?}");
        let slot = world.slots(kind).into_iter().find(|slot| slot.id == next).unwrap();
        assert_eq!(Some(slot.published_in), trust.own.sequence, "{kind:?}");
    }
}
