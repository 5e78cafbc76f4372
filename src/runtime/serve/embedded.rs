//! A replica on one machine: the lock of the data directory decides who is active, and everything that the replicas share is in
//! there.

use std::sync::Arc;

use super::{
    ServeFailed, absolute,
    announce::Announced,
    histories::all_histories,
    listeners::{self, Bound, private},
    proofs,
    surroundings::{PairPort, Ports, Surroundings},
};
use crate::{
    domain::{jwt::TokenIssuer, leadership::Tenure, random::SecureRandom},
    grpc::{pair_client::PairClient, unix_listener::WorkloadListener},
    runtime::config::ServeConfig,
    service::{leadership::Hints, readiness::Readiness, signing_state::root_of},
    storage::{
        data_dir::DataDir,
        embedded_election::EmbeddedElection,
        pair_directory::{PairDirectory, ReplicaEntry},
        replica_slot::ReplicaSlot,
        slot::Slot,
    },
};

/// Takes a slot and ports in the data directory, and tells the other replicas.
pub(super) async fn join(
    config: &ServeConfig,
    configured: Vec<TokenIssuer>,
    random: &dyn SecureRandom,
) -> Result<Surroundings, ServeFailed> {
    let data_dir = DataDir::open(&config.data_dir).map_err(ServeFailed::of)?;
    let slot = ReplicaSlot::take_first_free(&data_dir, random).map_err(ServeFailed::of)?;
    let directory = PairDirectory::new(data_dir.clone());
    // what the slot's last process said is not true any more
    directory.withdraw(slot.slot()).map_err(ServeFailed::of)?;
    let plugged_in = config.ca_dir.is_some();
    check_same_authority(plugged_in, &directory, slot.slot())?;
    let ca = listeners::bind("listen", config.listen, &directory, slot.slot()).await.map_err(ServeFailed::of)?;
    let admin = listeners::bind("adminListen", config.admin_listen, &directory, slot.slot());
    let Bound { listener: admin, address: admin_address, .. } = admin.await.map_err(ServeFailed::of)?;
    let socket = WorkloadListener::bind(&data_dir.pair_socket(slot.slot()), private()).await;
    let pair_port = PairPort::Socket(socket.map_err(ServeFailed::of)?);
    let replica = slot.replica().to_owned();
    let entry = ReplicaEntry {
        replica: replica.clone(),
        slot: slot.slot(),
        pid: std::process::id(),
        ca_address: ca.address,
        admin_address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plugged_in,
        workload_socket: config.workload_socket.as_deref().map(absolute),
    };
    directory.announce(&entry).map_err(ServeFailed::of)?;

    let issuers = std::iter::once(proofs::embedded_issuer(&data_dir)?).chain(configured).collect();
    let election = EmbeddedElection::new(data_dir.clone());
    let opener = election.clone();
    let (own_slot, logs_of) = (slot.slot(), data_dir.clone());
    Ok(Surroundings {
        data_dir,
        slot,
        pair: Arc::new(PairClient::new(Arc::new(directory.clone()), replica.clone())),
        replica,
        gave_way: ca.gave_way,
        ports: Ports { ca: ca.listener, ca_address: ca.address, admin, admin_address },
        pair_port,
        tenure: Tenure::Lock,
        election: Arc::new(election),
        hints: Hints::new(),
        open_state: Box::new(move || opener.open_store(root_of)),
        issuers,
        cluster: None,
        server_names: config.dns_names.clone(),
        istiod: None,
        distribution: None,
        announced: Announced::InDataDir(directory.clone(), entry),
        histories: Box::new(move |own| Arc::new(all_histories(logs_of, own_slot, own))),
        tasks: Vec::new(),
        readiness: Readiness::default(),
        leave: Box::new(move || directory.withdraw(own_slot)),
    })
}

/// A standby with another kind of authority could not take over: it is told now, not when it has to.
fn check_same_authority(plugged_in: bool, pair: &PairDirectory, own: Slot) -> Result<(), ServeFailed> {
    let others = pair.living_others(own).map_err(ServeFailed::of)?;
    let Some(other) = others.announced.iter().find(|other| other.plugged_in != plugged_in) else { return Ok(()) };
    let (has, fix) = if plugged_in { ("no", "leave it out") } else { ("a", "set the same one") };
    Err(ServeFailed(format!("caDir: {} of this data directory runs with {has} caDir: {fix} here", other.replica)))
}
