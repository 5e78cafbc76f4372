//! `countersign agent`: the sidecar that keeps a gateway's identity and serves it on a socket.

mod identities;
mod outputs;
#[cfg(feature = "kubernetes")]
mod policies;
mod roots;
mod trust;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime::Builder};
use tracing::info;

use self::{
    identities::{Asked, First},
    roots::{Roots, await_first, renew_on_change},
    trust::BundleRoots,
};
use super::{
    config::{AgentConfig, AuthorityConfig, CaAddress, Environment},
    seams::{RingRandom, SystemClock},
    shutdown::{self, Shutdown},
    supervisor::Supervisor,
    telemetry,
};
use crate::{
    domain::clock::Clock,
    grpc::{
        ca_client::{CaClient, CaEndpoint, CaRoots},
        unix_listener::{SocketAccess, WorkloadListener},
        workload_server,
    },
    http::admin,
    service::{
        metrics::Metrics,
        readiness::Readiness,
        socket_output::{NOBODY_YET, SocketOutput},
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

/// Streams are told to come again, and get half a second to hear it.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Runs the agent until it is told to leave, or a critical task ends.
///
/// # Errors
///
/// When the socket can't be had, or a critical task ended.
pub fn run(config: AgentConfig, environment: &Environment) -> Result<(), AgentFailed> {
    // a sidecar has its gateway's cores to share: one thread serves thousands of streams, and each more costs memory
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(AgentFailed::of)?;
    let format = config.log_format;
    let traces =
        telemetry::start("countersign-agent", format, environment, runtime.handle()).map_err(AgentFailed::of)?;
    let work = async |shutdown| {
        let result = keep_and_serve(config, shutdown).await;
        traces.end().await;
        result
    };
    let result = runtime.block_on(shutdown::run(work)).map_err(AgentFailed::of).flatten();
    runtime.shutdown_background();
    result
}

async fn keep_and_serve(config: AgentConfig, shutdown: Shutdown) -> Result<(), AgentFailed> {
    let listener = bind_socket(&config).await?;
    info!(event = "socket_open", path = %config.socket.display());
    let (clock, random) = (Arc::new(SystemClock), Arc::new(RingRandom::new()));
    let mut supervisor = Supervisor::default();
    let roots = Roots::new(&config.authority).await?;
    if let Some(follow) = roots.follow {
        spawn(&mut supervisor, "mesh's roots", follow, &shutdown);
    }
    let endpoints: Vec<_> = config.authority.addresses.iter().map(CaAddress::endpoint).collect();
    let client = client(&config, roots.ca, endpoints.clone());
    let bundle = BundleRoots::new(roots.bundle);
    let asked = Asked::by(&config, bundle.roots.clone());
    let (publisher, identity) = asked.of(&client);
    let renewed = (identity.clone(), publisher.renew_now());
    let trust_domain = config.trust_domain.clone();
    let trust = bundle.follow(&client, endpoints, trust_domain, renewed, (&shutdown, &mut supervisor))?;
    let (metrics, readiness) = (Arc::new(Metrics::of_agent()), Readiness::default());
    let first = First { client: &client, identity: identity.clone(), stats: publisher.stats(), trust: &trust };
    let (identities, jwt) = asked.all(config.identities, first, (&metrics, &readiness), |name, task| {
        spawn(&mut supervisor, name, task, &shutdown);
    });
    #[cfg(not(feature = "kubernetes"))]
    let policies = None;
    #[cfg(feature = "kubernetes")]
    let policies = policies::follow(&config.authority.policy_addresses, &client, &metrics, |name, task| {
        spawn(&mut supervisor, name, task, &shutdown);
    })?;
    if let Some(output) = config.output {
        outputs::start(output, identity.clone(), Arc::clone(&metrics), &readiness, &shutdown, &mut supervisor);
    }
    let stats = publisher.stats();
    let output = SocketOutput { clock: Arc::clone(&clock) as _, metrics: Arc::clone(&metrics) };
    let shown = output.run(identity.clone(), stats.trouble(), readiness.latch("identity", NOBODY_YET));
    spawn(&mut supervisor, "readiness", async move { match shown.await {} }, &shutdown);
    metrics.follow_identity(identity);
    metrics.follow_trust(trust.served.trust.clone(), None);
    start_admin(config.admin_listen, (Arc::clone(&metrics), clock), readiness, &shutdown, &mut supervisor).await?;
    spawn(&mut supervisor, "roots", renew_on_change(client.roots(), publisher.renew_now(), random), &shutdown);
    let keep = async move {
        await_first(&client.roots()).await;
        publisher.run().await;
    };
    spawn(&mut supervisor, "identity", keep, &shutdown);
    let asked = shutdown.clone();
    let leaving = async move { asked.requested().await };
    let socket = workload_server::serve(listener, identities, Some(trust.served), policies, jwt, metrics, leaving);
    supervisor.spawn("socket", socket);
    supervisor.run(&shutdown, LEAVE_LIMIT).await.map_err(AgentFailed::of)
}

fn client(config: &AgentConfig, roots: CaRoots, endpoints: Vec<CaEndpoint>) -> Arc<CaClient> {
    let AuthorityConfig { identities, extras, .. } = &config.authority;
    let client = CaClient::new(endpoints, config.identities.first.token_file.clone(), roots, Arc::new(SystemClock));
    Arc::new(client.accepting(identities.clone()).sending(extras.clone()))
}

/// Before there is an SVID: a gateway that finds no socket waits for it longer than for an answer.
async fn bind_socket(config: &AgentConfig) -> Result<WorkloadListener, AgentFailed> {
    let access =
        SocketAccess { mode: config.socket_mode, uids: config.allow_uids.clone(), gids: config.allow_gids.clone() };
    WorkloadListener::bind(&config.socket, access).await.map_err(AgentFailed::of)
}

/// Starts a task that has no end of its own.
fn spawn(
    supervisor: &mut Supervisor,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    shutdown: &Shutdown,
) {
    let asked = shutdown.clone();
    supervisor.spawn(name, async move {
        tokio::select! {
            () = task => Err("it came to its end"),
            () = asked.requested() => Ok(()),
        }
    });
}

async fn start_admin(
    address: Option<SocketAddr>,
    shown: (Arc<Metrics>, Arc<dyn Clock>),
    readiness: Readiness,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<(), AgentFailed> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| AgentFailed(format!("adminListen {address}: {error}")))?;
    let asked = shutdown.clone();
    supervisor.spawn("admin port", admin::serve(listener, shown, readiness, async move { asked.requested().await }));
    Ok(())
}
