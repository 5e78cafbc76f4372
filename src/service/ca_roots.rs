//! Roots that somebody else keeps up to date, as far as they are known here: what the certificate of a CA is verified to. Who
//! follows them, and where, is an edge's.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::domain::x509::{Certificate, CertificateError};

/// The object of an API server in which a mesh keeps its roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootsObject {
    /// A ConfigMap, with the roots under `root-cert.pem`.
    ConfigMap {
        /// Its namespace, unless the pod's or the kubeconfig's own.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// A ClusterTrustBundle.
    ClusterTrustBundle {
        /// Its name, which begins with that of its signer.
        name: String,
    },
}

/// What is known of followed roots, for those who use them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FollowedRoots {
    known: watch::Receiver<Known>,
    look: Arc<Notify>,
    look_now: Arc<Notify>,
    looks: watch::Receiver<Looks>,
}

/// The side of whoever follows them.
#[derive(Debug)]
pub struct RootsFollower {
    known: watch::Sender<Known>,
    look: Arc<Notify>,
    look_now: Arc<Notify>,
    looks: watch::Sender<Looks>,
}

/// How often they were read anew.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    count: u64,
    /// Whether good ones were there the last time.
    has_roots: bool,
}

#[derive(Clone, Debug)]
struct Known {
    /// PEM, at least one certificate.
    roots: Option<Arc<[u8]>>,
    absence: Arc<str>,
}

/// Roots to be followed at `place`, as messages name it. Nothing is known of them yet.
pub fn followed_roots(place: &str) -> (RootsFollower, FollowedRoots) {
    let known = watch::Sender::new(Known { roots: None, absence: format!("{place} has not been read yet").into() });
    let (looks, looked) = watch::channel(Looks::default());
    let (look, look_now) = <(Arc<Notify>, Arc<Notify>)>::default();
    let (known_to_users, ways) = (known.subscribe(), (Arc::clone(&look), Arc::clone(&look_now)));
    let receiver = FollowedRoots { known: known_to_users, look: ways.0, look_now: ways.1, looks: looked };
    (RootsFollower { known, look, look_now, looks }, receiver)
}

impl FollowedRoots {
    /// The newest that were good, PEM.
    ///
    /// # Errors
    ///
    /// Why there are none, as long as there never were.
    pub fn newest(&self) -> Result<Arc<[u8]>, Arc<str>> {
        let known = self.known.borrow();
        known.roots.clone().ok_or_else(|| Arc::clone(&known.absence))
    }

    /// They seem to be outdated: whoever follows them looks at once.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// Has them read anew, however lately that was done, and waits until it is; for ever while it fails. Returns whether there
    /// were good ones.
    pub async fn look_now(&mut self) -> bool {
        let mut has_roots = false;
        // the first look may have been under way before
        for _ in 0..2 {
            let before = self.looks.borrow_and_update().count;
            self.look_now.notify_one();
            let looked = self.looks.wait_for(|looks| looks.count != before).await.map(|looks| looks.has_roots);
            has_roots = match looked {
                Ok(has_roots) => has_roots,
                Err(_nobody_follows) => std::future::pending().await,
            };
        }
        has_roots
    }

    /// Waits until something else is known; for ever when nobody follows them any more.
    pub async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl RootsFollower {
    /// What is there now. Returns whether it is news.
    ///
    /// # Errors
    ///
    /// When it is not certificates, one after the other; those that were known before stay then.
    pub fn found(&self, pem: &[u8]) -> Result<bool, CertificateError> {
        Certificate::all_from_pem(pem)?;
        Ok(self.known.send_if_modified(|known| {
            let is_news = known.roots.as_deref() != Some(pem);
            if is_news {
                known.roots = Some(pem.into());
            }
            is_news
        }))
    }

    /// There is nothing that could be used, and why. Those that were known before stay.
    pub fn missed(&self, why: &str) {
        self.known.send_if_modified(|known| {
            let is_news = known.roots.is_none() && *known.absence != *why;
            if is_news {
                known.absence = why.into();
            }
            is_news
        });
    }

    /// Nothing is known of them any more, and why.
    pub fn forget(&self, why: &str) {
        self.known.send_if_modified(|known| {
            let is_news = known.roots.take().is_some();
            known.absence = why.into();
            is_news
        });
    }

    /// They have been read anew, and whether good ones were there.
    pub fn looked(&self, has_roots: bool) {
        self.looks.send_modify(|looks| *looks = Looks { count: looks.count + 1, has_roots });
    }

    /// Notified when somebody wants it looked at soon.
    pub fn wanted(&self) -> &Notify {
        &self.look
    }

    /// Notified when somebody waits for it to be looked at.
    pub fn wanted_now(&self) -> &Notify {
        &self.look_now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::authority;

    #[tokio::test]
    async fn the_newest_good_ones_stay_whatever_is_found_later() {
        let (follower, mut roots) = followed_roots("ConfigMap a/b");
        assert_eq!(&*roots.newest().unwrap_err(), "ConfigMap a/b has not been read yet");
        follower.missed("ConfigMap a/b: not found");
        roots.changed().await;
        assert_eq!(&*roots.newest().unwrap_err(), "ConfigMap a/b: not found");

        let (old, new) = (authority().bundle().to_pem(), authority().bundle().to_pem());
        assert_eq!(follower.found(old.as_bytes()), Ok(true));
        assert_eq!(follower.found(old.as_bytes()), Ok(false));
        assert_eq!(&*roots.newest().unwrap(), old.as_bytes());
        for bad in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(follower.found(bad.as_bytes()).is_err(), "{bad}");
        }
        follower.missed("gone");
        assert_eq!(&*roots.newest().unwrap(), old.as_bytes());
        assert_eq!(follower.found(new.as_bytes()), Ok(true));
        assert_eq!(&*roots.newest().unwrap(), new.as_bytes());
    }

    #[tokio::test]
    async fn a_wish_to_look_is_not_lost_while_nobody_listens() {
        let (follower, roots) = followed_roots("x");
        roots.look_again();
        roots.look_again();
        follower.wanted().notified().await;
    }
}
