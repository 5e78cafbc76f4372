//! What is lost, edited or exchanged by hand: the stated error each, and never a second root.

use std::time::Duration;

use countersign::{
    domain::{
        attestation::{Denial, DeniedSubject},
        clock::Timestamp,
        leadership::Term,
    },
    service::{
        ports::{StateError, StateObject, StateStore},
        state_condition::StateCondition,
    },
};
use k8s_openapi::api::core::v1::Secret;

use super::{AUTHORITY, BTreeMap, Place, Replica, TRUST, content_of, eventually, set_annotation, set_content};
use crate::cluster::Cluster;

/// A state that has a history: what it was before its last change, and what it is.
pub(super) struct Story<'a> {
    pub(super) place: Place<'a>,
    pub(super) active: Replica,
    pub(super) root: String,
    pub(super) older: BTreeMap<String, Secret>,
    pub(super) newest: BTreeMap<String, Secret>,
}

impl<'a> Story<'a> {
    pub(super) async fn tell(cluster: &'a Cluster) -> Self {
        let place = Place::make(cluster).await;
        let active = place.replica(&BTreeMap::new());
        let root = active.claim(4).unwrap();
        let older = place.found().await;
        deny_something(&active, 4);
        let newest = place.found().await;
        Self { place, active, root, older, newest }
    }
}

fn deny_something(active: &Replica, term: u64) {
    tokio::task::block_in_place(|| {
        active.state.change_denied(Term::new(term), |denied| {
            let denial = Denial { reason: "lost".parse().unwrap(), since: Timestamp::from_seconds(1), actor_uid: 0 };
            denied.deny(DeniedSubject::Serial("0a".parse().unwrap()), denial);
        })
    })
    .unwrap();
}

/// What a hand does, and what is said of it then, with the lease still there and with it gone as well. Empty: nothing is
/// said, because nothing that is left knows.
#[derive(Clone, Copy)]
pub(super) struct Damage {
    pub(super) name: &'static str,
    pub(super) with_lease: &'static str,
    pub(super) without_lease: &'static str,
}

pub(super) const DAMAGES: [Damage; 11] = [
    Damage {
        name: "authority deleted",
        with_lease: "Secret countersign-authority is gone, but the Lease names its version 1 of root ROOT",
        without_lease: "Secret countersign-authority is gone, but countersign-trust names its version 1 of root ROOT",
    },
    Damage {
        name: "trust deleted",
        with_lease: "Secret countersign-trust is gone, but the Lease names its version 2 of root ROOT",
        without_lease: "Secret countersign-trust is gone, but countersign-authority names its version 2 of root ROOT",
    },
    Damage {
        name: "both deleted",
        with_lease: "Secret countersign-authority is gone, but the Lease names its version 1 of root ROOT",
        without_lease: "",
    },
    Damage { name: "content edited", with_lease: "its checksum is wrong", without_lease: "its checksum is wrong" },
    Damage { name: "content deleted", with_lease: "its checksum is wrong", without_lease: "its checksum is wrong" },
    Damage { name: "version edited", with_lease: "its checksum is wrong", without_lease: "its checksum is wrong" },
    Damage {
        name: "annotations deleted",
        with_lease: "it bears no countersign.io/format",
        without_lease: "it bears no countersign.io/format",
    },
    Damage {
        name: "older trust restored",
        with_lease: "Secret countersign-trust is behind the Lease: version 1 of term 4, not 2 of term 4",
        without_lease: "Secret countersign-trust is behind countersign-authority: version 1 of term 4, not 2 of term 4",
    },
    Damage {
        name: "both older restored",
        with_lease: "Secret countersign-trust is behind the Lease",
        without_lease: "",
    },
    Damage {
        name: "foreign authority",
        with_lease: "Secret countersign-authority has another content of version 1 than the Lease names",
        without_lease: "Secret countersign-authority has another content of version 1 than countersign-trust names",
    },
    Damage {
        name: "both foreign",
        with_lease: "Secret countersign-authority has another content of version 1 than the Lease names",
        without_lease: "",
    },
];

