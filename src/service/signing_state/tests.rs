use tokio::sync::watch;

use super::{
    testing::{HandClock, Memory, claim, state, trust_domain},
    *,
};
use crate::{
    domain::{
        authority::rotation::Phase,
        authority::testing::{NOW, TestRandom},
        jwt::JwtSvid,
    },
    service::{
        ports::{AuthorityKind, WantedStep},
        published_trust::PublishedTrust,
    },
};

/// The first sequence of a state that begins now.
const FIRST: u64 = NOW.seconds().cast_unsigned();

fn new_place() -> (Arc<Memory>, Arc<HandClock>) {
    (Arc::new(Memory::default()), Arc::new(HandClock::default()))
}

fn published(claimed: &ClaimedState) -> Arc<PublishedTrust> {
    claimed.trust.borrow().clone().unwrap()
}

fn new_authority(roots_beside: &[&SigningAuthority]) -> Arc<SigningAuthority> {
    let (own, key) = SigningAuthority::self_signed(&trust_domain(), ROOT_LIFETIME, NOW, &TestRandom).unwrap();
    let beside = roots_beside.iter().map(|other| other.certificate().clone());
    let roots = std::iter::once(own.certificate().clone()).chain(beside).collect();
    let bundle = TrustBundle::new(trust_domain(), roots).unwrap();
    SigningAuthority::from_parts(own.certificate().clone(), &key, Vec::new(), bundle, NOW).unwrap().into()
}

#[test]
fn the_first_claim_publishes_root_and_key_of_jwt_svids_and_later_ones_find_them() {
    let (store, clock) = new_place();
    let first = claim(&state(&store, Origin::SelfSigned, &clock), 1);
    let trust = published(&first);
    assert_eq!(trust.own.x509_authorities, first.authority.as_ref().unwrap().borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.refresh_hint), (Some(FIRST), Some(Duration::from_secs(300))));
    let signer = first.jwt_signer.borrow().clone().unwrap();
    assert_eq!(trust.own.jwt_authorities, [signer.authority().clone()]);

    let versions =
        || [StateObject::Authority, StateObject::Trust].map(|object| store.load(object).unwrap().unwrap().version);
    assert_eq!(versions(), [1, 1]);
    let second = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    assert_eq!(*published(&second), *trust);
    assert_eq!(second.jwt_signer.borrow().as_ref().unwrap().key_id(), signer.key_id());
    assert_eq!(versions(), [1, 1], "a claim that finds everything writes nothing");
    let token = signer.mint(&"spiffe://cluster.local/ns/a/sa/b".parse().unwrap(), &["x".into()], NOW, ROOT_LIFETIME);
    assert!(JwtSvid::unverified(&token.unwrap()).unwrap().expires < NOW.plus(ROOT_LIFETIME));
}

#[test]
fn what_a_version_without_such_keys_wrote_gets_one_and_a_higher_sequence() {
    let (store, clock) = new_place();
    let first = claim(&state(&store, Origin::SelfSigned, &clock), 1);
    for object in [StateObject::Authority, StateObject::Trust] {
        let mut json = store.json(object);
        json.as_object_mut().unwrap().retain(|name, _| !["rotation", "jwt"].contains(&name.as_str()));
        store.set_text(object, &json.to_string());
    }
    let second = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    let (before, after) = (published(&first), published(&second));
    assert_eq!(after.own.x509_authorities, before.own.x509_authorities);
    assert_eq!((after.own.sequence, after.own.jwt_authorities.len()), (Some(FIRST + 1), 1));
    assert_eq!(store.json(StateObject::Authority)["rotation"]["jwt"][0]["published_in"], FIRST + 1);
    assert_ne!(after.own.jwt_authorities, before.own.jwt_authorities);
}

#[test]
fn a_pair_authority_gives_way_at_the_first_claim_of_its_last_thirty_days() {
    let (store, clock) = new_place();
    let state = state(&store, Origin::SelfSigned, &clock);
    let pair_of = |term| {
        claim(&state, term);
        store.json(StateObject::Authority)["pair"]["certificate"].as_str().unwrap().to_owned()
    };
    let first = pair_of(1);
    let day = Duration::from_secs(24 * 3600);
    let not_after = Certificate::all_from_pem(first.as_bytes()).unwrap()[0].not_after();
    clock.forward(not_after.since(NOW) - 30 * day);
    assert_eq!(pair_of(2), first);
    clock.forward(Duration::from_secs(1));
    let second = pair_of(3);
    assert_ne!(second, first);
    assert_eq!(pair_of(4), second);
}

