//! Requests by way of a gateway, and what becomes of them.

use std::time::Instant;

use super::{EFFECT, WARM_UP};
use crate::{
    mesh::gateway::Gateway,
    support::{http, wait::wait_until},
};

pub(in crate::policy) fn answers(gateway: &Gateway) -> Result<(), String> {
    http::get(gateway.address, "/").map(drop)
}

pub(in crate::policy) fn refuses(gateway: &Gateway) -> Result<(), String> {
    match http::get(gateway.address, "/") {
        Err(why) if why.starts_with("status 503") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// What is to be of the first requests of a proxy that has just been started, which opens its port before it answers there.
pub(in crate::policy) fn begins(what: &str, gateway: &Gateway, is_so: impl Fn(&Gateway) -> Result<(), String>) {
    wait_until(WARM_UP, what, || is_so(gateway));
    soon(what, gateway, is_so);
}

/// Waits for the effect of what was just done, and that it stays for a few requests.
pub(in crate::policy) fn soon(what: &str, gateway: &Gateway, is_so: impl Fn(&Gateway) -> Result<(), String>) {
    let begin = Instant::now();
    wait_until(EFFECT, what, || is_so(gateway));
    println!("{what} after {:?}", begin.elapsed());
    for _ in 0..5 {
        is_so(gateway).unwrap_or_else(|seen| panic!("{what}, and then {seen}"));
    }
}
