//! The policies that the agent follows, wired.

use std::sync::Arc;

use super::{AgentFailed, trust::instance};
use crate::{
    grpc::{
        ca_client::CaClient, policy_client::GatewayPolicies, policy_report::GatewayReports,
        workload_server::ServedPolicies,
    },
    runtime::{
        config::CaAddress,
        seams::{RingRandom, SystemClock},
    },
    service::{
        context_acceptance::{AcceptanceBook, AcceptanceReporter},
        metrics::Metrics,
        policy_follower::PolicyFollower,
        ports::BoxFuture,
    },
};

/// Has policies followed if there are addresses for it, and the pair told what becomes of them at the socket. Replicas are
/// verified as the authority is, and the proofs are the same.
pub(super) fn follow(
    addresses: &[CaAddress],
    authority: &CaClient,
    metrics: &Arc<Metrics>,
    mut spawn: impl FnMut(&'static str, BoxFuture<'static, ()>),
) -> Result<Option<ServedPolicies>, AgentFailed> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let replicas = Arc::new(authority.at(addresses.iter().map(CaAddress::endpoint).collect()));
    let (clock, random) = (Arc::new(SystemClock), Arc::new(RingRandom::new()));
    let instance = instance(random.as_ref())?;
    let source = Arc::new(GatewayPolicies::new(Arc::clone(&replicas)));
    let (follower, peers) = PolicyFollower::new(source, Arc::clone(metrics), clock, random);
    spawn("policies", Box::pin(async move { match follower.run().await {} }));
    let book = Arc::new(AcceptanceBook::default());
    let reporter = AcceptanceReporter::new(Arc::clone(&book), Arc::new(GatewayReports::new(replicas, instance)));
    spawn("policy reports", Box::pin(async move { match reporter.run().await {} }));
    Ok(Some(ServedPolicies { peers, book }))
}
