//! What the pair publishes for others to verify by, followed by the agent, wired.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::{Notify, watch};

use super::{AgentFailed, spawn};
use crate::{
    domain::{identity::TrustDomain, random::SecureRandom},
    grpc::{
        ca_client::{CaClient, CaEndpoint},
        trust_client::FollowedAuthority,
        workload_server::ServedTrust,
    },
    runtime::{
        seams::{RingRandom, SystemClock},
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        ca_roots::{FollowedRoots, RootsFollower, followed_roots},
        svid_publisher::IdentityReceiver,
        tainted_renewal::renew_when_tainted,
        trust_follower::TrustFollower,
    },
};

/// Where the trust bundle is from, if not from the CA's answers.
pub(super) struct BundleRoots {
    /// For the publisher.
    pub(super) roots: FollowedRoots,
    /// For whoever follows the pair; `None` when another source was configured.
    follower: Option<RootsFollower>,
}

/// What the CA publishes.
pub(super) struct FollowedTrust {
    /// On the socket.
    pub(super) served: ServedTrust,
    /// Whether it has said that this is nothing.
    pub(super) has_nothing: watch::Receiver<bool>,
}

impl BundleRoots {
    /// Of the `configured` source, or of the pair.
    pub(super) fn new(configured: Option<FollowedRoots>) -> Self {
        if let Some(roots) = configured {
            return Self { roots, follower: None };
        }
        let (follower, roots) = followed_roots("the pair's trust");
        Self { roots, follower: Some(follower) }
    }

    /// Has the CA at `endpoints` followed as soon as there is an identity, which proves whose the socket is; and what is tainted
    /// renewed.
    pub(super) fn follow(
        self,
        authority: &Arc<CaClient>,
        endpoints: Vec<CaEndpoint>,
        trust_domain: TrustDomain,
        (identity, renew_now): (IdentityReceiver, Arc<Notify>),
        (shutdown, supervisor): (&Shutdown, &mut Supervisor),
    ) -> Result<FollowedTrust, AgentFailed> {
        let random = Arc::new(RingRandom::new());
        let source = FollowedAuthority::new(Arc::clone(authority), endpoints, instance(random.as_ref())?);
        let served = watch::Sender::new(0);
        let (seen, shared) = (served.subscribe(), Arc::clone(&random) as _);
        let (follower, trust) = TrustFollower::new(Arc::new(source), trust_domain, self.follower, seen, shared);
        let (has_nothing, was_asked) = (follower.has_nothing(), Some(follower.was_asked()));
        let mut first = identity.clone();
        let asked = shutdown.clone();
        supervisor.spawn("trust", async move {
            let has_identity = tokio::select! {
                first = first.wait_for(Option::is_some) => first.is_ok(),
                () = asked.requested() => false,
            };
            if has_identity {
                follower.run(asked.requested()).await;
            }
            asked.requested().await;
            Ok::<_, Infallible>(())
        });
        let renew = renew_when_tainted(trust.clone(), identity, renew_now, (Arc::new(SystemClock), random));
        spawn(supervisor, "tainted renewal", async move { match renew.await {} }, shutdown);
        Ok(FollowedTrust { served: ServedTrust { trust, served, was_asked }, has_nothing })
    }
}

/// A name for this process among others of its identity.
pub(super) fn instance(random: &dyn SecureRandom) -> Result<String, AgentFailed> {
    let mut instance = [0; 8];
    random.fill(&mut instance).map_err(AgentFailed::of)?;
    Ok(instance.iter().map(|byte| format!("{byte:02x}")).collect())
}