pub(super) async fn hurt(story: &Story<'_>, damage: &str, foreign: &BTreeMap<String, Secret>) {
    let place = &story.place;
    match damage {
        "authority deleted" => place.delete(AUTHORITY).await,
        "trust deleted" => place.delete(TRUST).await,
        "both deleted" => {
            place.delete(AUTHORITY).await;
            place.delete(TRUST).await;
        }
        "content edited" => {
            let content = content_of(&story.newest[TRUST]).unwrap();
            let edited = String::from_utf8(content.clone()).unwrap().replace("lost", "lust");
            place.edit(TRUST, |secret| set_content(secret, edited.as_bytes())).await;
        }
        "content deleted" => place.edit(AUTHORITY, |secret| secret.data = None).await,
        "version edited" => place.edit(AUTHORITY, |secret| set_annotation(secret, "version", "2")).await,
        "annotations deleted" => place.edit(TRUST, |secret| secret.metadata.annotations = None).await,
        "older trust restored" => place.restore([&story.older[TRUST]]).await,
        "both older restored" => place.restore(story.older.values()).await,
        "foreign authority" => place.restore([&foreign[AUTHORITY]]).await,
        "both foreign" => place.restore(foreign.values()).await,
        other => panic!("no such damage: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_named_with_the_command_and_nothing_is_made_in_its_place() {
    let foreign = Story::tell(Cluster::shared()).await.newest;
    for Damage { name, with_lease, without_lease } in DAMAGES {
        let story = Story::tell(Cluster::shared()).await;
        hurt(&story, name, &foreign).await;
        let left = story.place.found().await;
        for (lease, expected) in [(story.active.lease(), with_lease), (BTreeMap::new(), without_lease)] {
            if expected.is_empty() {
                continue;
            }
            let refusal = story.place.replica(&lease).claim(5).unwrap_err();
            let expected = expected.replace("ROOT", &story.root);
            let command = format!("run `countersign recover --state kubernetes --namespace {}`", story.place.namespace);
            assert!(refusal.contains(&expected) && refusal.ends_with(&command), "{name}: {refusal}");
            assert_eq!(story.place.found().await, left, "{name}: something was written");
        }
        // put back by hand, it goes on where it was
        story.place.restore(story.newest.values()).await;
        assert_eq!(story.place.replica(&story.active.lease()).claim(5).unwrap(), story.root, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_deleted_or_edited_changes_nothing() {
    let story = Story::tell(Cluster::shared()).await;
    let broken = BTreeMap::from([("countersign.io/state".to_owned(), "{".to_owned())]);
    for (term, lease) in [(5, BTreeMap::new()), (6, broken.clone())] {
        assert_eq!(story.place.replica(&lease).claim(term).unwrap(), story.root);
    }
    story.place.delete(AUTHORITY).await;
    story.place.delete(TRUST).await;
    let refusal = story.place.replica(&broken).claim(7).unwrap_err();
    assert!(refusal.contains("both Secrets of the state are gone, but there was a state"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_notices_each_damage_within_ten_seconds_and_goes_on_from_memory() {
    let foreign = Story::tell(Cluster::shared()).await.newest;
    let story = Story::tell(Cluster::shared()).await;
    let watch = tokio::spawn(story.active.store.clone().watch());
    let condition = story.active.store.condition();
    let kinds = ["authority deleted", "both deleted", "content edited", "older trust restored", "both foreign"];
    for damage in DAMAGES.into_iter().filter(|damage| kinds.contains(&damage.name)) {
        hurt(&story, damage.name, &foreign).await;
        let altered = eventually(Duration::from_secs(10), damage.name, async || match &*condition.borrow() {
            StateCondition::Altered(what) => Ok(what.clone()),
            other => Err(other.to_string()),
        })
        .await;
        assert!(altered.contains("countersign-"), "{}: {altered}", damage.name);
        tokio::task::block_in_place(|| {
            let store = &story.active.store;
            let trust = store.load(StateObject::Trust).unwrap().unwrap();
            assert_eq!(trust.content.to_vec(), *content_of(&story.newest[TRUST]).unwrap(), "{}", damage.name);
            if damage.name.contains("trust") {
                let write = store.compare_and_swap(StateObject::Trust, trust.version, trust.term, b"{}");
                assert!(matches!(&write, Err(StateError::Damaged(what)) if what.contains("recover")), "{write:?}");
            }
        });
        story.place.restore(story.newest.values()).await;
        eventually(Duration::from_secs(10), "sound again", async || match &*condition.borrow() {
            StateCondition::Sound => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
    }
    watch.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_notices_a_higher_term() {
    let story = Story::tell(Cluster::shared()).await;
    let watch = tokio::spawn(story.active.store.clone().watch());
    story.place.replica(&BTreeMap::new()).claim(9).unwrap();
    let higher = story.active.store.higher_term();
    eventually(Duration::from_secs(10), "a higher term", async || match higher.borrow().number() {
        9 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(*story.active.store.condition().borrow(), StateCondition::Unwatched);
    watch.abort();
}
