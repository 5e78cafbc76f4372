//! Where a replica runs: its data directory, its slot there, its ports.

use tokio::net::TcpListener;

use super::{
    ServeFailed,
    listeners::{self, Bound},
};
use crate::{
    domain::random::SecureRandom,
    grpc::unix_listener::{SocketAccess, WorkloadListener},
    runtime::config::ServeConfig,
    storage::{
        data_dir::DataDir,
        pair_directory::{PairDirectory, ReplicaEntry},
        replica_slot::ReplicaSlot,
        slot::Slot,
    },
};

/// Everything that only one process may hold.
pub(super) struct Place {
    pub(super) data_dir: DataDir,
    pub(super) slot: ReplicaSlot,
    pub(super) pair: PairDirectory,
    pub(super) entry: ReplicaEntry,
    /// Whether a default port had to give way.
    pub(super) gave_way: bool,
}

/// The ports of a replica, listening.
pub(super) struct Ports {
    pub(super) ca: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) pair: WorkloadListener,
}

/// The kernel's limit.
const MAX_SOCKET_PATH: usize = 107;

impl Place {
    /// Takes a slot and ports, and tells the other replicas.
    pub(super) async fn take(config: &ServeConfig, random: &dyn SecureRandom) -> Result<(Self, Ports), ServeFailed> {
        let longest = config.data_dir.join("pair").join("replica-63.sock").as_os_str().len();
        if longest > MAX_SOCKET_PATH {
            return Err(ServeFailed(format!(
                "dataDir {}: the paths of the sockets in it would have {longest} bytes, at most {MAX_SOCKET_PATH} are possible: \
                 choose a shorter one, or start in a folder from which it is shorter",
                config.data_dir.display()
            )));
        }
        let data_dir = DataDir::open(&config.data_dir).map_err(ServeFailed::of)?;
        let slot = ReplicaSlot::take_first_free(&data_dir, random).map_err(ServeFailed::of)?;
        let pair = PairDirectory::new(data_dir.clone());
        // what the slot's last process said is not true any more
        pair.withdraw(slot.slot()).map_err(ServeFailed::of)?;
        let plugged_in = config.ca_dir.is_some();
        check_same_authority(plugged_in, &pair, slot.slot())?;
        let ca = listeners::bind("listen", config.listen, &pair, slot.slot()).await.map_err(ServeFailed::of)?;
        let admin = listeners::bind("adminListen", config.admin_listen, &pair, slot.slot());
        let Bound { listener: admin, address: admin_address, .. } = admin.await.map_err(ServeFailed::of)?;
        let pair_socket = data_dir.pair_socket(slot.slot());
        let listener = WorkloadListener::bind(&pair_socket, private()).await.map_err(ServeFailed::of)?;
        let entry = ReplicaEntry {
            replica: slot.replica().to_owned(),
            slot: slot.slot(),
            pid: std::process::id(),
            ca_address: ca.address,
            admin_address,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plugged_in,
        };
        pair.announce(&entry).map_err(ServeFailed::of)?;
        let ports = Ports { ca: ca.listener, admin, pair: listener };
        Ok((Self { data_dir, slot, pair, entry, gave_way: ca.gave_way }, ports))
    }
}

/// A standby with another kind of authority could not take over: it is told now, not when it has to.
fn check_same_authority(plugged_in: bool, pair: &PairDirectory, own: Slot) -> Result<(), ServeFailed> {
    let others = pair.living_others(own).map_err(ServeFailed::of)?;
    let Some(other) = others.announced.iter().find(|other| other.plugged_in != plugged_in) else { return Ok(()) };
    let (has, fix) = if plugged_in { ("no", "leave it out") } else { ("a", "set the same one") };
    Err(ServeFailed(format!("caDir: {} of this data directory runs with {has} caDir: {fix} here", other.replica)))
}

/// Access to the sockets that are for this user alone; their directory is 0700 besides.
pub(super) fn private() -> SocketAccess {
    SocketAccess { mode: 0o600, uids: vec![rustix::process::geteuid().as_raw(), 0], gids: Vec::new() }
}
