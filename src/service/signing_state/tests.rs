use super::{
    testing::{HandClock, Memory, claim, state, trust_domain},
    *,
};
use crate::{
    domain::{
        authority::testing::{NOW, TestRandom},
        jwt::JwtSvid,
    },
    service::published_trust::PublishedTrust,
};

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
    assert_eq!(trust.own.x509_authorities, first.authority.borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.refresh_hint), (Some(1), Some(Duration::from_secs(300))));
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
    assert_eq!((after.own.sequence, after.own.jwt_authorities.len()), (Some(2), 1));
    assert_eq!(store.json(StateObject::Authority)["rotation"]["jwt"][0]["published_in"], 2);
    assert_ne!(after.own.jwt_authorities, before.own.jwt_authorities);
}

#[test]
fn a_first_claim_that_is_killed_between_its_writes_is_brought_to_its_end_by_the_next() {
    let (store, clock) = new_place();
    store.dies_after(1);
    assert!(state(&store, Origin::SelfSigned, &clock).claim(Term::new(1)).is_err());
    store.dies_after(usize::MAX);
    let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    let trust = published(&claimed);
    assert_eq!(trust.own.x509_authorities, claimed.authority.borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.jwt_authorities.len()), (Some(1), 1));
}

#[test]
fn the_sequence_grows_with_each_change_of_the_plugged_in_roots_and_is_written_before_it_is_told() {
    let (store, clock) = new_place();
    let (a, b) = (new_authority(&[]), new_authority(&[]));
    let both = new_authority(&[&a, &b]);
    let (files, plugged_in) = watch::channel(Arc::clone(&a));
    let origin = || Origin::PluggedIn(plugged_in.clone());
    let claimed = claim(&state(&store, origin(), &clock), 1);
    assert_eq!(published(&claimed).own.sequence, Some(1));
    let term = claimed.state.clone().unwrap();
    term.settle().unwrap();
    assert_eq!(published(&claimed).own.sequence, Some(1), "nothing has changed");

    files.send_replace(Arc::clone(&both));
    store.dies_after(0);
    assert!(matches!(term.settle(), Err(StateError::Io(_))));
    assert_eq!(published(&claimed).own.x509_authorities, a.bundle().roots());
    store.dies_after(usize::MAX);
    term.settle().unwrap();
    let trust = published(&claimed);
    assert_eq!((trust.own.sequence, trust.own.x509_authorities.as_slice()), (Some(2), both.bundle().roots()));

    files.send_replace(b);
    let next = claim(&state(&store, origin(), &clock), 2);
    assert_eq!(published(&next).own.sequence, Some(3), "they may change between two terms as well");
    files.send_replace(both);
    assert!(matches!(term.settle(), Err(StateError::Fenced { .. })), "its term has ended");
}
