//! Where the peers are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::process::Process;

/// The executable of a peer, from the cache that `tests/run.py` fills.
pub(crate) fn peer(name: &str) -> Command {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    let path = env::var_os("COUNTERSIGN_PEERS").map_or_else(default, PathBuf::from).join("bin").join(name);
    assert!(path.is_file(), "{} is missing: run `python3 tests/run.py`, which makes it", path.display());
    Command::new(path)
}

/// The JSON lines that a driver printed so far.
pub(crate) fn lines(driver: &Process) -> Vec<Value> {
    // A line that is still being written has no end yet.
    let output = driver.output();
    let complete = output.rfind('\n').map_or("", |end| &output[..end]);
    complete.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}
