//! Operators of a replica that is not active.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    domain::{attestation::DeniedSubject, leadership::Term},
    grpc::{
        operator_client::{self, OperatorError},
        pair_server::serve_operator,
        unix_listener::{SocketAccess, WorkloadListener},
    },
    service::{
        create_certificate::CreateError,
        issuance_history::{IssuanceHistory, PairHistories, RecordedEvent},
        ports::LeaseHolder,
    },
};
use rustix::process::geteuid;
use tokio::net::TcpListener;

use crate::{
    proxy::Proxy,
    replica::{ACCOUNT, ID, Pair, Replica},
};

/// The `admin.sock` of a replica.
async fn admin_socket(folder: &tempfile::TempDir, replica: &Replica) -> PathBuf {
    let path = folder.path().join(format!("{}.sock", replica.name));
    let access = SocketAccess { mode: 0o600, uids: vec![geteuid().as_raw()], gids: Vec::new() };
    let listener = WorkloadListener::bind(&path, access).await.unwrap();
    let (denial, export) = (Arc::clone(&replica.denial), Arc::clone(&replica.export));
    tokio::spawn(serve_operator(listener, histories(replica), denial, export, None, None, None));
    path
}

fn histories(replica: &Replica) -> Arc<PairHistories> {
    let own = Arc::clone(&replica.log) as Arc<dyn IssuanceHistory>;
    Arc::new(PairHistories::new(replica.name.clone(), own, Arc::clone(&replica.client) as _))
}

fn subject() -> DeniedSubject {
    DeniedSubject::Identity(ID.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_passes_commands_on_and_answers_of_the_active_back() {
    let pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    let session = active.take_over(1);
    pair.introduce(&[&active, &standby], &active, 1);
    standby.knows(&active, 1).await;
    let socket = admin_socket(&folder, &standby).await;

    let reason = "node lost".parse().unwrap();
    assert_eq!(operator_client::deny(&socket, &subject(), &reason).await.unwrap(), None);
    let denied = session.denied();
    let denial = denied.entry(&subject()).expect("it is in effect on the active");
    assert_eq!((denial.reason.as_str(), denial.actor_uid), ("node lost", geteuid().as_raw()));
    assert_eq!(operator_client::denied(&socket).await.unwrap(), *denied);
    let refused = standby.sign(&pair.by_token(ACCOUNT)).await.unwrap_err();
    assert!(matches!(refused, CreateError::ByActive { .. }), "{refused}");

    let old = operator_client::allow(&socket, &subject(), None).await.unwrap().unwrap();
    assert_eq!(old.reason.as_str(), "node lost");
    standby.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    let nothing = operator_client::allow(&socket, &subject(), None).await.unwrap_err();
    assert!(matches!(&nothing, OperatorError::Refused(why) if why.contains("is not denied")), "{nothing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_active_nothing_is_done_and_nothing_is_passed_on_twice() {
    let pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    pair.introduce(&[&active, &standby], &active, 1);
    standby.knows(&active, 1).await;
    active.step_down();
    let socket = admin_socket(&folder, &standby).await;
    let reason = "node lost".parse().unwrap();
    let begun = Instant::now();
    let nobody = operator_client::deny(&socket, &subject(), &reason).await.unwrap_err();
    assert!(matches!(&nobody, OperatorError::NoActive(_)), "{nobody}");
    standby.knows_nobody().await;
    let nobody = operator_client::denied(&socket).await.unwrap_err();
    assert!(matches!(&nobody, OperatorError::NoActive(why) if why.contains("is not active")), "{nobody}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_to_an_active_that_has_fallen_silent_may_have_been_done() {
    let pair = Pair::new();
    let folder = tempfile::tempdir().unwrap();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    let network = Proxy::to(active.address).await;
    standby.lease.send_replace(Some(LeaseHolder { pair_address: Some(network.address), ..active.as_holder(1) }));
    standby.knows(&active, 1).await;
    let socket = admin_socket(&folder, &standby).await;
    network.fall_silent();
    let reason = "node lost".parse().unwrap();
    let begun = Instant::now();
    let undecided = operator_client::deny(&socket, &subject(), &reason).await.unwrap_err();
    assert!(matches!(&undecided, OperatorError::Broken(_)), "{undecided}");
    assert!(begun.elapsed() < Duration::from_secs(5), "the command line waits for 5 s: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_of_all_replicas_are_listed_and_those_that_are_out_of_reach_named() {
    let pair = Pair::new();
    let (first, second) = (pair.start("uid-a").await, pair.start("uid-b").await);
    first.take_over(1);
    pair.introduce(&[&first, &second], &first, 1);
    second.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    first.step_down();
    second.take_over(2);
    second.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    second.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    let gone_from = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    second.known.heard_of(gone_from);

    let mut entries = histories(&second).entries();
    let (mut terms, mut missing) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.recv().await {
        let entry = entry.unwrap();
        match entry.event {
            RecordedEvent::Issued { term, .. } => terms.push((entry.log, entry.sequence, Term::new(term).number())),
            RecordedEvent::Missing { reason } => missing.push((entry.log, reason)),
            RecordedEvent::Withheld { .. } => panic!("nothing was withheld"),
        }
    }
    let log = |replica: &Replica, sequence, term| (replica.name.clone(), sequence, term);
    assert_eq!(terms, [log(&second, 1, 2), log(&second, 2, 2), log(&first, 1, 1)]);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].0 == gone_from.to_string() && missing[0].1.contains("can't be reached"), "{missing:?}");
}
