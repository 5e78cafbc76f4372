//! What is published for others to verify by, wired: known on every replica, told to whoever follows.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::watch;

use super::{identities::OwnIdentities, plugged_in::Follower, signing::Signing, until};
use crate::{
    domain::{identity::SpiffeId, x509::TrustBundle},
    grpc::{pair_trust::PairTrustAccess, trust_service::TrustAccess, workload_server::ServedTrust},
    runtime::{shutdown::Shutdown, supervisor::Supervisor},
    service::{
        ca_roots::{FollowedRoots, RootsFollower, followed_roots},
        pair_trust::{KeptTrust, PairTrust},
        published_trust::{TrustReceiver, tell_with_roots},
        signing_state::MeshRootsReceiver,
        tainted_renewal::renew_when_tainted,
        trust_followers::{self, TrustFollowers},
        waiting::next,
    },
};

/// What the parts of a replica have of it.
#[derive(Clone)]
pub(super) struct ReplicaTrust {
    /// By the active.
    pub(super) published: TrustReceiver,
    /// The same, and what this replica itself knows of the mesh's roots.
    pub(super) agents: TrustAccess,
    pub(super) replicas: PairTrustAccess,
    /// How this process is called among the replicas.
    replica: Arc<str>,
}

impl ReplicaTrust {
    /// Has this replica know it. Agents hear of `roots` as well, where somebody else's authority signs.
    pub(super) fn start(
        signing: &Signing,
        kept: Arc<dyn KeptTrust>,
        roots: Option<MeshRootsReceiver>,
        (shutdown, supervisor): (&Shutdown, &mut Supervisor),
    ) -> Self {
        let pair = Arc::clone(&signing.pair);
        let source = Arc::new(pair.trust());
        let followers = Arc::default();
        let (task, published) = PairTrust::new(pair, source, kept, Arc::clone(&followers));
        let known = task.with_terms();
        let sessions = signing.sessions.clone();
        let asked = shutdown.clone();
        supervisor.spawn("trust", async move {
            task.run(sessions, asked.requested()).await;
            Ok::<_, Infallible>(())
        });
        let trust = roots.map_or_else(
            || published.clone(),
            |roots| {
                let (told, trust) = watch::channel(None);
                let telling = tell_with_roots(published.clone(), roots, told);
                supervisor.spawn("trust of agents", until(shutdown, async move { match telling.await {} }));
                trust
            },
        );
        let proving = tell_proving_roots(trust.clone(), signing.proving.clone());
        supervisor.spawn("proving roots", until(shutdown, async move { match proving.await {} }));
        Self {
            published,
            agents: TrustAccess { trust, followers: Arc::clone(&followers) },
            replicas: PairTrustAccess { known, followers },
            replica: signing.create.replica().into(),
        }
    }

    /// Has a certificate of this replica renewed when its signer is tainted.
    pub(super) fn renew(
        &self,
        follower: &Follower,
        identities: &OwnIdentities,
        (shutdown, supervisor): (&Shutdown, &mut Supervisor),
    ) {
        let Follower { renew_now, identity } = follower;
        let seams = (Arc::clone(&identities.clock), Arc::clone(&identities.random));
        let renewing = renew_when_tainted(self.agents.trust.clone(), identity.clone(), Arc::clone(renew_now), seams);
        supervisor.spawn("tainted renewal", until(shutdown, async move { match renewing.await {} }));
    }
}

/// What the own workload socket serves of it.
pub(super) struct OwnSocketTrust {
    roots: FollowedRoots,
    follower: RootsFollower,
    trust: TrustReceiver,
    followers: Arc<TrustFollowers>,
    replica: Arc<str>,
}

impl OwnSocketTrust {
    pub(super) fn new(replica: &ReplicaTrust) -> Self {
        let (follower, roots) = followed_roots("the pair's trust");
        let TrustAccess { trust, followers } = replica.agents.clone();
        Self { roots, follower, trust, followers, replica: Arc::clone(&replica.replica) }
    }

    /// The roots that are to be published.
    pub(super) fn roots(&self) -> FollowedRoots {
        self.roots.clone()
    }

    /// Has it followed as `id`, in the name of this replica.
    pub(super) fn serve(self, id: SpiffeId, (shutdown, supervisor): (&Shutdown, &mut Supervisor)) -> ServedTrust {
        let served = watch::Sender::new(0);
        let seen = served.subscribe();
        let (trust, instance) = (self.trust.clone(), Arc::clone(&self.replica));
        let following = async move {
            let itself = trust_followers::Follower { identity: id, instance };
            follow(self, itself, seen).await;
        };
        supervisor.spawn("socket's trust", until(shutdown, following));
        ServedTrust { trust, served, was_asked: None }
    }
}

/// On every replica, active or not: a proof is looked at by whoever is asked.
async fn tell_proving_roots(mut trust: TrustReceiver, proving: watch::Sender<Option<Arc<TrustBundle>>>) -> Infallible {
    loop {
        let known = trust.borrow_and_update().clone();
        if let Some(roots) = known.and_then(|known| known.own_roots().ok()) {
            proving.send_replace(Some(Arc::new(roots)));
        }
        next(&mut trust).await;
    }
}

/// Hands each change on, and says what is served. Never returns.
async fn follow(own: OwnSocketTrust, itself: trust_followers::Follower, mut served: watch::Receiver<u64>) {
    let OwnSocketTrust { follower, mut trust, followers, .. } = own;
    // nobody goes by a socket that is not served here, as where another replica has the same one
    let mut stream = None;
    loop {
        let known = trust.borrow_and_update().clone();
        if let Some(roots) = known.and_then(|known| known.own_roots().ok()) {
            // what is in a bundle can be written and read
            let _is_news = follower.found(roots.to_pem().as_bytes()).is_ok_and(|is_news| is_news);
        }
        let sequence = *served.borrow_and_update();
        if sequence > 0 && stream.is_none() {
            stream = followers.open(itself.clone()).ok();
        }
        if let Some(stream) = &stream {
            stream.says(sequence);
        }
        tokio::select! {
            Ok(()) = trust.changed() => {}
            Ok(()) = served.changed() => {}
            else => std::future::pending::<()>().await,
        }
    }
}
