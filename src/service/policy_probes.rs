//! Asks pods whether they speak mutual TLS, for Services whose Gateways go by a BackendTLSPolicy alone: no agent tells of these.
//!
//! Every replica asks for itself. At a time few connections are open, and each ends with its handshake: nothing is sent over it.

mod schedule;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tracing::debug;

use self::schedule::{Schedule, Turn, Wish};
use super::{
    metrics::Metrics,
    policy_objects::Plans,
    policy_publisher::{PodChanges, PolicyPublisher},
    ports::BoxFuture,
    waiting::pause,
};
use crate::domain::{
    clock::{BootInstant, Clock},
    identity::{ServiceAccount, SpiffeId},
    pace::Pace,
    policy::{GatewayPlan, PortSight, ProbeFinding, ProbeSight, ServicePlan, Verification},
    random::{SecureRandom, jitter},
};

/// 20 Services a second: 5,000 of them are asked within little more than four minutes, and hold less than a connection each.
const INTERVAL: Duration = Duration::from_millis(50);
const BURST: u32 = 50;
/// Services that are asked at a time, one connection each.
const AT_ONCE: usize = 32;

/// The port: one connection.
pub trait MutualTls: Send + Sync {
    /// Makes a connection with our own certificate, and looks whom it leads to. `None` while there is no certificate to show. Has its
    /// own time limit, of a few seconds.
    fn probe<'a>(&'a self, at: SocketAddr, identities: &'a [SpiffeId]) -> BoxFuture<'a, Option<ProbeFinding>>;
}

/// The use case.
pub struct PolicyProbes {
    publisher: Arc<PolicyPublisher>,
    changes: Arc<PodChanges>,
    tls: Arc<dyn MutualTls>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    metrics: Arc<Metrics>,
}

impl PolicyProbes {
    /// Of pods that `publisher` knows, of which `changes` tells; what is seen is told to its enforcement.
    pub fn new(
        (publisher, changes): (Arc<PolicyPublisher>, Arc<PodChanges>),
        tls: Arc<dyn MutualTls>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { publisher, changes, tls, clock, random, metrics }
    }

    /// Asks what the policies of `plans` need to be known, for ever.
    pub async fn run(self, mut plans: Plans) -> Infallible {
        let mut schedule = Schedule::default();
        let mut pace = Pace::new(INTERVAL, BURST, self.clock.boot());
        let mut known: Option<Arc<GatewayPlan>> = None;
        let mut probes = FuturesUnordered::new();
        loop {
            let now = self.clock.boot();
            let due = schedule.next_due().filter(|_| probes.len() < AT_ONCE);
            let turn = due.map(|due| due.max(pace.free_at()).since(now));
            tokio::select! {
                Ok(()) = plans.changed() => {
                    let newest = plans.borrow_and_update().clone();
                    want(&mut schedule, known.as_deref(), newest.as_deref(), now);
                    known = newest;
                }
                changed = self.changes.next() => changed.iter().for_each(|service| schedule.stir(service, now)),
                Some((turn, sight)) = probes.next(), if !probes.is_empty() => {
                    self.take(&mut schedule, &turn, sight);
                }
                () = pause(turn) => {
                    let now = self.clock.boot();
                    if pace.free_at() <= now && let Some(turn) = schedule.next(now) {
                        pace.take(now);
                        probes.push(self.probe(turn));
                    }
                }
            }
        }
    }

    fn take(&self, schedule: &mut Schedule, turn: &Turn, sight: Option<ProbeSight>) {
        // without one all wait as long as they may
        let jitter = jitter(self.random.as_ref()).unwrap_or(0);
        schedule.done(&turn.service, &turn.wish, sight.as_ref(), self.clock.boot(), jitter);
        if let Some(sight) = sight {
            self.publisher.enforcement().see(&turn.service, &turn.wish.accounts, sight);
        }
    }

    /// One pod of each port, one after the other; `None` if nothing could be asked.
    async fn probe(&self, turn: Turn) -> (Turn, Option<ProbeSight>) {
        let Turn { service, wish, before } = &turn;
        let targets = self.publisher.probe_targets(service, &wish.ports);
        let of = self.publisher.trust_domain();
        let ids = |account: &ServiceAccount| account.spiffe_id(of).ok();
        let identities: Vec<SpiffeId> = wish.accounts.iter().filter_map(ids).collect();
        let mut sight = ProbeSight::default();
        for port in &wish.ports {
            let seen = match before.next_target(*port, &targets) {
                None => None,
                Some(target) => {
                    let Some(finding) = self.tls.probe(target.at, &identities).await else { return (turn, None) };
                    self.metrics.policy_probed(&finding);
                    debug!(event = "policy_probe", %service, port, pod = &*target.pod, at = %target.at, %finding);
                    Some(PortSight { pod: Arc::clone(&target.pod), finding })
                }
            };
            sight.0.insert(*port, seen);
        }
        (turn, Some(sight))
    }
}

fn want(schedule: &mut Schedule, before: Option<&GatewayPlan>, newest: Option<&GatewayPlan>, now: BootInstant) {
    let Some(newest) = newest else { return };
    for (service, plan) in newest.changed_since(before) {
        schedule.want(service, plan.and_then(|plan| wish(&plan)), now);
    }
}

/// What is to be seen; nothing where no Route leads, or nobody is accepted.
fn wish(plan: &ServicePlan) -> Option<Wish> {
    let Verification::Portable(accounts) = &plan.policy.as_ref()?.verification else { return None };
    let ports = plan.uptake.as_ref()?.ports.clone();
    let is_any = !accounts.is_empty() && !ports.is_empty();
    is_any.then(|| Wish { accounts: accounts.clone(), ports })
}
