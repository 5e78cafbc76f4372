use std::{collections::VecDeque, sync::Mutex};

use tokio::time::Instant;

use super::{accepted_peers::LEAVE_WITHIN, *};
use crate::domain::{
    authority::testing::TestRandom,
    clock::{BootInstant, Timestamp},
};
use crate::service::policy_view::ServiceView;

/// What happens on each stream in turn; afterwards nobody answers.
struct Scripted {
    streams: Mutex<VecDeque<Vec<Result<PolicyUpdate, String>>>>,
    asked: Mutex<Vec<String>>,
}

struct ScriptedStream(VecDeque<Result<PolicyUpdate, String>>);

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1000)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

impl PolicySource for Scripted {
    fn watch<'a>(
        &'a self,
        version: &'a str,
        _known: &'a [ServiceKey],
    ) -> BoxFuture<'a, Result<Box<dyn PolicyStream>, String>> {
        self.asked.lock().unwrap().push(version.to_owned());
        let next = self.streams.lock().unwrap().pop_front();
        let stream = next.map(|all| Box::new(ScriptedStream(all.into())) as Box<dyn PolicyStream>);
        Box::pin(async { stream.ok_or_else(|| "nobody is there".to_owned()) })
    }
}

impl PolicyStream for ScriptedStream {
    fn next(&mut self) -> BoxFuture<'_, Result<PolicyUpdate, String>> {
        Box::pin(async {
            match self.0.pop_front() {
                Some(update) => update,
                None => std::future::pending().await,
            }
        })
    }
}

fn whole(version: &str) -> PolicyUpdate {
    PolicyUpdate { reset: true, version: version.to_owned(), ..PolicyUpdate::default() }
}

fn gone(version: &str) -> PolicyUpdate {
    PolicyUpdate { version: version.to_owned(), services_gone: vec!["a/b".into()], ..PolicyUpdate::default() }
}

fn follower(
    streams: Vec<Vec<Result<PolicyUpdate, String>>>,
) -> (PolicyFollower, PeersReceiver, Arc<Scripted>, Arc<Metrics>) {
    let source = Arc::new(Scripted { streams: Mutex::new(streams.into()), asked: Mutex::default() });
    let metrics = Arc::new(Metrics::of_agent());
    let (follower, peers) =
        PolicyFollower::new(Arc::clone(&source) as _, Arc::clone(&metrics), Arc::new(Fixed), Arc::new(TestRandom));
    (follower, peers, source, metrics)
}

#[tokio::test(start_paused = true)]
async fn goes_on_from_where_it_was_and_keeps_what_is_known_while_nobody_answers() {
    let lost = || Err("the replica has left".to_owned());
    let (follower, mut peers, source, metrics) =
        follower(vec![vec![Ok(whole("r/1")), lost()], vec![Ok(gone("r/2")), lost()]]);
    assert!(!metrics.encode().contains("policy_confirmed_timestamp_seconds 1"));
    let begin = Instant::now();
    let run = timeout(Duration::from_secs(60), follower.run());
    assert!(run.await.is_err());
    assert_eq!(peers.borrow_and_update().as_ref().unwrap().revision(), 2);
    let asked = source.asked.lock().unwrap().clone();
    assert_eq!(asked[..3], ["", "r/1", "r/2"]);
    assert!(asked.len() > 30 && asked.len() < 60, "{} times in {:?}", asked.len(), begin.elapsed());
    assert!(metrics.encode().contains("countersign_policy_confirmed_timestamp_seconds{} 1000"), "{}", metrics.encode());
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_change_that_can_not_be_read_is_used() {
    let unreadable = PolicyUpdate { services_gone: vec!["x".into()], ..gone("r/2") };
    let (follower, mut peers, source, _) =
        follower(vec![vec![Ok(whole("r/1")), Ok(unreadable)], vec![Ok(whole("r/3"))]]);
    let run = timeout(Duration::from_secs(60), follower.run());
    assert!(run.await.is_err());
    assert_eq!(peers.borrow_and_update().as_ref().unwrap().revision(), 2);
    assert_eq!(source.asked.lock().unwrap()[..], ["", ""]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_everything_is_known() {
    let part = PolicyUpdate { version: String::new(), ..whole("") };
    let (follower, peers, ..) = follower(vec![vec![Ok(part)]]);
    let run = timeout(Duration::from_secs(60), follower.run());
    assert!(run.await.is_err());
    assert!(peers.borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn whom_a_service_accepted_last_is_forgotten_in_time_also_while_nobody_answers() {
    let service = ServiceView {
        namespace: "a".into(),
        name: "b".into(),
        mode: "mutual-tls".into(),
        identities: vec!["spiffe://td/ns/a/sa/b".into()],
        ports: Vec::new(),
        conditions: Vec::new(),
    };
    let first = PolicyUpdate { services: vec![service], ..whole("r/1") };
    let lost = Err("the replica has left".to_owned());
    let (follower, peers, ..) = follower(vec![vec![Ok(first), Ok(gone("r/2")), lost]]);
    let mut run = std::pin::pin!(follower.run());
    let known = |peers: &PeersReceiver| peers.borrow().as_ref().map(|peers| peers.len());
    assert!(timeout(LEAVE_WITHIN - Duration::from_secs(1), run.as_mut()).await.is_err());
    assert_eq!(known(&peers), Some(1));
    assert!(timeout(Duration::from_secs(8), run.as_mut()).await.is_err());
    assert_eq!(known(&peers), Some(0));
}
