//! What other trust domains do while the own authorities rotate.

use super::{
    world::{Happening, World},
    *,
};
use crate::{
    domain::bundle::{Partner, SpiffeBundle},
    service::signing_state::testing::{HandClock, Memory, claim, state},
};

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
    let first = sequences(&one, &other);
    read_in_turn(&mut one, &mut other);
    let at_rest = sequences(&one, &other);
    assert!(at_rest.iter().zip(first).all(|(sequence, first)| *sequence <= first + 2), "{first:?}, {at_rest:?}");
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
    let (before, first) = (size(&world), world.published().own.sequence.unwrap());
    for _ in 0..100 {
        world.partner_changes(true).unwrap();
        world.happens(&Happening::Answers);
    }
    assert!(world.published().own.sequence.unwrap() >= first + 100);
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

#[test]
fn news_whose_answer_was_lost_are_told_as_soon_as_the_state_is_read_again() {
    let world = World::new();
    world.store.loses_answers(true);
    let partner = told(&world, "partner.test");
    assert!(matches!(world.keeps(partner.clone()), Err(Failed::State(StateError::Io(_)))));
    world.store.loses_answers(false);
    assert!(world.published().federated.is_empty());
    world.state().settle().unwrap();
    assert_eq!(world.published().federated, [partner]);
}

/// As where an owner plugs in, or the mesh has, more than the object can hold.
#[test]
fn own_roots_for_which_there_is_no_room_keep_no_partner_from_being_kept_and_ended() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    let one = crate::domain::authority::testing::authority;
    let (mesh, roots) = tokio::sync::watch::channel(Some(Arc::new(one().bundle().clone())));
    let (_read, read_in) = tokio::sync::watch::channel(None);
    let origin = Origin::Istiod(MeshRoots { known: roots, read_in });
    let claimed = claim(&state(&store, origin, &clock), 1);
    let state = claimed.state.clone().unwrap();
    let first = claimed.trust.borrow().clone().unwrap();
    let many = (0..80).map(|_| one().certificate().clone()).collect();
    mesh.send_replace(Some(Arc::new(TrustBundle::new(trust_domain(), many).unwrap())));
    assert!(state.settle().is_err());
    let bundle = |sequence| SpiffeBundle {
        trust_domain: "partner.test".parse().unwrap(),
        x509_authorities: vec![one().certificate().clone()],
        sequence: Some(sequence),
        ..first.own.clone()
    };
    let nothing = Partner::NOTHING;
    for sequence in 1..4 {
        let news = Partner { bundle: Some(bundle(sequence)), ..nothing.clone() };
        let name: TrustDomain = "partner.test".parse().unwrap();
        let kept = state.change_partners(|partners| {
            partners.insert(name, news);
            Ok::<_, PartnersError>(())
        });
        kept.unwrap();
        let told = claimed.trust.borrow().clone().unwrap();
        assert_eq!((told.sequence(), told.federated.len()), (first.sequence() + sequence, 1));
        assert_eq!(told.own.x509_authorities, first.own.x509_authorities);
    }
    let ended = state.change_partners(|partners| {
        partners.clear();
        Ok::<_, PartnersError>(())
    });
    ended.unwrap();
    assert!(claimed.trust.borrow().as_ref().unwrap().federated.is_empty());
}
