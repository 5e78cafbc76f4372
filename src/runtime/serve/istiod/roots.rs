//! The roots that istiod is verified by, as they are delivered.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use crate::{
    domain::{identity::TrustDomain, x509::TrustBundle},
    runtime::{
        config::{IstiodConfig, ServeConfig},
        serve::until,
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::istiod_pass_on::KnownRoots,
};

/// What mounts a file tells nobody when it replaces it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Begins to follow them.
pub(super) fn start(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> watch::Receiver<KnownRoots> {
    let (roots, known) = watch::channel(KnownRoots::default());
    let (path, trust_domain) = (istiod.root_file.clone(), config.trust_domain.clone());
    supervisor.spawn("roots", until(shutdown, follow(path, trust_domain, roots)));
    known
}

/// Never returns. What is wrong with the file is logged once; those that were good last go on.
async fn follow(path: PathBuf, trust_domain: TrustDomain, roots: watch::Sender<KnownRoots>) {
    let mut seen = Vec::new();
    loop {
        let own = path.clone();
        let read = spawn_blocking(move || crate::storage::read_file(&own)).await;
        let read = read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
        let found = match read {
            Ok(pem) if pem == seen && roots.borrow().trouble.is_none() => None,
            Ok(pem) => {
                let bundle = TrustBundle::from_pem(trust_domain.clone(), &pem).map_err(|error| error.to_string());
                seen = pem;
                Some(bundle)
            }
            Err(error) => Some(Err(error)),
        };
        match found {
            Some(Ok(bundle)) => publish(&roots, bundle),
            Some(Err(error)) => miss(&roots, &format!("{}: {error}", path.display())),
            None => {}
        }
        sleep(LOOK_EVERY).await;
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
