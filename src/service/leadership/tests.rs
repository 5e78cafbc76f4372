use std::{
    collections::HashMap,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    domain::{
        authority::testing::{NOW, TestRandom},
        clock::Timestamp,
        leadership::{HolderId, LeaseRecord, LeaseTiming, Observed, Occupancy, Version},
    },
    service::{
        ports::{StateObject, StateStore, Versioned},
        signing_state::Origin,
    },
};

const WITHIN: Duration = Duration::from_secs(10);

struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(1).plus(self.0.elapsed())
    }
}

/// A lease or lock in memory. Nobody else wants it.
#[derive(Default)]
struct TestElection {
    lease: Mutex<Option<Observed>>,
    writes: AtomicUsize,
    releases: AtomicUsize,
    trouble: Mutex<Option<Arc<str>>>,
}

impl Election for TestElection {
    fn request(&self, action: Action) -> BoxFuture<'_, Event> {
        let mut lease = self.lease.lock().unwrap();
        let event = match action {
            Action::ReadLease => Event::LeaseRead(lease.clone()),
            Action::WriteLease { expected, record } => {
                if lease.as_ref().map(|lease| &lease.version) == expected.as_ref() {
                    let number = self.writes.fetch_add(1, Ordering::Relaxed);
                    let version = Version::new(&number.to_string());
                    *lease = Some(Observed { version: version.clone(), record });
                    Event::LeaseWritten(version)
                } else {
                    Event::LeaseConflict
                }
            }
            Action::TryLock => Event::LockAcquired,
            Action::ReleaseLock
            | Action::ClaimState { .. }
            | Action::Grant { .. }
            | Action::Extend { .. }
            | Action::Revoke { .. }
            | Action::CloseStores => unreachable!("{action:?} is no request"),
        };
        Box::pin(async move { event })
    }

    fn release(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }

    fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().unwrap().clone()
    }
}

/// The state in memory, with the faults that a test asks for.
#[derive(Default)]
struct TestStore {
    term: Mutex<Term>,
    objects: Mutex<HashMap<StateObject, (Term, Vec<u8>)>>,
    fault: Mutex<Option<StateError>>,
    /// While true, claims hang.
    hung: Mutex<bool>,
    freed: Condvar,
    claiming: AtomicUsize,
    claims: AtomicUsize,
    two_at_once: AtomicBool,
}

impl TestStore {
    fn set_hung(&self, hung: bool) {
        *self.hung.lock().unwrap() = hung;
        self.freed.notify_all();
    }

    fn set_fault(&self, fault: Option<StateError>) {
        *self.fault.lock().unwrap() = fault;
    }
}

impl StateStore for TestStore {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        self.claims.fetch_add(1, Ordering::Relaxed);
        if self.claiming.fetch_add(1, Ordering::Relaxed) > 0 {
            self.two_at_once.store(true, Ordering::Relaxed);
        }
        drop(self.freed.wait_while(self.hung.lock().unwrap(), |hung| *hung).unwrap());
        self.claiming.fetch_sub(1, Ordering::Relaxed);
        if let Some(fault) = self.fault.lock().unwrap().clone() {
            return Err(fault);
        }
        let mut highest = self.term.lock().unwrap();
        if *highest >= term {
            return Err(StateError::Fenced { own: term, found: *highest });
        }
        *highest = term;
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        let stored = self.objects.lock().unwrap().get(&object).cloned();
        Ok(stored.map(|(term, content)| Versioned { version: 1, term, content: content.into() }))
    }

    fn compare_and_swap(&self, object: StateObject, _: u64, term: Term, content: &[u8]) -> Result<u64, StateError> {
        self.objects.lock().unwrap().insert(object, (term, content.to_vec()));
        Ok(1)
    }
}

/// A driver with all that it works on.
struct Replica {
    store: Arc<TestStore>,
    election: Arc<TestElection>,
    hints: Hints,
    standing: watch::Receiver<Standing>,
    sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    running: JoinHandle<Result<(), LeadershipError>>,
}

