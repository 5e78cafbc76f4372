//! The use case with the real state store, without a process of its own.

use std::{fs, path::Path, sync::Arc, time::Duration};

use countersign::{
    domain::{
        attestation::{Denial, Denied, DeniedSubject, Reason},
        authority::SigningAuthority,
        clock::Clock,
        leadership::Term,
        x509::SerialNumber,
    },
    runtime::seams::{RingRandom, SystemClock},
    service::{
        denial::{Actor, DenialError, IssuanceDenial},
        ports::{BoxFuture, ByActive, DenialChange, OperatorOfActive, OrderError, StateError, StateObject, StateStore},
        signing_session::SigningSession,
        signing_state::{ChangeError, Claim, Origin, SigningState, root_of},
    },
    storage::{active_lock::ActiveLock, data_dir::DataDir, state_store::EmbeddedStateStore},
};
use tokio::{runtime::Builder, sync::watch};

const ACTOR: Actor = Actor { uid: 1000, asserted_by: None };

/// There is no other replica.
struct Alone;

impl OperatorOfActive for Alone {
    fn change_denied<'a>(
        &'a self,
        _change: &'a DenialChange,
        _actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Option<Denial>>, OrderError>> {
        Box::pin(async { Err(alone()) })
    }

    fn denied(&self) -> BoxFuture<'_, Result<ByActive<Denied>, OrderError>> {
        Box::pin(async { Err(alone()) })
    }
}

fn alone() -> OrderError {
    OrderError::NoActive("there is no other replica".into())
}

/// An active replica's share of it.
struct Active {
    store: Arc<EmbeddedStateStore>,
    state: Arc<SigningState>,
    session: Arc<SigningSession>,
    denial: Arc<IssuanceDenial>,
    _sender: watch::Sender<Option<Arc<SigningSession>>>,
}

impl Active {
    /// Claims the next term.
    fn claim(path: &Path) -> Self {
        Self::claim_with(path, Origin::SelfSigned)
    }

    fn claim_with(path: &Path, origin: Origin) -> Self {
        let data_dir = DataDir::open(path).unwrap();
        let lock = ActiveLock::try_take(&data_dir).unwrap().expect("nobody else is active");
        let store = Arc::new(EmbeddedStateStore::open(data_dir, lock, root_of).unwrap());
        let opened = Arc::clone(&store);
        let open = Box::new(move || Ok(Arc::clone(&opened) as Arc<dyn StateStore>));
        let trust_domain = "cluster.local".parse().unwrap();
        let state = SigningState::new(open, origin, trust_domain, Arc::new(SystemClock), Arc::new(RingRandom::new()));
        let term = store.highest_term().unwrap().next();
        let Claim::Claimed(claimed) = state.claim(term).unwrap() else { panic!("term {term} was refused") };
        let session = Arc::new(SigningSession::new(term, claimed, None));
        let (sender, sessions) = watch::channel(Some(Arc::clone(&session)));
        let state = Arc::new(state);
        let domain = "cluster.local".parse().unwrap();
        let (pair, clock) = (Arc::new(Alone), Arc::new(SystemClock));
        let denial = Arc::new(IssuanceDenial::new(sessions, Arc::clone(&state), pair, domain, clock));
        Self { store, state, session, denial, _sender: sender }
    }

    fn deny(&self, subject: DeniedSubject, reason: &str) -> Result<(), DenialError> {
        run(self.denial.change(DenialChange::Deny { subject, reason: reason.parse().unwrap() }, ACTOR)).map(drop)
    }

    fn allow(&self, subject: DeniedSubject) -> Result<(), DenialError> {
        run(self.denial.change(DenialChange::Allow { subject, reason: None }, ACTOR)).map(drop)
    }
}

#[test]
fn what_is_denied_is_in_effect_at_once_and_in_the_next_term() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    active.deny(identity("a"), "lost").unwrap();
    active.deny(serial(7), "copied").unwrap();
    active.deny(identity("b"), "lost").unwrap();
    active.allow(identity("b")).unwrap();
    let denied = active.session.denied();
    assert!(denied.entry(&identity("a")).is_some() && denied.entry(&serial(7)).is_some());
    assert!(denied.entry(&identity("b")).is_none());

    active.state.close();
    let next = Active::claim(&folder.path().join("data"));
    assert_eq!(next.session.denied(), denied);
}

#[test]
fn with_a_plugged_in_authority_the_state_keeps_what_is_denied_too() {
    let folder = tempfile::tempdir().unwrap();
    let domain = "cluster.local".parse().unwrap();
    let lifetime = Duration::from_secs(3600);
    let made = SigningAuthority::self_signed(&domain, lifetime, SystemClock.now(), &RingRandom::new()).unwrap();
    let (_plugged_in, authority) = watch::channel(Arc::new(made.0));
    let claim = || Active::claim_with(&folder.path().join("data"), Origin::PluggedIn(authority.clone()));

    let active = claim();
    assert!(active.session.denied().is_empty());
    active.deny(identity("a"), "lost").unwrap();
    active.deny(serial(7), "copied").unwrap();
    active.state.close();
    let next = claim();
    assert_eq!(next.session.denied().iter().count(), 2);
    assert_eq!(next.session.denied(), active.session.denied());
}

