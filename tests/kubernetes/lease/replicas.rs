//! Replicas in this process: each with a driver, a client and a signer of its own.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use countersign::{
    domain::{
        clock::{BootInstant, Clock},
        leadership::{HolderId, LeaseTiming, Machine, Role, Tenure, Term},
    },
    k8s::{client::client, lease_store::LeaseStore},
    runtime::seams::{RingRandom, SystemClock},
    service::{
        leadership::{Hints, Leadership, Standing},
        ports::LeaseHolder,
        signing_session::SigningSession,
        signing_state::{Origin, SigningState},
        state_manifest::StateManifest,
    },
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use super::state::SharedState;
use crate::{
    cluster::{Cluster, block_on},
    support::wait::wait_until,
};

pub(super) const NAME: &str = "countersign";

/// Short, so that tests are; long enough for a loaded machine.
pub(super) fn short() -> LeaseTiming {
    let [renew, step_down, lease] = [500, 1_500, 2_000].map(Duration::from_millis);
    LeaseTiming::new(renew, step_down, lease).unwrap()
}

/// Two leases and four renewals, as `docs/failover.md` says, and some time for a loaded machine.
pub(super) fn bound(timing: LeaseTiming) -> Duration {
    timing.lease() * 2 + timing.renew() * 4 + Duration::from_secs(5)
}

/// A signature that was possible.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) replica: usize,
    pub(super) term: Term,
    pub(super) at: BootInstant,
}

pub(super) struct Replica {
    pub(super) id: String,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) observed: watch::Receiver<Option<LeaseHolder>>,
    leave: watch::Sender<bool>,
}

/// A pair, or more than two.
pub(super) struct Replicas {
    pub(super) all: Vec<Replica>,
    pub(super) state: Arc<SharedState>,
    pub(super) leases: Api<Lease>,
    timing: LeaseTiming,
    signatures: Arc<Mutex<Vec<Signature>>>,
    stop: Arc<AtomicBool>,
    signers: Vec<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

impl Replicas {
    /// Starts `count` replicas at once on a Lease in a namespace of their own.
    pub(super) fn start(cluster: &Cluster, count: usize, timing: LeaseTiming) -> Self {
        let (namespace, kubeconfig) = (block_on(cluster.namespace("lease")), cluster.admin_kubeconfig());
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let leases = {
            let _inside = runtime.enter();
            Api::namespaced(cluster.admin(), &namespace)
        };
        let mut replicas = Self {
            all: Vec::new(),
            state: Arc::default(),
            leases,
            timing,
            signatures: Arc::default(),
            stop: Arc::default(),
            signers: Vec::new(),
            runtime: None,
        };
        for index in 0..count {
            replicas.add(&runtime, index, &namespace, &kubeconfig);
        }
        replicas.runtime = Some(runtime);
        replicas
    }

    fn add(&mut self, runtime: &Runtime, index: usize, namespace: &str, kubeconfig: &Path) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let id = format!("replica-{index}");
        let client = runtime.block_on(client(Some(kubeconfig))).unwrap();
        let address = format!("10.0.0.{}:15013", index + 1).parse().ok();
        let manifest = Arc::new(StateManifest::default());
        let store = LeaseStore::new(client, namespace, NAME, self.timing, address, manifest, Arc::clone(&clock));
        let (observed, store, hints) = (store.observed(), Arc::new(store), Hints::new());
        runtime.spawn(Arc::clone(&store).watch(hints.clone()));
        let opened = Arc::clone(&self.state);
        let open = Box::new(move || Ok(Arc::clone(&opened) as _));
        let (own_domain, random) = ("cluster.local".parse().unwrap(), Arc::new(RingRandom::new()));
        let state = SigningState::new(open, Origin::SelfSigned, own_domain, Arc::clone(&clock), random);
        let (session, sessions) = watch::channel(None);
        let machine = Machine::new(Tenure::Lease(self.timing), HolderId::parse(&id).unwrap(), clock.boot());
        let (leadership, standing) = Leadership::new(machine, store, Arc::new(state), session, hints, clock);
        let (leave, mut asked) = watch::channel(false);
        runtime.spawn(async move {
            let asked = async move {
                let _asked = asked.wait_for(|leave| *leave).await.is_ok();
            };
            leadership.run(asked).await.unwrap();
        });
        let (signatures, stop) = (Arc::clone(&self.signatures), Arc::clone(&self.stop));
        self.signers.push(thread::spawn(move || sign_whenever_possible(index, &sessions, &signatures, &stop)));
        self.all.push(Replica { id, standing, observed, leave });
    }

    /// Asks one to leave.
    pub(super) fn leave(&self, index: usize) {
        self.all[index].leave.send_replace(true);
    }

    /// Waits until one is active in a term above `above`: which one, and in which.
    pub(super) fn wait_for_active(&self, above: Term, within: Duration) -> (usize, Term) {
        wait_until(within, &format!("one active in a term above {above}"), || {
            let standings: Vec<Standing> = self.all.iter().map(|replica| replica.standing.borrow().clone()).collect();
            let active = standings.iter().position(|standing| standing.role == Role::Active);
            let found = active.and_then(|index| Some((index, standings[index].term?)));
            found.filter(|(_, term)| *term > above).ok_or_else(|| format!("{standings:?}, {:?}", self.lease()))
        })
    }

    /// The object as it is now, if the API server answers soon.
    pub(super) fn lease(&self) -> Option<Lease> {
        self.on_runtime(async {
            tokio::time::timeout(Duration::from_secs(2), self.leases.get_opt(NAME)).await.ok()?.ok()?
        })
    }

    pub(super) fn on_runtime<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// Every signature so far, in order.
    pub(super) fn signatures(&self) -> Vec<Signature> {
        let mut signatures = self.signatures.lock().unwrap().clone();
        signatures.sort_by_key(|signature| signature.at);
        signatures
    }

    /// Each term is one replica's, and its signatures lie between those of the terms before and after.
    pub(super) fn assert_terms_do_not_overlap(&self) {
        let signatures = self.signatures();
        assert!(!signatures.is_empty(), "nobody ever signed");
        for pair in signatures.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            assert!(next.term >= one.term, "{one:?} then {next:?}");
            assert!(next.term > one.term || next.replica == one.replica, "{one:?} then {next:?}");
        }
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for signer in self.signers.drain(..) {
            let _already_reported = signer.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// As a request does: the session first, then the clock, and the session's word at last.
fn sign_whenever_possible(
    replica: usize,
    sessions: &watch::Receiver<Option<Arc<SigningSession>>>,
    signatures: &Mutex<Vec<Signature>>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(session) = sessions.borrow().clone() {
            let at = SystemClock.boot();
            if session.covers(at) {
                signatures.lock().unwrap().push(Signature { replica, term: session.term(), at });
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}
