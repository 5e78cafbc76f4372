//! Trust domains that federate with each other, judged by Envoys that speak mutual TLS across them and by go-spiffe.

mod domain;
mod envoys;
mod go_spiffe;
mod rotation;
