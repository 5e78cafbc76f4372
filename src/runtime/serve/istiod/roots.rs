//! The roots that istiod is verified by, as they are delivered: by a watch of an object in Kubernetes, else in a file.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{
    domain::{identity::TrustDomain, x509::TrustBundle},
    grpc::ca_client::{CaRoots, RootSets},
    runtime::{
        config::{IstiodConfig, ServeConfig},
        serve::{ServeFailed, until},
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{ca_roots::FollowedRoots, istiod_pass_on::KnownRoots},
};

/// While there are none, what each place lacks is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The roots, as they are followed.
pub(super) struct Roots {
    /// Where they come from.
    pub(super) places: Arc<CaRoots>,
    /// What is known of them.
    pub(super) known: watch::Receiver<KnownRoots>,
    /// In Kubernetes, the object that tells of them.
    #[cfg(feature = "kubernetes")]
    pub(super) object: Option<FollowedRoots>,
}

/// Begins to follow them. The file counts only as long as the object was never read: kubelet is late with it.
#[cfg_attr(not(feature = "kubernetes"), expect(clippy::unused_async, reason = "only Kubernetes has such objects"))]
pub(super) async fn start(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<Roots, ServeFailed> {
    let object: Option<FollowedRoots> = match &istiod.cluster {
        #[cfg(feature = "kubernetes")]
        Some(cluster) => {
            use crate::k8s::{client::client, mesh_roots::MeshRoots};
            let client = client(cluster.kubeconfig.as_deref()).await.map_err(ServeFailed::of)?;
            let (roots, followed) = MeshRoots::new(client, &cluster.roots);
            supervisor.spawn("mesh's roots", until(shutdown, roots.follow()));
            Some(followed)
        }
        _ => None,
    };
    let places = Arc::new(CaRoots::new(object.clone(), Some(istiod.root_file.clone())));
    let (roots, known) = watch::channel(KnownRoots::default());
    supervisor.spawn("roots", until(shutdown, follow(Arc::clone(&places), config.trust_domain.clone(), roots)));
    Ok(Roots {
        places,
        known,
        #[cfg(feature = "kubernetes")]
        object,
    })
}

/// Never returns.
async fn follow(places: Arc<CaRoots>, trust_domain: TrustDomain, roots: watch::Sender<KnownRoots>) {
    let mut sets = RootSets::new();
    loop {
        match places.newest().await.map(|newest| newest.into_iter().next()) {
            Ok(Some(newest)) => match TrustBundle::from_pem(trust_domain.clone(), &newest) {
                Ok(bundle) => publish(&roots, bundle),
                Err(error) => miss(&roots, &error.to_string()),
            },
            Ok(None) => {}
            Err(absence) => miss(&roots, &absence),
        }
        let has_none = roots.borrow().bundle.is_none();
        tokio::select! {
            () = places.changed(&mut sets) => {}
            () = sleep(LOOK_EVERY), if has_none => {}
        }
    }
}

fn publish(roots: &watch::Sender<KnownRoots>, bundle: TrustBundle) {
    roots.send_if_modified(|known| {
        let is_news = known.bundle.as_deref() != Some(&bundle) || known.trouble.is_some();
        if is_news {
            info!(event = "istiod_roots", count = bundle.roots().len());
            *known = KnownRoots { bundle: Some(Arc::new(bundle)), trouble: None };
        }
        is_news
    });
}

fn miss(roots: &watch::Sender<KnownRoots>, trouble: &str) {
    roots.send_if_modified(|known| {
        let is_news = known.trouble.as_deref() != Some(trouble);
        if is_news {
            warn!(event = "istiod_roots_unreadable", reason = trouble, "going on with those that are known");
            known.trouble = Some(trouble.into());
        }
        is_news
    });
}