impl Replica {
    fn start(tenure: Tenure, fault: Option<StateError>) -> Self {
        let (store, election, hints) =
            (Arc::new(TestStore::default()), Arc::new(TestElection::default()), Hints::new());
        store.set_fault(fault);
        let clock: Arc<dyn Clock> = Arc::new(TestClock(tokio::time::Instant::now()));
        let opened = Arc::clone(&store);
        let state = SigningState::new(
            Box::new(move || Ok(Arc::clone(&opened) as _)),
            Origin::SelfSigned,
            "cluster.local".parse().unwrap(),
            Arc::clone(&clock),
            Arc::new(TestRandom),
        );
        let (session, sessions) = watch::channel(None);
        let machine = Machine::new(tenure, HolderId::parse("me").unwrap(), clock.boot());
        let (leadership, standing) =
            Leadership::new(machine, Arc::clone(&election) as _, Arc::new(state), session, hints.clone(), clock);
        let running = tokio::spawn(leadership.run(std::future::pending()));
        Self { store, election, hints, standing, sessions, running }
    }

    async fn until(&mut self, what: impl FnMut(&Standing) -> bool) -> Standing {
        let reached = timeout(WITHIN, self.standing.wait_for(what)).await.map(|standing| standing.unwrap().clone());
        reached.unwrap_or_else(|_| panic!("not within {WITHIN:?}; last: {:?}", self.standing.borrow()))
    }
}

/// Short enough for a test, long enough for a loaded machine.
fn lease() -> Tenure {
    let [renew, step_down, lease] = [200, 700, 1_000].map(Duration::from_millis);
    Tenure::Lease(LeaseTiming::new(renew, step_down, lease).unwrap())
}

fn damaged() -> StateError {
    StateError::Damaged("the authority object is gone: run countersign recover".into())
}

#[tokio::test]
async fn under_a_lease_a_damaged_state_is_said_and_used_once_it_is_mended() {
    let mut replica = Replica::start(lease(), Some(damaged()));
    let standing = replica.until(|standing| standing.trouble.is_some()).await;
    assert_eq!((standing.role, standing.term), (Role::Acquiring, None));
    assert_eq!(standing.trouble.as_deref(), Some(damaged().to_string().as_str()));
    assert!(replica.sessions.borrow().is_none());
    replica.store.set_fault(None);
    let standing = replica.until(|standing| standing.role == Role::Active).await;
    assert_eq!(standing.trouble, None);
    assert!(!replica.running.is_finished());
}

