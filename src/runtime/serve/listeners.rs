//! The ports of a replica. A default port that another replica of the same data directory holds gives way to a free one;
//! anything else that is in use is an error.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tracing::warn;

use crate::{
    grpc::unix_listener::SocketAccess,
    runtime::config::ListenAddress,
    storage::{
        pair_directory::{PairDirectory, ReplicaEntry},
        slot::Slot,
    },
};

/// A bound port.
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
    /// Whether the default had to give way.
    pub(super) gave_way: bool,
}

/// Why a port is not bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// It is taken, and not to give way: it was chosen, or what has it is no replica of this data directory.
    #[error("{setting} {address} is in use already: choose another one")]
    InUse {
        /// The setting's name.
        setting: &'static str,
        /// What it says.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("{setting} {address}: {error}")]
    Io {
        /// The setting's name.
        setting: &'static str,
        /// What it says.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// A replica that is just starting has bound its port before it has said so.
const ANNOUNCEMENT: Duration = Duration::from_secs(2);

pub(super) async fn bind(
    setting: &'static str,
    wanted: ListenAddress,
    pair: &PairDirectory,
    own: Slot,
) -> Result<Bound, ListenError> {
    let address = wanted.address;
    match TcpListener::bind(address).await {
        Ok(listener) => bound(setting, address, listener, false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if wanted.chosen || !is_a_replicas(address, pair, own).await {
                return Err(ListenError::InUse { setting, address });
            }
            let free = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
            match TcpListener::bind(free).await {
                Ok(listener) => bound(setting, free, listener, true),
                Err(error) => Err(ListenError::Io { setting, address: free, error }),
            }
        }
        Err(error) => Err(ListenError::Io { setting, address, error }),
    }
}

/// Binds an address that gives way to nothing.
pub(super) async fn listen(
    setting: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), ListenError> {
    let named = |error: io::Error| ListenError::Io { setting, address, error };
    let listener = TcpListener::bind(address).await.map_err(named)?;
    let bound = listener.local_addr().map_err(named)?;
    Ok((listener, bound))
}

fn bound(
    setting: &'static str,
    wanted: SocketAddr,
    listener: TcpListener,
    gave_way: bool,
) -> Result<Bound, ListenError> {
    let address = listener.local_addr().map_err(|error| ListenError::Io { setting, address: wanted, error })?;
    Ok(Bound { listener, address, gave_way })
}

/// Whether a living replica of this data directory has announced the port, waiting a little for one that is starting.
async fn is_a_replicas(address: SocketAddr, pair: &PairDirectory, own: Slot) -> bool {
    let deadline = Instant::now() + ANNOUNCEMENT;
    loop {
        let others = pair.living_others(own).unwrap_or_default();
        let holds =
            |entry: &ReplicaEntry| is_taken_by(entry.ca_address, address) || is_taken_by(entry.admin_address, address);
        if others.announced.iter().any(holds) {
            return true;
        }
        if others.silent == 0 || Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether who has bound `bound` is in the way of `wanted`: an unspecified address stands for all.
fn is_taken_by(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let same_ip = bound.ip() == wanted.ip() || bound.ip().is_unspecified() || wanted.ip().is_unspecified();
    same_ip && bound.port() == wanted.port()
}

/// Each connection takes a file descriptor, and the soft limit that processes start with is often 1,024.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(event = "descriptor_limit_not_raised", %error);
    }
}

/// Access to the sockets that are for this user alone; their directory is 0700 besides.
pub(super) fn private() -> SocketAccess {
    SocketAccess { mode: 0o600, uids: vec![rustix::process::geteuid().as_raw(), 0], gids: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_stands_in_the_way_of_each_of_its_port() {
        let is_taken = |bound: &str, wanted: &str| is_taken_by(bound.parse().unwrap(), wanted.parse().unwrap());
        assert!(is_taken("127.0.0.1:15012", "127.0.0.1:15012"));
        assert!(is_taken("0.0.0.0:15012", "127.0.0.1:15012"));
        assert!(is_taken("[::]:15012", "127.0.0.1:15012"));
        assert!(is_taken("127.0.0.1:15012", "0.0.0.0:15012"));
        assert!(!is_taken("127.0.0.2:15012", "127.0.0.1:15012"));
        assert!(!is_taken("0.0.0.0:15012", "127.0.0.1:15020"));
    }
}
