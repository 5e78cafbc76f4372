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
        ports::LeaseHolder,
        readiness::{Latch, Readiness},
        state_manifest::StateManifest,
    },
};

/// This replica among the others.
pub(super) struct Member {
    /// How it is called.
    pub(super) replica: String,
    /// The pair's.
    pub(super) namespace: String,
    /// Its term, while it is active.
    pub(super) held: TermReceiver,
    /// Who was last seen to be active.
    pub(super) holder: watch::Receiver<Option<LeaseHolder>>,
}

/// Makes it, with an election that nobody drives yet.
pub(super) async fn join(
    cluster: &IstiodClusterConfig,
    seams: &Seams,
    readiness: &Readiness,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<(Member, LeaseTerm), ServeFailed> {
    let kubeconfig = cluster.kubeconfig.clone();
    let client = seams.control.spawn(async move { client(kubeconfig.as_deref()).await });
    let client = client.await.map_err(ServeFailed::of)?.map_err(ServeFailed::of)?;
    let namespace = cluster.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let replica = format!("{}-{}", cluster.replica_uid, suffix(seams.random.as_ref())?);
    let (clock, manifest) = (Arc::clone(&seams.clock), Arc::new(StateManifest::default()));
    let own = cluster.policy.as_ref().map(|policy| policy.pair.address);
    let lease = LeaseStore::new(client, &namespace, LEASE, cluster.lease, own, manifest, Arc::clone(&clock));
    let (lease, hints) = (Arc::new(lease), Hints::new());
    let holder = lease.observed();
    let watching = on(&seams.control, Arc::clone(&lease).watch(hints.clone()));
    supervisor.spawn("lease watch", until(shutdown, watching));
    let name = HolderId::parse(&replica).map_err(ServeFailed::of)?;
    let machine = Machine::new(Tenure::Lease(cluster.lease), name, clock.boot());
    let (election, held, standing) = LeaseTerm::new(machine, lease, hints, clock);
    let (latch, metrics) = (readiness.latch("term", "the election has not begun"), Arc::clone(&seams.metrics));
    supervisor.spawn("standing", until(shutdown, async move { match show(standing, latch, metrics).await {} }));
    Ok((Member { replica, namespace, held, holder }, election))
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
