//! A replica on one machine: the lock of the data directory decides who is active, and everything that the replicas share is in
//! there.

use std::sync::Arc;

use super::{
    ServeFailed, absolute,
    announce::Announced,
    histories::all_histories,
    listeners::{self, Bound, private},
    proofs,
    surroundings::{PairPort, PlannedSecrets, Ports, Surroundings},
};
use crate::{
    domain::{identity::TrustDomain, jwt::TokenIssuer, leadership::Tenure, random::SecureRandom},
    grpc::{pair_client::PairClient, unix_listener::WorkloadListener},
    runtime::config::ServeConfig,
    service::{leadership::Hints, readiness::Readiness, signing_state::root_of},
    storage::{
        data_dir::DataDir,
        embedded_election::EmbeddedElection,
        kept_trust::TrustFile,
        pair_directory::{Others, PairDirectory, ReplicaEntry},
        replica_slot::ReplicaSlot,
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
    let others = directory.living_others(slot.slot()).map_err(ServeFailed::of)?;
    check_same_authority(plugged_in, &config.trust_domain, &others)?;
    let ca = listeners::bind("listen", config.listen, &directory, slot.slot()).await.map_err(ServeFailed::of)?;
    let admin = listeners::bind("adminListen", config.admin_listen, &directory, slot.slot());
    let Bound { listener: admin, address: admin_address, .. } = admin.await.map_err(ServeFailed::of)?;
    let socket =
        WorkloadListener::bind(&data_dir.pair_socket(slot.slot()), private()).await.map_err(ServeFailed::of)?;
    let replica = slot.replica().to_owned();
    let entry = ReplicaEntry {
        replica: replica.clone(),
        slot: slot.slot(),
        pid: std::process::id(),
        ca_address: ca.address,
        admin_address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plugged_in,
        trust_domain: Some(config.trust_domain.to_string()),
        workload_socket: config.workload_socket.as_deref().map(absolute),
    };
    directory.announce(&entry).map_err(ServeFailed::of)?;

    let issuers = std::iter::once(proofs::embedded_issuer(&data_dir)?).chain(configured).collect();
    let election = EmbeddedElection::new(data_dir.clone());
    let (own_slot, logs_of) = (slot.slot(), data_dir.clone());
    Ok(Surroundings {
        data_dir,
        slot,
        pair: Arc::new(PairClient::new(Arc::new(directory.clone()), replica.clone())),
        replica,
        gave_way: ca.gave_way,
        ports: Ports { ca: ca.listener, ca_address: ca.address, admin, admin_address },
        pair_port: PairPort::Socket(socket),
        tenure: Tenure::Lock,
        election: Arc::new(election.clone()),
        hints: Hints::new(),
        kept_state: None,
        kept_trust: Arc::new(TrustFile::new(&logs_of)),
        open_state: Box::new(move || election.open_store(root_of)),
        issuers,
        cluster: None,
        server_names: config.dns_names.clone(),
        istiod: None,
        distribution: None,
        gateway_secrets: PlannedSecrets::default(),
        policy: None,
        policy_objects: None,
        policy_events: None,
        announced: Announced::InDataDir(directory.clone(), entry),
        histories: Box::new(move |own| Arc::new(all_histories(logs_of, own_slot, own))),
        tasks: Vec::new(),
        finding: Vec::new(),
        readiness: Readiness::default(),
        leave: Box::new(move || directory.withdraw(own_slot)),
    })
}

/// A standby with another kind of authority, or another trust domain's, could not take over: it is told now, not when it has
/// to.
fn check_same_authority(plugged_in: bool, own: &TrustDomain, others: &Others) -> Result<(), ServeFailed> {
    let of_another = others.announced.iter().find_map(|other| {
        let theirs = other.trust_domain.as_deref().filter(|theirs| *theirs != own.as_str())?;
        Some((&other.replica, theirs))
    });
    if let Some((replica, theirs)) = of_another {
        let said = format!("trustDomain {own}: {replica} of this data directory runs with {theirs}: set the same one");
        return Err(ServeFailed(said));
    }
    let Some(other) = others.announced.iter().find(|other| other.plugged_in != plugged_in) else { return Ok(()) };
    let (has, fix) = if plugged_in { ("no", "leave it out") } else { ("a", "set the same one") };
    Err(ServeFailed(format!("caDir: {} of this data directory runs with {has} caDir: {fix} here", other.replica)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::slot::Slot;

    fn refusal(plugged_in: bool, own: &str, theirs: Option<&str>) -> Option<String> {
        let other = ReplicaEntry {
            replica: "replica-0-00000000".into(),
            slot: Slot::new(0),
            pid: 1,
            ca_address: "127.0.0.1:15012".parse().unwrap(),
            admin_address: "127.0.0.1:15020".parse().unwrap(),
            version: "0.1.0".into(),
            plugged_in: false,
            trust_domain: theirs.map(str::to_owned),
            workload_socket: None,
        };
        let others = Others { announced: vec![other], silent: 0 };
        let refused = check_same_authority(plugged_in, &own.parse().unwrap(), &others);
        refused.err().map(|error| error.to_string())
    }

    #[test]
    fn a_replica_that_could_not_take_over_is_told_at_its_start() {
        assert_eq!(refusal(false, "one.example", Some("one.example")), None);
        let said = "trustDomain one.example: replica-0-00000000 of this data directory runs with other.example: set the \
                    same one";
        assert_eq!(refusal(false, "one.example", Some("other.example")).as_deref(), Some(said));
        let said = refusal(true, "one.example", Some("one.example")).unwrap();
        assert!(said.starts_with("caDir: replica-0-00000000 "), "{said}");
    }
}
