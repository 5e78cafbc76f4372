//! `countersign agent` straight at a real istiod, with the shipped rights: who comes first, what is its proof, whose clock is
//! wrong, whose roots it publishes.

mod addresses;
mod clocks;
mod clusters;
pub(crate) mod gateway;
mod order;
mod patience;
mod proofs;
pub(crate) mod roots;
