//! Who is active among replicas that sign nothing.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::watch;

use crate::{
    domain::leadership::{HolderId, Machine, Role, Tenure},
    k8s::{client::client, lease_store::LeaseStore},
    runtime::{
        config::IstiodClusterConfig,
        serve::{
            Seams, ServeFailed,
            kubernetes::{LEASE, on, suffix},
            until,
        },
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        leadership::{Hints, Standing},
        lease_term::{LeaseTerm, TermReceiver},
        metrics::Metrics,
        readiness::{Latch, Readiness},
        state_manifest::StateManifest,
    },
};

/// An election that nobody drives yet, and whether it has made this replica the active one.
pub(super) struct Joined {
    pub(super) election: LeaseTerm,
    pub(super) held: TermReceiver,
    /// The pair's.
    pub(super) namespace: String,
}

/// Makes it.
pub(super) async fn join(
    cluster: &IstiodClusterConfig,
    seams: &Seams,
    readiness: &Readiness,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<Joined, ServeFailed> {
    let kubeconfig = cluster.kubeconfig.clone();
    let client = seams.control.spawn(async move { client(kubeconfig.as_deref()).await });
    let client = client.await.map_err(ServeFailed::of)?.map_err(ServeFailed::of)?;
    let namespace = cluster.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let replica = format!("{}-{}", cluster.replica_uid, suffix(seams.random.as_ref())?);
    let (clock, manifest) = (Arc::clone(&seams.clock), Arc::new(StateManifest::default()));
    let lease = LeaseStore::new(client, &namespace, LEASE, cluster.lease, None, manifest, Arc::clone(&clock));
    let (lease, hints) = (Arc::new(lease), Hints::new());
    let watching = on(&seams.control, Arc::clone(&lease).watch(hints.clone()));
    supervisor.spawn("lease watch", until(shutdown, watching));
    let holder = HolderId::parse(&replica).map_err(ServeFailed::of)?;
    let machine = Machine::new(Tenure::Lease(cluster.lease), holder, clock.boot());
    let (election, held, standing) = LeaseTerm::new(machine, lease, hints, clock);
    let (latch, metrics) = (readiness.latch("term", "the election has not begun"), Arc::clone(&seams.metrics));
    supervisor.spawn("standing", until(shutdown, async move { match show(standing, latch, metrics).await {} }));
    Ok(Joined { election, held, namespace })
}

/// Requests are passed on whoever is active, so nothing of this keeps a replica from being ready.
async fn show(mut standing: watch::Receiver<Standing>, latch: Latch, metrics: Arc<Metrics>) -> Infallible {
    loop {
        let Standing { role, term, trouble } = standing.borrow_and_update().clone();
        match (role, term) {
            (Role::Active, Some(term)) => {
                metrics.set_role(true, term);
                latch.ready(format!("active in term {term}"));
            }
            _ => {
                metrics.set_inactive();
                latch.ready(trouble.map_or_else(|| "standby".to_owned(), |trouble| format!("standby; {trouble}")));
            }
        }
        if standing.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
