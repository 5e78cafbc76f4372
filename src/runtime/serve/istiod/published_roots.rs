//! What the bundle endpoint tells where istiod signs: the mesh's roots.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    domain::{bundle::SpiffeBundle, x509::TrustBundle},
    runtime::{serve::until, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        istiod_pass_on::KnownRoots,
        published_trust::{PublishedTrust, TrustReceiver},
    },
};

/// Follows `known`; others are asked to read it each `hint`.
pub(super) fn published(
    mut known: watch::Receiver<KnownRoots>,
    hint: Duration,
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> TrustReceiver {
    let (told, trust) = watch::channel(None);
    supervisor.spawn(
        "published roots",
        until(shutdown, async move {
            loop {
                let bundle = known.borrow_and_update().bundle.clone();
                if let Some(bundle) = bundle {
                    told.send_replace(Some(Arc::new(PublishedTrust {
                        own: of_mesh(&bundle, hint),
                        tainted: Vec::new(),
                        federated: Vec::new(),
                    })));
                }
                if known.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }),
    );
    trust
}

/// Without a sequence: replicas have no state in common that could count, and of such bundles the one that was read last counts
/// (SPIFFE Federation 4.2).
fn of_mesh(bundle: &TrustBundle, hint: Duration) -> SpiffeBundle {
    SpiffeBundle {
        trust_domain: bundle.trust_domain().clone(),
        x509_authorities: bundle.roots().to_vec(),
        jwt_authorities: Vec::new(),
        sequence: None,
        refresh_hint: Some(hint),
    }
}
