//! Istio's own processes beside a pair: istiod, pilot-agent with a real Envoy, and pilot-agent's CA client.

pub(crate) mod istiod;
mod mesh_ca;
pub(crate) mod objects;
pub(crate) mod pilot_agent;
pub(crate) mod replicas;
mod side_by_side;
mod swaps;
pub(crate) mod told;
