//! The roots of a mesh whose istiod signs, for what the active keeps: those of the object in which the mesh keeps them, in each
//! term as they were read in it. What came with a certificate would be as old as that.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    bundle_distribution::{Trust, Trusted},
    ca_roots::FollowedRoots,
    istiod_pass_on::KnownRoots,
    pair_trust::TrustSession,
    waiting::next,
};
use crate::domain::{identity::TrustDomain, leadership::Term, x509::TrustBundle};

/// The roots of now.
#[derive(Clone)]
pub(crate) struct MeshTrust {
    pub(crate) trust_domain: TrustDomain,
    /// In which the mesh keeps them.
    pub(crate) object: FollowedRoots,
    /// What istiod is verified by: the same, or a file as long as the object could never be read.
    pub(crate) known: watch::Receiver<KnownRoots>,
}

/// So long a new term waits for the object, which this replica may have no right to list, or which may not be there.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

impl Trusted for MeshTrust {
    fn now(&self) -> Option<Trust> {
        let newest = self.object.newest().ok();
        let newest = newest.and_then(|pem| TrustBundle::from_pem(self.trust_domain.clone(), &pem).ok());
        let bundle = newest.or_else(|| self.known.borrow().bundle.as_deref().cloned())?;
        Some(Trust { roots_pem: bundle.to_pem(), bundle })
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.object.changed() => {}
            () = next(&mut self.known) => {}
        }
    }
}

/// Tells them as they change, once the object has been read, or could not be for a while; and of each term when the object was read
/// in it. Until then what is told may be older than what another replica has read in the object and published, as a file always
/// may. Never returns.
pub(crate) async fn tell_roots<S: TrustSession>(
    mut trust: MeshTrust,
    mut sessions: watch::Receiver<Option<Arc<S>>>,
    told: watch::Sender<Option<Arc<TrustBundle>>>,
    read_in: watch::Sender<Option<Term>>,
) -> Infallible {
    let read = async {
        while trust.object.newest().is_err() {
            trust.object.changed().await;
        }
    };
    if timeout(LOOK_LIMIT, read).await.is_err() {
        warn!(event = "mesh_roots_not_read", "the bundle is told with the roots that are known");
    }
    loop {
        let term = sessions.borrow_and_update().as_ref().map(|session| session.term());
        let mut reading = pin!(read_now(trust.object.clone()));
        let mut is_read = false;
        loop {
            let newest = trust.now().map(|now| Arc::new(now.bundle));
            set(&told, newest);
            if is_read {
                // after what was read
                set(&read_in, term);
            }
            tokio::select! {
                () = trust.changed() => {}
                () = &mut reading, if term.is_some() && !is_read => is_read = true,
                () = next(&mut sessions) => break,
            }
        }
    }
}

/// Returns when roots were read in the object, after this was called.
async fn read_now(mut object: FollowedRoots) {
    while !object.look_now().await {
        sleep(LOOK_LIMIT).await;
    }
}

fn set<T: PartialEq>(told: &watch::Sender<T>, newest: T) {
    told.send_if_modified(|told| {
        let is_news = *told != newest;
        *told = newest;
        is_news
    });
}

