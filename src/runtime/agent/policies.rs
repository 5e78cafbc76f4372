//! The policies that the agent follows, wired.

use std::sync::Arc;

use crate::{
    grpc::{ca_client::CaClient, policy_client::GatewayPolicies},
    runtime::{
        config::CaAddress,
        seams::{RingRandom, SystemClock},
    },
    service::{
        metrics::Metrics,
        policy_follower::{PeersReceiver, PolicyFollower},
        ports::BoxFuture,
    },
};

/// Has policies followed by a task if there are addresses for it. Replicas are verified as the authority is, and the proofs are
/// the same.
pub(super) fn follow(
    addresses: &[CaAddress],
    authority: &CaClient,
    metrics: &Arc<Metrics>,
    spawn: impl FnOnce(BoxFuture<'static, ()>),
) -> Option<PeersReceiver> {
    if addresses.is_empty() {
        return None;
    }
    let replicas = authority.at(addresses.iter().map(CaAddress::endpoint).collect());
    let source = Arc::new(GatewayPolicies::new(Arc::new(replicas)));
    let (clock, random) = (Arc::new(SystemClock), Arc::new(RingRandom::new()));
    let (follower, peers) = PolicyFollower::new(source, Arc::clone(metrics), clock, random);
    spawn(Box::pin(async move { match follower.run().await {} }));
    Some(peers)
}
