//! How long SVIDs may live.

use std::time::Duration;

use super::Sources;
use crate::{domain::authority::TtlBounds, runtime::duration, service::signing_state::LONGEST_JWT_TTL};

pub(super) fn ttl_bounds(from: &mut Sources) -> Option<TtlBounds> {
    let default = from.one("svid_ttl", duration::parse_whole_seconds);
    let max = from.one("max_svid_ttl", duration::parse_whole_seconds);
    TtlBounds::new(default?, max?)
        .map_err(|error| from.refuse("svid_ttl", format!("{error}: lower it, or raise maxSvidTtl")))
        .ok()
}

pub(super) fn jwt_svid_ttl(from: &mut Sources) -> Option<Duration> {
    let ttl = from.one("jwt_svid_ttl", duration::parse_whole_seconds)?;
    if ttl > LONGEST_JWT_TTL {
        from.refuse("jwt_svid_ttl", "is over an hour: nothing takes a JWT-SVID back before it expires");
        return None;
    }
    Some(ttl)
}