#[test]
fn a_first_claim_that_is_killed_between_its_writes_is_brought_to_its_end_by_the_next() {
    let (store, clock) = new_place();
    store.dies_after(1);
    assert!(state(&store, Origin::SelfSigned, &clock).claim(Term::new(1)).is_err());
    store.dies_after(usize::MAX);
    let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    let trust = published(&claimed);
    assert_eq!(trust.own.x509_authorities, claimed.authority.as_ref().unwrap().borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.jwt_authorities.len()), (Some(FIRST), 1));
}

#[test]
fn the_sequence_grows_with_each_change_of_the_plugged_in_roots_and_is_written_before_it_is_told() {
    let (store, clock) = new_place();
    let (a, b) = (new_authority(&[]), new_authority(&[]));
    let both = new_authority(&[&a, &b]);
    let (files, plugged_in) = watch::channel(Arc::clone(&a));
    let origin = || Origin::PluggedIn(plugged_in.clone());
    let claimed = claim(&state(&store, origin(), &clock), 1);
    assert_eq!(published(&claimed).own.sequence, Some(FIRST));
    let term = claimed.state.clone().unwrap();
    term.settle().unwrap();
    assert_eq!(published(&claimed).own.sequence, Some(FIRST), "nothing has changed");

    files.send_replace(Arc::clone(&both));
    store.dies_after(0);
    assert!(matches!(term.settle(), Err(StateError::Io(_))));
    assert_eq!(published(&claimed).own.x509_authorities, a.bundle().roots());
    store.dies_after(usize::MAX);
    term.settle().unwrap();
    let trust = published(&claimed);
    assert_eq!((trust.own.sequence, trust.own.x509_authorities.as_slice()), (Some(FIRST + 1), both.bundle().roots()));

    files.send_replace(b);
    let next = claim(&state(&store, origin(), &clock), 2);
    assert_eq!(published(&next).own.sequence, Some(FIRST + 2), "they may change between two terms as well");
    files.send_replace(both);
    assert!(matches!(term.settle(), Err(StateError::Fenced { .. })), "its term has ended");
}

#[test]
fn where_istiod_signs_there_are_keys_of_jwt_svids_beside_the_mesh_roots_and_no_authority() {
    let (store, clock) = new_place();
    let (a, b) = (new_authority(&[]), new_authority(&[]));
    let ((mesh, known), (read, read_in)) = (watch::channel(None), watch::channel(None));
    let origin = || Origin::Istiod(MeshRoots { known: known.clone(), read_in: read_in.clone() });
    let Err(StateError::Unusable(early)) = state(&store, origin(), &clock).claim(Term::new(1)) else {
        panic!("a bundle without roots is published")
    };
    assert!(early.contains("not known yet"), "{early}");
    mesh.send_replace(Some(Arc::new(a.bundle().clone())));
    let claimed = claim(&state(&store, origin(), &clock), 2);
    assert!(claimed.authority.is_none());
    let (trust, key) = (published(&claimed), claimed.jwt_signer.borrow().clone().unwrap());
    assert_eq!(trust.own.x509_authorities, a.bundle().roots());
    assert_eq!(trust.own.jwt_authorities, [key.authority().clone()]);

    let term = claimed.state.clone().unwrap();
    mesh.send_replace(Some(Arc::new(b.bundle().clone())));
    read.send_replace(Some(Term::new(2)));
    term.settle().unwrap();
    let next = published(&claimed);
    assert_eq!(next.own.x509_authorities, b.bundle().roots());
    assert_eq!(next.own.sequence, trust.own.sequence.map(|sequence| sequence + 1));
    assert_eq!(next.own.jwt_authorities, trust.own.jwt_authorities);
    let Err(StateError::Unusable(refused)) = term.kind_state(AuthorityKind::X509) else {
        panic!("an authority of certificates is shown")
    };
    assert!(refused.contains("istiod signs"), "{refused}");
    assert_eq!(term.kind_state(AuthorityKind::Jwt).unwrap().authorities.slots().len(), 1);

    mesh.send_replace(None);
    let restarted = claim(&state(&store, origin(), &clock), 3);
    assert_eq!(published(&restarted).own.x509_authorities, b.bundle().roots(), "as they were last known");
    assert_eq!(restarted.jwt_signer.borrow().as_ref().unwrap().key_id(), key.key_id());
}

