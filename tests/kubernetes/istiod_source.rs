//! A pair in front of the real istiod: it passes requests on, and signs nothing.

mod agents;
mod client;
mod fleet;
mod outage;
mod refusals;
mod stage;
mod trust_bundle;