/// Tells of each term when the object has been read in it. Whoever was active before may have written by roots that this replica
/// has not been told of yet, and older ones must not take their place. Never returns.
pub(crate) async fn tell_terms<T: Clone + Send + Sync>(
    mut terms: watch::Receiver<Option<T>>,
    mut object: FollowedRoots,
    told: watch::Sender<Option<T>>,
) -> Infallible {
    loop {
        told.send_replace(None);
        let term = terms.borrow_and_update().clone();
        if let Some(term) = term {
            tokio::select! {
                looked = timeout(LOOK_LIMIT, object.look_now()) => {
                    if looked.is_err() {
                        warn!(event = "mesh_roots_not_read", "what is kept for gateways goes on with the roots that are known");
                    }
                    told.send_replace(Some(term));
                }
                () = next(&mut terms) => continue,
            }
        }
        next(&mut terms).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{
        domain::authority::testing::authority,
        service::{ca_roots::followed_roots, published_trust::TrustReceiver},
    };

    struct Session(Term);

    impl TrustSession for Session {
        fn term(&self) -> Term {
            self.0
        }

        fn trust(&self) -> TrustReceiver {
            watch::channel(None).1
        }
    }

    fn roots(trust: &MeshTrust) -> Option<String> {
        trust.now().map(|trust| trust.roots_pem)
    }

    #[tokio::test]
    async fn the_object_counts_as_soon_as_it_is_read_and_until_then_what_istiod_is_verified_by() {
        let [file, old, new] = std::array::from_fn(|_| authority().bundle().clone());
        let (follower, object) = followed_roots("ConfigMap a/b");
        let (known, of_istiod) = watch::channel(KnownRoots::default());
        let trust_domain: TrustDomain = "cluster.local".parse().unwrap();
        let mut trust = MeshTrust { trust_domain, object, known: of_istiod };
        assert_eq!(roots(&trust), None);
        known.send_replace(KnownRoots { bundle: Some(Arc::new(file.clone())), trouble: None });
        trust.changed().await;
        assert_eq!(roots(&trust), Some(file.to_pem()));
        for bundle in [&old, &new] {
            follower.found(bundle.to_pem().as_bytes()).unwrap();
            trust.changed().await;
            assert_eq!(roots(&trust), Some(bundle.to_pem()));
        }
        follower.missed("deleted");
        assert_eq!(roots(&trust), Some(new.to_pem()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_tells_nothing_before_the_object_could_have_been_read() {
        let [file, new] = std::array::from_fn(|_| Arc::new(authority().bundle().clone()));
        for answers in [true, false] {
            let (follower, object) = followed_roots("ConfigMap a/b");
            let (_known, known) = watch::channel(KnownRoots { bundle: Some(Arc::clone(&file)), trouble: None });
            let trust = MeshTrust { trust_domain: "cluster.local".parse().unwrap(), object, known };
            let (told, mut roots) = watch::channel(None);
            let ((_sessions, sessions), (read, _read_in)) =
                (watch::channel(None::<Arc<Session>>), watch::channel(None));
            let telling = tokio::spawn(tell_roots(trust, sessions, told, read));
            follower.missed("ConfigMap a/b: timed out");
            sleep(LOOK_LIMIT / 2).await;
            assert_eq!(*roots.borrow(), None, "the object may say something else");
            let expected = if answers {
                follower.found(new.to_pem().as_bytes()).unwrap();
                &new
            } else {
                &file
            };
            assert_eq!(*roots.wait_for(Option::is_some).await.unwrap(), Some(Arc::clone(expected)));
            telling.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn roots_count_as_read_in_a_term_once_the_object_had_some_after_it_began_and_are_told_before_that() {
        let [file, old, new] = std::array::from_fn(|_| Arc::new(authority().bundle().clone()));
        let (follower, object) = followed_roots("ConfigMap a/b");
        let (_known, known) = watch::channel(KnownRoots { bundle: Some(file), trouble: None });
        let trust = MeshTrust { trust_domain: "cluster.local".parse().unwrap(), object, known };
        let ((told, roots), (read, mut read_in)) = (watch::channel(None), watch::channel(None));
        let (begin, sessions) = watch::channel(None);
        let telling = tokio::spawn(tell_roots(trust, sessions, told, read));
        follower.found(old.to_pem().as_bytes()).unwrap();
        for (number, has_roots) in [(1, true), (2, false), (3, true)] {
            let last = *read_in.borrow();
            begin.send_replace(Some(Arc::new(Session(Term::new(number)))));
            follower.wanted_now().notified().await;
            follower.looked(true);
            follower.wanted_now().notified().await;
            assert_eq!(*read_in.borrow(), last, "a look that was on its way is none of term {number}");
            follower.found(new.to_pem().as_bytes()).unwrap();
            follower.looked(has_roots);
            if has_roots {
                read_in.wait_for(|term| *term == Some(Term::new(number))).await.unwrap();
                assert_eq!(*roots.borrow(), Some(Arc::clone(&new)));
            }
            sleep(LOOK_LIMIT / 2).await;
            assert_eq!(*read_in.borrow(), if has_roots { Some(Term::new(number)) } else { last });
        }
        telling.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_is_told_of_when_the_object_was_read_in_it_and_soon_when_it_cannot_be_read() {
        let (follower, object) = followed_roots("ConfigMap a/b");
        let (terms, held) = watch::channel(None);
        let (told, mut term) = watch::channel(None);
        follower.looked(true);
        let telling = tokio::spawn(tell_terms(held, object, told));
        for number in 1..=2 {
            terms.send_replace(Some(number));
            follower.wanted_now().notified().await;
            sleep(Duration::from_secs(5)).await;
            assert_eq!(*term.borrow(), None, "what was read before is too old");
            follower.looked(true);
            follower.wanted_now().notified().await;
            assert_eq!(*term.borrow(), None, "it may have been on its way before");
            follower.looked(true);
            term.wait_for(|term| *term == Some(number)).await.unwrap();
            terms.send_replace(None);
            term.wait_for(Option::is_none).await.unwrap();
        }
        terms.send_replace(Some(3));
        sleep(Duration::from_secs(5)).await;
        terms.send_replace(None);
        sleep(2 * LOOK_LIMIT).await;
        assert_eq!(*term.borrow(), None, "it was over before");
        let began = Instant::now();
        terms.send_replace(Some(4));
        term.wait_for(|term| *term == Some(4)).await.unwrap();
        assert_eq!(began.elapsed(), LOOK_LIMIT);
        telling.abort();
    }
}
