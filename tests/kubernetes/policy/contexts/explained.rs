//! What is said of whether a policy is in force.

use std::{path::Path, time::Instant};

use super::EFFECT;
use crate::{
    pair::replica::Replica,
    policy::{TEAM, policy_at, said},
    support::wait::wait_until,
};

/// What `policy explain` says of the Service: whether its policy is in force, or why that is not known. Empty if nothing.
pub(in crate::policy) fn enforcement(replica: &Replica) -> String {
    enforcement_at(replica.data())
}

/// The same of the replica with this data directory.
pub(in crate::policy) fn enforcement_at(data: &Path) -> String {
    enforcement_of(&said(&policy_at(data, &["explain", &format!("{TEAM}/backend"), "-o", "json"])))
}

pub(in crate::policy) fn enforcement_of(explained: &str) -> String {
    let namespace: serde_json::Value = serde_json::from_str(explained).unwrap();
    let conditions = namespace["services"][0]["conditions"].as_array().cloned().unwrap_or_default();
    let ours = conditions.iter().find(|condition| condition["reason"].as_str().unwrap().ends_with("Enforced"));
    ours.map(|condition| format!("{}: {}", condition["reason"], condition["message"])).unwrap_or_default()
}

pub(in crate::policy) fn enforced_soon(what: &str, replica: &Replica, expected: &str) {
    let begin = Instant::now();
    wait_until(EFFECT, what, || {
        let said = enforcement(replica);
        if said.starts_with(expected) { Ok(()) } else { Err(said) }
    });
    println!("{what} after {:?}", begin.elapsed());
}
