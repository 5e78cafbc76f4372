//! `countersign agent`: the sidecar that keeps a gateway's identity and serves it on a socket.

mod outputs;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime::Builder};
use tracing::info;

use super::{
    config::{AgentConfig, CaAddress, Environment},
    seams::{RingRandom, SystemClock},
    shutdown::{self, Shutdown},
    supervisor::Supervisor,
    telemetry,
};
use crate::{
    grpc::{
        ca_client::{CaClient, CaEndpoint},
        unix_listener::{SocketAccess, WorkloadListener},
        workload_server,
    },
    http::admin,
    service::{
        metrics::{ExpiringCertificate, Metrics},
        readiness::{Latch, Readiness},
        svid_publisher::{Expectation, IdentityReceiver, SvidPublisher},
    },
};

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AgentFailed(String);

impl AgentFailed {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A gateway's sidecar has a gateway's cores to share: two threads serve thousands of streams.
const THREADS: usize = 2;
/// Streams are told to come again, and get half a second to hear it.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to leave, or a critical task ends.
///
/// # Errors
///
/// When the socket can't be had, or a critical task ended.
pub fn run(config: AgentConfig, environment: &Environment) -> Result<(), AgentFailed> {
    telemetry::start(config.log_format, environment).map_err(AgentFailed::of)?;
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).thread_name("agent").enable_all().build();
    let runtime = runtime.map_err(AgentFailed::of)?;
    let work = async |shutdown| keep_and_serve(config, shutdown).await;
    let result = runtime.block_on(shutdown::run(work)).map_err(AgentFailed::of).flatten();
    runtime.shutdown_background();
    result
}

async fn keep_and_serve(config: AgentConfig, shutdown: Shutdown) -> Result<(), AgentFailed> {
    let access =
        SocketAccess { mode: config.socket_mode, uids: config.allow_uids.clone(), gids: config.allow_gids.clone() };
    // before there is an SVID: a gateway that finds no socket waits for it longer than for an answer
    let listener = WorkloadListener::bind(&config.socket, access).await.map_err(AgentFailed::of)?;
    info!(event = "socket_open", path = %config.socket.display());
    let endpoints = config.ca_addresses.iter().map(endpoint_of).collect();
    let client = Arc::new(CaClient::new(endpoints, config.token_file.clone(), config.root_file.clone()));
    let ttl = i64::try_from(config.svid_ttl.as_secs()).unwrap_or(i64::MAX);
    let (publisher, identity) = SvidPublisher::new(
        Arc::clone(&client) as _,
        Expectation::AnyIn(config.trust_domain),
        ttl,
        Arc::new(SystemClock),
        Arc::new(RingRandom::new()),
    );
    client.renew_by(identity.clone());

    let mut supervisor = Supervisor::default();
    let (metrics, readiness) = (Arc::new(Metrics::of_agent()), Readiness::default());
    if let Some(output) = config.output {
        outputs::start(output, identity.clone(), Arc::clone(&metrics), &readiness, &shutdown, &mut supervisor);
    }
    metrics.follow(ExpiringCertificate::Svid, publisher.stats());
    if let Some(address) = config.admin_listen {
        start_admin(address, metrics, readiness, identity.clone(), &shutdown, &mut supervisor).await?;
    }
    let asked = shutdown.clone();
    supervisor.spawn("identity", async move {
        tokio::select! {
            () = publisher.run() => Err("it came to its end"),
            () = asked.requested() => Ok(()),
        }
    });
    let asked = shutdown.clone();
    supervisor.spawn("socket", workload_server::serve(listener, identity, async move { asked.requested().await }));
    supervisor.run(&shutdown, LEAVE_LIMIT).await.map_err(AgentFailed::of)
}

async fn start_admin(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    identity: IdentityReceiver,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<(), AgentFailed> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| AgentFailed(format!("adminListen {address}: {error}")))?;
    let latch = readiness.latch("identity", "no certificate authority has answered yet");
    let asked = shutdown.clone();
    supervisor.spawn("readiness", async move {
        tokio::select! {
            () = show_identity(identity, latch) => Err("it came to its end"),
            () = asked.requested() => Ok(()),
        }
    });
    let asked = shutdown.clone();
    supervisor.spawn("admin port", admin::serve(listener, metrics, readiness, async move { asked.requested().await }));
    Ok(())
}

async fn show_identity(mut identity: IdentityReceiver, latch: Latch) {
    loop {
        if let Some(published) = identity.borrow_and_update().as_ref() {
            match &published.svid {
                Some(svid) => latch.ready(format!("{} until {}", svid.id(), svid.leaf().not_after())),
                None => latch.not_ready("the SVID has expired and could not be renewed"),
            }
        }
        if identity.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn endpoint_of(address: &CaAddress) -> CaEndpoint {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    CaEndpoint { address: format!("{host}:{}", address.port), server_name: address.server_name.to_str().into_owned() }
}
