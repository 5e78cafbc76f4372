//! `countersign agent` straight at a real istiod, with the shipped rights: who comes first, what is its proof, whose clock is
//! wrong.

mod clocks;
mod gateway;
mod order;
mod proofs;
