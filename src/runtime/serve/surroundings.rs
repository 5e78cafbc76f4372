//! What differs between a pair on one machine and a pair in Kubernetes, taken before anything of a replica runs.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use super::announce::Announced;
use crate::{
    domain::{jwt::TokenIssuer, leadership::Tenure},
    grpc::{pair_client::PairClient, unix_listener::WorkloadListener},
    service::{
        bundle_distribution::{DistributionConfig, Places, TlsSecret},
        caller_attestation::Cluster,
        create_certificate::IstiodServing,
        gateway_secrets::GatewaySecret,
        issuance_history::IssuanceHistory,
        leadership::{Election, Hints},
        pair_trust::KeptTrust,
        policy_events::PolicyEvents,
        policy_objects::{Plans, PolicyObjects},
        policy_publisher::{PodChanges, PolicyAccess, PolicyPublisher},
        ports::{BoxFuture, KeptState},
        readiness::Readiness,
        signing_state::OpenStore,
    },
    storage::{data_dir::DataDir, replica_slot::ReplicaSlot},
};

/// Where a replica runs, and whom it has there.
pub(super) struct Surroundings {
    pub(super) data_dir: DataDir,
    /// Of the issuance log, in the data directory. Held as long as anything is written there.
    pub(super) slot: ReplicaSlot,
    /// How this process is called among the replicas and in records.
    pub(super) replica: String,
    pub(super) ports: Ports,
    /// Whether a default port had to give way.
    pub(super) gave_way: bool,
    pub(super) pair_port: PairPort,
    pub(super) pair: Arc<PairClient>,
    pub(super) tenure: Tenure,
    pub(super) election: Arc<dyn Election>,
    pub(super) hints: Hints,
    pub(super) open_state: OpenStore,
    /// Where a state that is lost may still be in memory.
    pub(super) kept_state: Option<Arc<dyn KeptState>>,
    /// What is known of the trust while nobody is active.
    pub(super) kept_trust: Arc<dyn KeptTrust>,
    /// Whose tokens are believed without asking anybody.
    pub(super) issuers: Vec<TokenIssuer>,
    /// Who says whose the other tokens are.
    pub(super) cluster: Option<Cluster>,
    /// In the serving certificate.
    pub(super) server_names: Vec<String>,
    /// What istiod serves as, in a mesh whose only authority this is.
    pub(super) istiod: Option<IstiodServing>,
    /// Where the trust bundle goes.
    pub(super) distribution: Option<(DistributionConfig, Places)>,
    /// Where SVIDs of gateways go.
    pub(super) gateway_secrets: PlannedSecrets,
    /// Which Services need mutual TLS, if that is followed.
    pub(super) policy: Option<PolicyAccess>,
    /// What gateways need for that in the cluster, if it is kept.
    pub(super) policy_objects: Option<PlannedObjects>,
    /// What is said of it on the objects themselves.
    pub(super) policy_events: Option<PolicyEvents>,
    pub(super) announced: Announced,
    pub(super) histories: AllLogs,
    /// What goes on beside everything else until shutdown.
    pub(super) tasks: Tasks,
    /// How the other replicas are found: goes on while anything is answered, which is passed on until then.
    pub(super) finding: Tasks,
    pub(super) readiness: Readiness,
    /// The last thing of all, before the slot is let go. Blocks.
    pub(super) leave: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

/// What gateways need in the cluster.
pub(super) struct PlannedObjects {
    pub(super) objects: Arc<PolicyObjects>,
    pub(super) plans: Plans,
    pub(super) probes: PlannedProbes,
}

/// Whose pods are asked whether they speak mutual TLS.
#[derive(Clone)]
pub(super) struct PlannedProbes {
    pub(super) publisher: Arc<PolicyPublisher>,
    pub(super) changes: Arc<PodChanges>,
    pub(super) plans: Plans,
}

/// The Secrets of gateways that were asked for.
#[derive(Default)]
pub(super) struct PlannedSecrets {
    /// The pair's namespace.
    pub(super) publisher: String,
    pub(super) secrets: Vec<(GatewaySecret, Arc<dyn TlsSecret>)>,
}

/// The ports of a replica, listening.
pub(super) struct Ports {
    pub(super) ca: TcpListener,
    pub(super) ca_address: SocketAddr,
    pub(super) admin: TcpListener,
    pub(super) admin_address: SocketAddr,
}

/// Where other replicas ask this one.
pub(super) enum PairPort {
    /// A socket in the data directory that they share.
    Socket(WorkloadListener),
    /// A port, under mutual TLS.
    #[cfg(feature = "kubernetes")]
    Tls {
        /// Listening.
        port: TcpListener,
        /// By the newest certificate of this replica.
        tls: tokio::sync::watch::Receiver<Option<Arc<rustls::ServerConfig>>>,
        /// Who is let in.
        peers: crate::grpc::pair_server::CertifiedPeers,
    },
}

/// Named, for the supervisor. None of them ends.
pub(super) type Tasks = Vec<(&'static str, BoxFuture<'static, ()>)>;

/// Puts the logs of the other replicas beside this one's own.
pub(super) type AllLogs = Box<dyn FnOnce(Arc<dyn IssuanceHistory>) -> Arc<dyn IssuanceHistory> + Send>;