#[tokio::test]
async fn under_a_lease_a_damaged_state_is_not_asked_for_busily() {
    let mut replica = Replica::start(lease(), Some(damaged()));
    replica.until(|standing| standing.trouble.is_some()).await;
    let (begun, claims) = (tokio::time::Instant::now(), replica.store.claims.load(Ordering::Relaxed));
    let asked = || replica.store.claims.load(Ordering::Relaxed) - claims;
    timeout(WITHIN, async {
        while asked() < 5 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // 50, 100, 200 and 200 ms lie between them at least
    assert!(begun.elapsed() > Duration::from_millis(500), "five claims in {:?}", begun.elapsed());
}

#[tokio::test]
async fn under_a_lease_a_state_that_this_replica_can_not_use_is_left_to_others() {
    let unusable = StateError::Unusable("trustDomain is another".into());
    let mut replica = Replica::start(lease(), Some(unusable.clone()));
    let given_up = |standing: &Standing| standing.role == Role::Standby && standing.trouble.is_some();
    let standing = replica.until(given_up).await;
    assert_eq!(standing.trouble.as_deref(), Some(unusable.to_string().as_str()), "it could not take over");
    let record = replica.election.lease.lock().unwrap().clone().unwrap().record;
    assert_eq!(record.occupancy, Occupancy::Vacant);
    replica.until(|standing| standing.role == Role::Acquiring).await;
    replica.until(given_up).await;
    replica.store.set_fault(None);
    let standing = replica.until(|standing| standing.role == Role::Active).await;
    assert_eq!(standing.trouble, None);
}

#[tokio::test]
async fn under_a_lock_a_damaged_state_is_the_end() {
    let replica = Replica::start(Tenure::Lock, Some(damaged()));
    let ended = timeout(WITHIN, replica.running).await.unwrap().unwrap();
    assert!(matches!(ended, Err(LeadershipError::State(StateError::Damaged(_)))), "{ended:?}");
}

#[tokio::test]
async fn under_a_lock_a_state_that_can_not_be_read_now_is_said_and_the_lock_is_let_go_between_claims() {
    let mut replica = Replica::start(Tenure::Lock, Some(StateError::Io("too many open files".into())));
    let let_go = |standing: &Standing| standing.role == Role::Standby && standing.trouble.is_some();
    let standing = replica.until(let_go).await;
    assert_eq!(standing.trouble.as_deref(), Some("the state store failed: too many open files"));
    assert!(replica.election.releases.load(Ordering::Relaxed) > 0);
    replica.store.set_fault(None);
    let standing = replica.until(|standing| standing.role == Role::Active).await;
    assert_eq!(standing.trouble, None);
    assert!(!replica.running.is_finished());
}

#[tokio::test]
async fn when_no_term_is_left_it_is_said_and_nobody_signs() {
    let mut replica = Replica::start(lease(), None);
    *replica.store.term.lock().unwrap() = Term::new(u64::MAX - 1);
    let standing = replica.until(|standing| standing.trouble.is_some()).await;
    assert!(standing.trouble.is_some_and(|trouble| trouble.starts_with("no term is left")));
    assert!(replica.sessions.borrow().is_none());
}

#[tokio::test]
async fn a_claim_that_hangs_is_answered_and_the_next_one_waits_for_its_end() {
    let mut replica = Replica::start(lease(), None);
    replica.store.set_hung(true);
    let standing = replica.until(|standing| standing.trouble.is_some()).await;
    assert_eq!(standing.trouble.as_deref(), Some("the state store failed: a claim was not answered within 700ms"));
    let written = replica.election.writes.load(Ordering::Relaxed);
    timeout(WITHIN, async {
        while replica.election.writes.load(Ordering::Relaxed) < written + 5 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(replica.store.claims.load(Ordering::Relaxed), 1, "while the first one hangs");
    replica.store.set_hung(false);
    let standing = replica.until(|standing| standing.role == Role::Active).await;
    assert!(standing.term > Some(Term::new(1)), "the late claim took term 1: {standing:?}");
    assert!(!replica.store.two_at_once.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_higher_term_ends_the_session_and_is_outdone() {
    let mut replica = Replica::start(lease(), None);
    replica.until(|standing| standing.role == Role::Active).await;
    let session = replica.sessions.borrow().clone().unwrap();
    replica.hints.higher_term(Term::new(40));
    let standing = replica.until(|standing| standing.term == Some(Term::new(41))).await;
    assert!(session.enter(BootInstant::from_nanos(0)).is_none(), "the session has ended");
    assert_eq!(replica.sessions.borrow().as_ref().map(|session| session.term()), standing.term);
}

#[tokio::test]
async fn a_term_that_ends_leaves_no_session_behind() {
    let mut replica = Replica::start(lease(), None);
    replica.until(|standing| standing.role == Role::Active).await;
    let stranger = LeaseRecord { term: Term::new(9), occupancy: Occupancy::Held(HolderId::parse("another").unwrap()) };
    *replica.election.lease.lock().unwrap() = Some(Observed { version: Version::new("edited"), record: stranger });
    replica.until(|standing| standing.role == Role::Standby).await;
    assert!(replica.sessions.borrow().is_none());
}

#[tokio::test]
async fn what_keeps_the_lease_from_answering_is_told() {
    let mut replica = Replica::start(lease(), None);
    replica.until(|standing| standing.role == Role::Active).await;
    *replica.election.trouble.lock().unwrap() = Some("403 Forbidden".into());
    let standing = replica.until(|standing| standing.trouble.is_some()).await;
    assert_eq!(standing.trouble.as_deref(), Some("403 Forbidden"));
}
