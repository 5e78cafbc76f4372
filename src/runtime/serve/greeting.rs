//! What `serve` prints when it starts.

use std::io::{self, Write};

use super::{ServeFailed, absolute, bundle_endpoint::BundleEndpoint, surroundings::Surroundings};
use crate::runtime::config::ServeConfig;

/// What is served, and what to try next.
pub(super) fn greeting(config: &ServeConfig, surroundings: &Surroundings, endpoint: Option<&BundleEndpoint>) -> String {
    let Surroundings { replica, data_dir, ports, gave_way, .. } = surroundings;
    let moved = if *gave_way { ", because another replica holds the default port" } else { "" };
    let mut lines = vec![
        format!("{replica} of {}", data_dir.path().display()),
        format!("  signing API      {}{moved}", ports.ca_address),
        format!("  health, metrics  http://{}/readyz /livez /metrics", ports.admin_address),
    ];
    if let Some(kubernetes) = &config.kubernetes {
        lines.push(format!("  other replicas   {}", kubernetes.pair.address));
    }
    lines.extend(endpoint.map(BundleEndpoint::line));
    if let Some(socket) = &config.workload_socket {
        lines.push(format!("  workload socket  {} for {}", socket.display(), config.workload));
    }
    lines.push(format!("  trust bundle     {}", data_dir.root_cert().display()));
    if let Some(socket) = &config.workload_socket {
        lines.push(format!("try: countersign inspect unix://{}", absolute(socket).display()));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Prints it.
pub(super) fn greet(greeting: &str) -> Result<(), ServeFailed> {
    let mut out = io::stdout().lock();
    match out.write_all(greeting.as_bytes()).and_then(|()| out.flush()) {
        // a reader that has gone away is no reason to stop serving
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ServeFailed::of(error)),
        _ => Ok(()),
    }
}
