use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::advance;

use super::{testing::Alone, *};
use crate::{
    domain::leadership::Term,
    service::{
        ports::StateObject,
        signing_state::{
            Origin,
            testing::{HandClock, Memory, claim, state},
        },
        trust_followers::{Follower, FollowerStream, TrustFollowers},
    },
};

/// Longer than it takes until it is known who follows.
const GATHERED: Duration = Duration::from_secs(60);

/// A process that is active, and knows nothing but the state.
struct Active {
    rotation: Arc<AuthorityRotation>,
    state: Arc<TermState>,
    followers: Arc<TrustFollowers>,
    _session: watch::Sender<Option<Arc<SigningSession>>>,
}

impl Active {
    async fn start(store: &Arc<Memory>, term: u64) -> Self {
        Self::start_with(store, term, None).await
    }

    async fn start_with(store: &Arc<Memory>, term: u64, gateways: Option<Behind>) -> Self {
        let clock = Arc::new(HandClock::default());
        let claimed = claim(&state(store, Origin::SelfSigned, &clock), term);
        let state = claimed.state.clone().unwrap();
        let session = Arc::new(SigningSession::new(Term::new(term), claimed, None));
        let (sender, sessions) = watch::channel(Some(session));
        let followers = Arc::new(TrustFollowers::default());
        followers.take_over(Term::new(term), None);
        let propagation =
            Propagation { followers: Arc::clone(&followers) as _, places: None, gateways, endpoint: None };
        let rotation = AuthorityRotation::new(sessions, Arc::new(Alone), propagation, clock);
        advance(GATHERED).await;
        Self { rotation: Arc::new(rotation), state, followers, _session: sender }
    }

    fn agent(&self, name: &str, has: u64) -> FollowerStream {
        let follower = Follower { identity: "spiffe://td/gateway".parse().unwrap(), instance: name.into() };
        let stream = self.followers.open(follower).unwrap();
        stream.says(has);
        stream
    }

    /// What a step of keys of JWT-SVIDs waits for, if it was not taken.
    async fn takes(&self, step: WantedStep) -> Result<String, Vec<String>> {
        self.takes_of(AuthorityKind::Jwt, step).await
    }

    async fn takes_of(&self, kind: AuthorityKind, step: WantedStep) -> Result<String, Vec<String>> {
        let order = RotationOrder { kind, step: Some(step), dry_run: false, force: false, reason: None };
        let report = self.rotation.order(order, Actor { uid: 0, asserted_by: None }).await.unwrap();
        if report.done { Ok(report.id) } else { Err(report.obstacles) }
    }

    fn published_in(&self, id: &str) -> u64 {
        self.state.kind_state(AuthorityKind::Jwt).unwrap().authorities.slot(id).unwrap().published_in
    }
}

/// As the other replica lost nobody, its successor waits for nobody; where somebody was behind, it can't tell who is left of them.
#[tokio::test(start_paused = true)]
async fn after_a_failover_a_key_of_jwt_svids_that_everybody_had_before_signs_at_once() {
    for (is_reached, is_put_back) in [(true, false), (false, false), (true, true)] {
        let store = Arc::new(Memory::default());
        let first = Active::start(&store, 1).await;
        let next = first.takes(WantedStep::Prepare).await.unwrap();
        let published_in = first.published_in(&next);
        let _has_it = first.agent("a", published_in);
        let behind = first.agent("b", published_in - 1);
        first.rotation.record_reach(&first.state).unwrap();
        if is_reached {
            behind.says(published_in);
            first.rotation.record_reach(&first.state).unwrap();
        }
        if is_put_back {
            // it is published anew
            let mut json = store.json(StateObject::Authority);
            json["rotation"]["jwt"][1]["published_in"] = (published_in - 1).into();
            store.set_text(StateObject::Authority, &json.to_string());
        }

        let second = Active::start(&store, 2).await;
        let _came_over = second.agent("a", published_in);
        let taken = second.takes(WantedStep::Activate(next.clone())).await;
        if is_reached && !is_put_back {
            assert_eq!(taken, Ok(next));
        } else {
            let waits = taken.unwrap_err();
            assert!(matches!(&waits[..], [one] if one.contains("before this replica became active")), "{waits:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_signs_only_when_gateways_of_the_cluster_have_it() {
    let have = Arc::new(AtomicUsize::new(1));
    let known = Arc::clone(&have);
    let behind = move |roots: &TrustBundle| {
        let missing = roots.roots().len() > known.load(Ordering::Relaxed);
        missing.then(|| "ConfigMap countersign-mesh-ca in app".to_owned())
    };
    let active = Active::start_with(&Arc::default(), 1, Some(Box::new(behind))).await;
    let root = active.takes_of(AuthorityKind::X509, WantedStep::Prepare).await.unwrap();
    let key = active.takes(WantedStep::Prepare).await.unwrap();
    assert_eq!(active.takes(WantedStep::Activate(key.clone())).await, Ok(key), "they hold no keys of JWT-SVIDs");
    // certificates of before it was there hold it up as well, whoever has it
    let held_up = async || {
        let waits = active.takes_of(AuthorityKind::X509, WantedStep::Activate(root.clone())).await.unwrap_err();
        waits.iter().filter(|one| one.starts_with("ConfigMap countersign-mesh-ca in app ")).count()
    };
    assert_eq!(held_up().await, 1);
    have.store(2, Ordering::Relaxed);
    assert_eq!(held_up().await, 0);
}
