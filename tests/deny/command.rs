//! The command line of an operator.

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::support::{countersign::countersign, wait::wait_until};

const TAKE_OVER: Duration = Duration::from_secs(10);

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs `countersign issuance ARGS --data-dir DATA`.
pub(crate) fn issuance(data: &Path, args: &[&str]) -> Ended {
    let ended = countersign().arg("issuance").args(args).arg("--data-dir").arg(data).output().unwrap();
    Ended {
        code: ended.status.code(),
        output: String::from_utf8_lossy(&ended.stdout).into_owned(),
        errors: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

/// The same, again until a replica is active.
pub(crate) fn issuance_by_active(data: &Path, args: &[&str]) -> Ended {
    wait_until(TAKE_OVER, &format!("an active replica for {args:?}"), || {
        let ended = issuance(data, args);
        if ended.errors.contains("no replica of ") { Err(ended.errors) } else { Ok(ended) }
    })
}

/// The same, which must succeed: what it printed.
pub(crate) fn done(data: &Path, args: &[&str]) -> String {
    let ended = issuance_by_active(data, args);
    assert_eq!(ended.code, Some(0), "{args:?}: {ended:?}");
    ended.output
}

/// What `issuance denied` lists.
pub(crate) fn denied(data: &Path) -> Vec<Value> {
    serde_json::from_str(&done(data, &["denied", "-o", "json"])).expect("a JSON array")
}
