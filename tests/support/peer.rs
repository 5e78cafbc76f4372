//! Where the peers are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::process::Process;

/// A folder that holds `kube-apiserver` and `etcd` already, by the convention of Kubernetes projects.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The executable of a peer, from the cache that `tests/run.py` fills.
pub(crate) fn peer(name: &str) -> Command {
    Command::new(peer_path(name))
}

/// Where that executable is.
pub(crate) fn peer_path(name: &str) -> PathBuf {
    let assets = env::var_os(ASSETS).filter(|folder| !folder.is_empty() && ["etcd", "kube-apiserver"].contains(&name));
    let folder = assets.map_or_else(|| peers_folder().join("bin"), PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `python3 tests/run.py`, which makes it", path.display());
    path
}

/// A file that belongs to a peer, from the same cache.
pub(crate) fn peer_file(name: &str) -> PathBuf {
    let path = peers_folder().join("bin").join(name);
    assert!(path.is_file(), "{} is missing: run `python3 tests/run.py`, which fetches it", path.display());
    path
}

pub(crate) fn peers_folder() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    env::var_os("COUNTERSIGN_PEERS").map_or_else(default, PathBuf::from)
}

/// The JSON lines that a driver printed so far.
pub(crate) fn lines(driver: &Process) -> Vec<Value> {
    // A line that is still being written has no end yet.
    let output = driver.output();
    let complete = output.rfind('\n').map_or("", |end| &output[..end]);
    complete.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}