#[test]
fn a_new_active_takes_no_root_of_the_mesh_away_before_it_has_read_where_the_mesh_keeps_them() {
    let (store, clock) = new_place();
    let [old, new, newest] = std::array::from_fn(|_| Arc::new(new_authority(&[]).bundle().clone()));
    let ((mesh, known), (read, read_in)) = (watch::channel(None), watch::channel(None));
    let begin = |term| {
        let origin = Origin::Istiod(MeshRoots { known: known.clone(), read_in: read_in.clone() });
        claim(&state(&store, origin, &clock), term)
    };
    let roots = |claimed: &ClaimedState| {
        claimed.state.as_ref().unwrap().settle().unwrap();
        published(claimed).own.x509_authorities.clone()
    };
    mesh.send_replace(Some(Arc::clone(&new)));
    read.send_replace(Some(Term::new(1)));
    assert_eq!(roots(&begin(1)), new.roots());

    // another replica, or a later term: it has read them in none that counts
    for read_by_then in [None, Some(Term::new(1))] {
        read.send_replace(read_by_then);
        mesh.send_replace(Some(Arc::clone(&old)));
        let term = if read_by_then.is_none() { 2 } else { 3 };
        let claimed = begin(term);
        assert_eq!(roots(&claimed), [new.roots(), old.roots()].concat(), "older ones, and then a file, say less");
        let sequence = published(&claimed).own.sequence;
        mesh.send_replace(None);
        assert_eq!(roots(&claimed), [new.roots(), old.roots()].concat());
        assert_eq!(published(&claimed).own.sequence, sequence, "nothing new");
        mesh.send_replace(Some(Arc::clone(&newest)));
        assert_eq!(roots(&claimed), [new.roots(), old.roots(), newest.roots()].concat(), "told at once");
        mesh.send_replace(Some(Arc::clone(&new)));
        read.send_replace(Some(Term::new(term)));
        assert_eq!(roots(&claimed), new.roots(), "as the mesh keeps them");
    }
}

#[test]
fn a_state_with_a_root_of_its_own_is_left_alone_where_istiod_signs() {
    let (store, clock) = new_place();
    drop(claim(&state(&store, Origin::SelfSigned, &clock), 1));
    let (_mesh, known) = watch::channel(Some(Arc::new(new_authority(&[]).bundle().clone())));
    let (_read, read_in) = watch::channel(None);
    let origin = Origin::Istiod(MeshRoots { known, read_in });
    let Err(StateError::Unusable(refused)) = state(&store, origin, &clock).claim(Term::new(2)) else {
        panic!("it was taken over")
    };
    assert!(refused.contains("has a root of its own"), "{refused}");
}

#[test]
fn a_key_of_jwt_svids_is_waited_for_by_the_longest_life_that_it_ever_signed_for() {
    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    let (store, clock) = new_place();
    let term = |number, jwt_ttl| {
        let settings = StateSettings { jwt_ttl, ..StateSettings::default() };
        claim(&state(&store, Origin::SelfSigned, &clock).with_settings(settings), number).state.unwrap()
    };
    let named = |state: &TermState, phase| {
        let slots = state.kind_state(AuthorityKind::Jwt).unwrap().authorities;
        slots.slots().iter().find(|slot| slot.phase == phase).unwrap().id.clone()
    };
    let take = |state: &TermState, wanted: &WantedStep| {
        let taken = state.step(AuthorityKind::Jwt, wanted, |found, step| {
            Ok::<_, StateError>(Some(found.authorities.after_by_force(step, clock.now()).unwrap()))
        });
        taken.unwrap();
    };
    // how long the key is waited for that signed until now
    let replaced = |state: &TermState| {
        let old = named(state, Phase::Active);
        take(state, &WantedStep::Prepare);
        take(state, &WantedStep::Activate(named(state, Phase::Prepared)));
        state.kind_state(AuthorityKind::Jwt).unwrap().handed_out.last_end_of(&old).unwrap().since(clock.now())
    };
    drop(term(1, HOUR / 2));
    let lowered = term(2, MINUTE);
    let waits = replaced(&lowered);
    assert!((HOUR / 2..HOUR / 2 + 2 * MINUTE).contains(&waits), "{waits:?}");
    let waits = replaced(&lowered);
    assert!((MINUTE..3 * MINUTE).contains(&waits), "nothing by this one has lived longer: {waits:?}");

    // as a version left it that went by the setting of the moment
    let mut stored = store.json(StateObject::Authority);
    let keys = stored["rotation"]["jwt"].as_array_mut().unwrap();
    assert!(keys.iter_mut().all(|key| key.as_object_mut().unwrap().remove("longest").is_some()));
    store.set_text(StateObject::Authority, &stored.to_string());
    let taken_over = term(3, MINUTE);
    let old = taken_over.kind_state(AuthorityKind::Jwt).unwrap();
    let old_ends = old.authorities.slots().iter().filter_map(|slot| old.handed_out.last_end_of(&slot.id));
    let old_waits: Vec<_> = old_ends.map(|end| end.since(clock.now())).collect();
    assert!(old_waits.len() == 2 && old_waits.iter().all(|waits| *waits >= HOUR), "{old_waits:?}");
    assert!(replaced(&taken_over) >= HOUR);
}
