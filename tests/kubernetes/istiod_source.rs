//! A pair in front of the real istiod: it passes requests on, and signs nothing.

mod agents;
pub(crate) mod client;
mod fleet;
mod jwt_svid_changes;
mod jwt_svids;
mod outage;
mod refusals;
mod revisions;
pub(crate) mod stage;
mod trust_bundle;
