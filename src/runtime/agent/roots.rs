//! Where the agent's roots come from, and that it asks for a new SVID when they change.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::AgentFailed;
use crate::{
    domain::random::{SecureRandom, part_of},
    grpc::ca_client::{CaRoots, RootSets},
    runtime::config::{AuthorityConfig, BundleSource, FollowedRootsConfig},
    service::{ca_roots::FollowedRoots, ports::BoxFuture},
};

/// All that is needed to verify a CA.
pub(super) struct Roots {
    /// For the client.
    pub(super) ca: CaRoots,
    /// What is to be the trust bundle, if not the CA's answers.
    pub(super) bundle: Option<FollowedRoots>,
    /// Follows the object that the mesh keeps them in; never ends.
    pub(super) follow: Option<BoxFuture<'static, ()>>,
}

/// What the object gives, and the work of following it.
type Followed = (FollowedRoots, BoxFuture<'static, ()>);

/// A change of the roots reaches every agent in the same instant; their requests are spread over this.
const SPREAD: Duration = Duration::from_secs(1);
/// So long a start waits for that object: nobody is told that Istio is missing only because the API server needs a moment.
const FIRST_READ: Duration = Duration::from_millis(300);

impl Roots {
    /// By the configuration. Nothing has been asked of the API server yet.
    pub(super) async fn new(config: &AuthorityConfig) -> Result<Self, AgentFailed> {
        let followed = match &config.followed_roots {
            Some(wanted) => follow(wanted).await?,
            None => None,
        };
        let (roots, follow) = followed.unzip();
        let bundle = roots.clone().filter(|_| config.bundle_source == BundleSource::Followed);
        Ok(Self { ca: CaRoots::new(roots, Some(config.root_file.clone())), bundle, follow })
    }
}

/// Has a new SVID asked for whenever the roots change: the answer brings the CA's new trust bundle, and the SVID may need to be
/// one by a new root. Never returns.
pub(super) async fn renew_on_change(roots: Arc<CaRoots>, renew_now: Arc<Notify>, random: Arc<dyn SecureRandom>) {
    let mut known = RootSets::new();
    // those that are there are what the first request goes by
    let _late = timeout(FIRST_READ, roots.changed(&mut known)).await;
    loop {
        let had_none = known.is_empty();
        roots.changed(&mut known).await;
        if !had_none {
            sleep(part_of(SPREAD, random.as_ref())).await;
        }
        renew_now.notify_one();
    }
}

/// Waits a moment for roots, so that the first request does not go out in vain.
pub(super) async fn await_first(roots: &CaRoots) {
    let _none_yet = timeout(FIRST_READ, roots.changed(&mut RootSets::new())).await;
}

#[cfg(feature = "kubernetes")]
async fn follow(wanted: &FollowedRootsConfig) -> Result<Option<Followed>, AgentFailed> {
    use crate::k8s::{client::client, mesh_roots::MeshRoots};

    let client = match client(wanted.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error) if wanted.chosen => return Err(AgentFailed(format!("the mesh's roots can't be followed: {error}"))),
        Err(error) => {
            tracing::warn!(event = "mesh_roots_not_followed", %error, "the root file is the only source of roots");
            return Ok(None);
        }
    };
    let (followed, roots) = MeshRoots::new(client, &wanted.object);
    Ok(Some((roots, Box::pin(followed.follow()))))
}

/// The configuration refuses one in this build.
#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "with Kubernetes it waits")]
async fn follow(_wanted: &FollowedRootsConfig) -> Result<Option<Followed>, AgentFailed> {
    Ok(None)
}