#[test]
fn of_many_changes_at_once_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    let runtime = Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let changes: Vec<_> = (1..=24)
        .map(|number| {
            let denial = Arc::clone(&active.denial);
            runtime.spawn(async move {
                denial.change(DenialChange::Deny { subject: serial(number), reason: reason() }, ACTOR).await
            })
        })
        .collect();
    for change in changes {
        runtime.block_on(change).unwrap().unwrap();
    }
    let denied = active.session.denied();
    assert_eq!(denied.iter().count(), 24);
    active.state.close();
    assert_eq!(Active::claim(&folder.path().join("data")).session.denied(), denied);
}

#[test]
fn a_full_list_is_an_error_with_the_fix_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    let long = "r".repeat(256);
    let (count, error) = (0..)
        .find_map(|number| {
            active.deny(identity(&format!("account-{number}")), &long).err().map(|error| (number, error))
        })
        .unwrap();
    assert!(matches!(error, DenialError::Change(ChangeError::Full { .. })), "{error}");
    assert!(error.to_string().contains("allow those again"), "{error}");
    assert!(count > 40, "no room for more than {count}");
    assert_eq!(active.session.denied().iter().count(), count);
    active.allow(identity("account-0")).unwrap();
    active.deny(identity("another"), &long).unwrap();
}

#[test]
fn a_replica_whose_term_is_over_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    active.deny(identity("a"), "lost").unwrap();
    let before = active.session.denied();

    // a later term has claimed the state, and this one does not know yet
    active.store.claim(Term::new(9)).unwrap();
    let nobody = Err(alone().into());
    assert_eq!(active.deny(identity("b"), "lost"), nobody);
    assert_eq!(active.session.denied(), before);
    active.session.end();
    assert_eq!(active.deny(identity("b"), "lost"), nobody);
    // what another replica has passed on goes no further
    let deny = DenialChange::Deny { subject: identity("b"), reason: reason() };
    let passed_on = Actor { asserted_by: Some("another".into()), ..ACTOR };
    assert_eq!(run(active.denial.change(deny, passed_on)), Err(OrderError::NotActive.into()));
    assert_eq!(run(active.denial.denied_here_or_by_active()).map(drop), nobody);
    assert_eq!(active.denial.denied(), Err(OrderError::NotActive.into()));
}

#[test]
fn a_closed_store_stays_closed_and_nothing_takes_effect() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    active.state.close();
    let error = active.deny(identity("a"), "lost").unwrap_err();
    assert!(matches!(error, DenialError::Change(ChangeError::State(StateError::Io(_)))), "{error}");
    assert!(active.session.denied().is_empty());
    assert!(ActiveLock::try_take(&DataDir::open(&folder.path().join("data")).unwrap()).unwrap().is_some());
}

#[test]
fn a_write_that_fails_takes_no_effect() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let active = Active::claim(&data);
    // the manifest can't be replaced any more
    fs::remove_file(data.join("manifest")).unwrap();
    fs::create_dir(data.join("manifest")).unwrap();
    let error = active.deny(identity("a"), "lost").unwrap_err();
    assert!(error.to_string().contains("restart the active replica"), "{error}");
    assert!(active.session.denied().is_empty());
}

#[test]
fn what_is_never_issued_can_not_be_denied() {
    let folder = tempfile::tempdir().unwrap();
    let active = Active::claim(&folder.path().join("data"));
    let version = active.store.load(StateObject::Trust).unwrap().unwrap().version;
    for id in ["spiffe://other.example/ns/a/sa/b", "spiffe://cluster.local/countersign/serving"] {
        let subject = DeniedSubject::Identity(id.parse().unwrap());
        assert!(matches!(active.deny(subject, "lost"), Err(DenialError::NeverIssued(..))), "{id}");
    }
    let missing = active.allow(serial(1));
    assert_eq!(missing, Err(DenialError::NotDenied(serial(1))));
    assert_eq!(active.store.load(StateObject::Trust).unwrap().unwrap().version, version);
}

fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().build().unwrap().block_on(future)
}

fn reason() -> Reason {
    "lost".parse().unwrap()
}

fn identity(name: &str) -> DeniedSubject {
    DeniedSubject::Identity(format!("spiffe://cluster.local/ns/default/sa/{name}").parse().unwrap())
}

fn serial(number: u8) -> DeniedSubject {
    DeniedSubject::Serial(SerialNumber::from_bytes(&[number]))
}
