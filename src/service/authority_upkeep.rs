//! Keeps what a term publishes in step with its authorities, and rotates those that come to their end, for as long as the term
//! lasts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tracing::{info, warn};

use super::{
    authority_rotation::{AuthorityRotation, RotationError},
    metrics::Metrics,
    ports::{AuthorityKind, StateError},
    signing_session::SigningSession,
    signing_state::{MeshRoots, TermState},
    waiting::next,
};
use crate::domain::{authority::rotation::Phase, clock::Timestamp};

/// How often it is looked whether a step is due: as SPIRE does.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the sessions of this replica. Never returns.
pub async fn keep(
    mut sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    rotation: Arc<AuthorityRotation>,
    metrics: Arc<Metrics>,
) {
    loop {
        let session = sessions.borrow_and_update().clone();
        let changed = tokio::select! {
            changed = sessions.changed() => changed,
            never = keep_session(session, &rotation, &metrics) => match never {},
        };
        metrics.forget_rotation();
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_session(
    session: Option<Arc<SigningSession>>,
    rotation: &Arc<AuthorityRotation>,
    metrics: &Metrics,
) -> Infallible {
    let Some(session) = session else { return std::future::pending().await };
    let Some(state) = session.state().cloned() else { return std::future::pending().await };
    let (mut authorities, mut roots) = (session.authority_changes(), state.mesh_roots());
    let mut last = None;
    loop {
        let (state, rotation) = (Arc::clone(&state), Arc::clone(rotation));
        let done = spawn_blocking(move || {
            state.settle()?;
            // a step of one kind that waits, or can't be taken, keeps nothing of the other from being taken
            let kinds = [AuthorityKind::X509, AuthorityKind::Jwt];
            Ok::<_, StateError>(kinds.map(|kind| {
                let reached = if kind == AuthorityKind::Jwt { rotation.record_reach(&state) } else { Ok(()) };
                let taken = rotation.take_due_step(&state, kind).and(reached.map_err(RotationError::from));
                (kind, taken, prepared_end(&state, kind))
            }))
        });
        let trouble = match done.await {
            Ok(Ok(taken)) => {
                for (kind, taken, prepared_end) in &taken {
                    metrics.set_rotation_refused(*kind, taken.as_ref().is_err_and(|error| !error.is_wait()));
                    // of a state that can't be read this moment what was shown last is still true
                    if let Ok(not_after) = prepared_end {
                        metrics.show_prepared(*kind, *not_after);
                    }
                }
                taken.into_iter().find_map(|(_, taken, _)| taken.err()).map(|error| error.to_string())
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        if trouble != last {
            match &trouble {
                Some(trouble) => warn!(event = "authority_upkeep_waits", reason = trouble),
                None => info!(event = "authority_upkeep_goes_on"),
            }
            last = trouble;
        }
        let changed = async {
            tokio::select! {
                () = next_of(authorities.as_mut()) => {}
                () = changed_of(roots.as_mut()) => {}
            }
        };
        drop(timeout(LOOK_EVERY, changed).await);
    }
}

async fn next_of<T>(receiver: Option<&mut watch::Receiver<T>>) {
    match receiver {
        Some(receiver) => next(receiver).await,
        None => std::future::pending().await,
    }
}

async fn changed_of(roots: Option<&mut MeshRoots>) {
    match roots {
        Some(roots) => roots.changed().await,
        None => std::future::pending().await,
    }
}

/// When the authority of one kind ends that is prepared; `None` if none is. Blocks.
fn prepared_end(state: &TermState, kind: AuthorityKind) -> Result<Option<Timestamp>, StateError> {
    if !state.rotates(kind) {
        return Ok(None);
    }
    let authorities = state.kind_state(kind)?.authorities;
    let prepared = authorities.slots().iter().find(|slot| slot.phase == Phase::Prepared);
    Ok(prepared.map(|slot| slot.not_after))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{
        domain::{
            authority::{rotation::Reached, testing::authority},
            clock::Clock,
            leadership::Term,
        },
        service::{
            authority_rotation::{Propagation, testing::Alone},
            bundle_offers::BundleOffers,
            ports::{Followers, StateObject, WantedStep},
            published_trust::PublishedTrust,
            signing_state::{
                Origin,
                testing::{HandClock, Memory, claim, state},
            },
        },
    };

    /// Never has a new bundle.
    struct Laggard;

    impl Followers for Laggard {
        fn begin_term(&self, _: Term) {}

        fn reached(&self) -> Vec<Reached> {
            vec![Reached { who: "an agent".into(), sequence: 0 }]
        }

        fn lost_agents(&self) -> Vec<Reached> {
            Vec::new()
        }

        fn lost_by_others(&self) -> Option<Reached> {
            None
        }
    }

    struct Nobody;

    impl Followers for Nobody {
        fn begin_term(&self, _: Term) {}

        fn reached(&self) -> Vec<Reached> {
            Vec::new()
        }

        fn lost_agents(&self) -> Vec<Reached> {
            Vec::new()
        }

        fn lost_by_others(&self) -> Option<Reached> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_root_that_waits_for_somebody_keeps_no_key_of_jwt_svids_waiting() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 1);
        let state = claimed.state.clone().unwrap();
        let active = |kind| {
            let slots = state.kind_state(kind).unwrap().authorities;
            slots.slots().iter().find(|slot| slot.phase == Phase::Active).unwrap().id.clone()
        };
        let (root, key) = (active(AuthorityKind::X509), active(AuthorityKind::Jwt));
        // the root is to be replaced by now, and the key has ended
        clock.forward(DAY * (3650 - 5));
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let (_session, sessions) = watch::channel(Some(session));
        let propagation = Propagation { followers: Arc::new(Laggard), places: None, gateways: None, endpoint: None };
        let rotation = AuthorityRotation::new(sessions.clone(), Arc::new(Alone), propagation, clock);
        tokio::spawn(keep(sessions, Arc::new(rotation), Arc::default()));
        for _ in 0..20 {
            if active(AuthorityKind::Jwt) != key {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        assert_ne!(active(AuthorityKind::Jwt), key);
        assert_eq!(active(AuthorityKind::X509), root, "somebody does not have the other one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_what_is_prepared_is_shown_as_long_as_it_is_prepared_and_this_replica_active() {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 1);
        let state = claimed.state.clone().unwrap();
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let (publish, sessions) = watch::channel(Some(session));
        let propagation = Propagation { followers: Arc::new(Laggard), places: None, gateways: None, endpoint: None };
        let rotation = AuthorityRotation::new(sessions.clone(), Arc::new(Alone), propagation, Arc::clone(&clock) as _);
        let metrics = Arc::new(Metrics::new());
        tokio::spawn(keep(sessions, Arc::new(rotation), Arc::clone(&metrics)));
        let shown = || {
            let page = metrics.encode();
            page.lines().filter(|line| line.contains("{certificate=\"prepared_")).map(str::to_owned).collect::<Vec<_>>()
        };
        sleep(LOOK_EVERY).await;
        assert_eq!(shown(), [""; 0]);

        let take = |kind, wanted: &WantedStep| {
            let now = clock.now();
            let step = state.step(kind, wanted, |found, step| {
                Ok::<_, RotationError>(Some(found.authorities.after_by_force(step, now)?))
            });
            step.unwrap();
        };
        take(AuthorityKind::X509, &WantedStep::Prepare);
        take(AuthorityKind::Jwt, &WantedStep::Prepare);
        let ends = [("prepared_authority", AuthorityKind::X509), ("prepared_jwt_key", AuthorityKind::Jwt)];
        let expected = ends.map(|(certificate, kind)| {
            let end = prepared_end(&state, kind).unwrap().unwrap().seconds();
            format!("countersign_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} {end}")
        });
        sleep(LOOK_EVERY * 2).await;
        let mut both = shown();
        both.sort();
        assert_eq!(both, expected);

        let prepared = state.kind_state(AuthorityKind::X509).unwrap().authorities;
        let prepared = prepared.slots().iter().find(|slot| slot.phase == Phase::Prepared).unwrap().id.clone();
        take(AuthorityKind::X509, &WantedStep::Activate(prepared));
        sleep(LOOK_EVERY * 2).await;
        assert_eq!(shown(), expected[1..]);
        publish.send_replace(None);
        sleep(LOOK_EVERY).await;
        assert_eq!(shown(), [""; 0], "another replica is to say so now");
    }

    #[tokio::test(start_paused = true)]
    async fn an_imported_intermediate_is_not_followed_by_a_root_that_nobody_asked_for_and_an_alert_can_see_it() {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        drop(claim(&state(&store, Origin::SelfSigned, &clock), 1));
        // as an import leaves it
        let mut content = store.json(StateObject::Authority);
        let root = content["certificate"].clone();
        content["rotation"]["active"]["roots"] = serde_json::json!([root]);
        store.set_text(StateObject::Authority, &content.to_string());
        let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 2);
        let state = claimed.state.clone().unwrap();
        clock.forward(Duration::from_secs(24 * 3600) * (3650 - 20));
        let session = Arc::new(SigningSession::new(Term::new(2), claimed, None));
        let (publish, sessions) = watch::channel(Some(session));
        let propagation = Propagation { followers: Arc::new(Laggard), places: None, gateways: None, endpoint: None };
        let rotation = AuthorityRotation::new(sessions.clone(), Arc::new(Alone), propagation, clock);
        let rotation = Arc::new(rotation);
        let refused = rotation.take_due_step(&state, AuthorityKind::X509).unwrap_err();
        assert!(matches!(refused, RotationError::Intermediate(_)) && !refused.is_wait(), "{refused}");
        let metrics = Arc::new(Metrics::new());
        tokio::spawn(keep(sessions, rotation, Arc::clone(&metrics)));
        let shown = |value: u8| format!("countersign_rotation_refused{{authority=\"x509\"}} {value}\n");
        for _ in 0..20 {
            if metrics.encode().contains(&shown(1)) {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        assert!(metrics.encode().contains(&shown(1)), "{}", metrics.encode());
        assert_eq!(state.kind_state(AuthorityKind::X509).unwrap().authorities.slots().len(), 1);
        publish.send_replace(None);
        sleep(LOOK_EVERY).await;
        assert!(!metrics.encode().contains("countersign_rotation_refused{"), "another replica is to say so now");
    }

    #[tokio::test(start_paused = true)]
    async fn another_root_of_istiod_is_published_as_soon_as_it_is_known() {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let [old, new] = std::array::from_fn(|_| Arc::new(authority().bundle().clone()));
        let (mesh, roots) = watch::channel(Some(old));
        let (_read, read_in) = watch::channel(Some(Term::new(1)));
        let origin = Origin::Istiod(MeshRoots { known: roots, read_in });
        let claimed = claim(&state(&store, origin, &clock), 1);
        let mut trust = claimed.trust.clone();
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let (_session, sessions) = watch::channel(Some(session));
        let propagation = Propagation { followers: Arc::new(Nobody), places: None, gateways: None, endpoint: None };
        let rotation = AuthorityRotation::new(sessions.clone(), Arc::new(Alone), propagation, clock);
        tokio::spawn(keep(sessions, Arc::new(rotation), Arc::default()));
        sleep(LOOK_EVERY / 4).await;
        let begun = Instant::now();
        mesh.send_replace(Some(Arc::clone(&new)));
        let is_new = |trust: &Option<Arc<PublishedTrust>>| trust.as_ref().is_some_and(|trust| trust.has_roots(&new));
        trust.wait_for(is_new).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_signs_only_when_those_who_federate_could_have_read_it_here_however_long_ago_it_was_made() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        const HINT: Duration = Duration::from_secs(300);
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 1);
        let (state, trust) = (claimed.state.clone().unwrap(), claimed.trust.clone());
        let active = || {
            let slots = state.kind_state(AuthorityKind::Jwt).unwrap().authorities;
            slots.slots().iter().find(|slot| slot.phase == Phase::Active).unwrap().id.clone()
        };
        let first = active();
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let (_session, sessions) = watch::channel(Some(session));
        let offers = Arc::new(BundleOffers::new(HINT));
        let endpoint = Some(Arc::clone(&offers));
        let propagation = Propagation { followers: Arc::new(Nobody), places: None, gateways: None, endpoint };
        let rotation = AuthorityRotation::new(sessions.clone(), Arc::new(Alone), propagation, Arc::clone(&clock) as _);
        tokio::spawn(keep(sessions, Arc::new(rotation), Arc::default()));
        // the next one is made; then it is to sign, and no endpoint was there all the days between
        clock.forward(20 * DAY);
        sleep(LOOK_EVERY * 2).await;
        clock.forward(6 * DAY);
        sleep(HINT * 4).await;
        assert_eq!(active(), first, "nobody could read it");
        tokio::spawn(async move { match offers.follow(trust).await {} });
        sleep(HINT * 2).await;
        assert_eq!(active(), first);
        for _ in 0..20 {
            if active() != first {
                return;
            }
            // this clock stands still by itself
            sleep(HINT / 5).await;
        }
        panic!("three times the hint have passed");
    }
}
