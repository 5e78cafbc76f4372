//! The election by a Lease of the real API server: the real driver, machine and Lease, over a state in memory.

mod hands;
mod outages;
mod proxy;
mod replicas;
mod requests;
mod start;
mod state;
