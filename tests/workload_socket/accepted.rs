//! What clients have accepted of the contexts of Services is noted: by their answers alone, on either protocol.

use std::sync::{Arc, Mutex};

use countersign::{
    domain::policy::{ContextReport, IdentitySet, ObjectName},
    grpc::workload_server::ServedPolicies,
    proto::{
        envoy::service::{
            discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
        google::rpc,
    },
    service::{
        context_acceptance::AcceptanceBook,
        metrics::Metrics,
        policy_follower::{PolicyFollower, PolicySource, PolicyStream, ServiceKey},
        policy_view::{PolicyUpdate, ServiceView},
        ports::BoxFuture,
    },
};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    support::{Behaviour, DEADLINE, Socket, TestClock, TestRandom, id},
    workload_api::next,
};

const NAME: &str = "validation/test-infra/backend";

/// Policies as the test says them.
struct Told(Mutex<Option<mpsc::UnboundedReceiver<PolicyUpdate>>>);

struct ToldStream(mpsc::UnboundedReceiver<PolicyUpdate>);

impl PolicySource for Told {
    fn watch<'a>(
        &'a self,
        _version: &'a str,
        _known: &'a [ServiceKey],
    ) -> BoxFuture<'a, Result<Box<dyn PolicyStream>, String>> {
        let updates = self.0.lock().unwrap().take();
        Box::pin(async {
            let updates = updates.ok_or_else(|| "there is one stream".to_owned())?;
            Ok(Box::new(ToldStream(updates)) as Box<dyn PolicyStream>)
        })
    }
}

impl PolicyStream for ToldStream {
    fn next(&mut self) -> BoxFuture<'_, Result<PolicyUpdate, String>> {
        Box::pin(async { self.0.recv().await.ok_or_else(|| "the test has ended".to_owned()) })
    }
}

struct Following {
    socket: Socket,
    book: Arc<AcceptanceBook>,
    updates: mpsc::UnboundedSender<PolicyUpdate>,
}

impl Following {
    async fn start() -> Self {
        let (updates, told) = mpsc::unbounded_channel();
        let source = Arc::new(Told(Mutex::new(Some(told))));
        let metrics = Arc::new(Metrics::of_agent());
        let (follower, peers) = PolicyFollower::new(source, metrics, TestClock::new(), Arc::new(TestRandom::default()));
        tokio::spawn(follower.run());
        let book = Arc::new(AcceptanceBook::default());
        let policies = ServedPolicies { peers, book: Arc::clone(&book) };
        let socket = Socket::start_with(Behaviour::SignFor(id()), 3600, Some(policies)).await;
        Self { socket, book, updates }
    }

    /// The pods behind the Service run as these.
    fn accepts(&self, accounts: &[&str]) {
        let service = ServiceView {
            namespace: "test-infra".into(),
            name: "backend".into(),
            mode: "mutual-tls".into(),
            identities: accounts.iter().map(|account| id_of(account)).collect(),
            ports: Vec::new(),
            conditions: Vec::new(),
        };
        let update =
            PolicyUpdate { reset: true, version: "r/1".into(), services: vec![service], ..PolicyUpdate::default() };
        self.updates.send(update).unwrap();
    }

    fn report(&self) -> Option<ContextReport> {
        self.book.report().remove(&ObjectName::new("test-infra", "backend"))
    }

    async fn until(&self, what: &str, is_so: impl Fn(Option<&ContextReport>) -> bool) {
        let reached = async {
            while !is_so(self.report().as_ref()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(DEADLINE, reached).await.is_err() {
            panic!("{what}: {:?}", self.report());
        }
    }
}

fn id_of(account: &str) -> String {
    format!("spiffe://cluster.local/ns/test-infra/sa/{account}")
}

fn set(account: &str) -> IdentitySet {
    IdentitySet::of([&id_of(account).parse().unwrap()])
}

fn has(report: Option<&ContextReport>, streams: u32, account: &str) -> bool {
    report.is_some_and(|report| {
        report.streams == streams && report.accepted == [(set(account), streams)].into() && report.refusal.is_none()
    })
}

fn refusal() -> Option<rpc::Status> {
    Some(rpc::Status { message: "no such CA".into(), ..rpc::Status::default() })
}

#[tokio::test]
async fn state_of_the_world_counts_an_answer_with_the_version_that_was_sent() {
    let following = Following::start().await;
    let (requests, asked) = mpsc::unbounded_channel();
    let ask = |version: &str, nonce: &str, error_detail| DiscoveryRequest {
        resource_names: vec![NAME.into()],
        version_info: version.into(),
        response_nonce: nonce.into(),
        error_detail,
        ..DiscoveryRequest::default()
    };
    requests.send(ask("", "", None)).unwrap();
    let mut client = SecretDiscoveryServiceClient::new(following.socket.connect().await);
    let opening = client.stream_secrets(UnboundedReceiverStream::new(asked));
    following.accepts(&["one"]);
    let mut responses = opening.await.unwrap().into_inner();
    let first = next(&mut responses).await;
    let nothing = ContextReport { streams: 1, ..ContextReport::default() };
    following.until("asked for, and nothing accepted", |report| report == Some(&nothing)).await;
    requests.send(ask(&first.version_info, &first.nonce, None)).unwrap();
    following.until("the first set", |report| has(report, 1, "one")).await;

    following.accepts(&["two"]);
    let second = next(&mut responses).await;
    assert!(has(following.report().as_ref(), 1, "one"), "it is sent, and not accepted yet");
    requests.send(ask(&first.version_info, &second.nonce, refusal())).unwrap();
    let is_refused = |report: Option<&ContextReport>| {
        report.is_some_and(|report| {
            report.refusal.as_deref() == Some("no such CA") && report.accepted.contains_key(&set("one"))
        })
    };
    following.until("the refusal", is_refused).await;
    requests.send(ask(&first.version_info, &second.nonce, None)).unwrap();
    following.accepts(&["three"]);
    let third = next(&mut responses).await;
    assert!(is_refused(following.report().as_ref()), "the version of another answer says nothing of this one");
    requests.send(ask(&third.version_info, &third.nonce, None)).unwrap();
    following.until("the third set", |report| has(report, 1, "three")).await;
    drop(requests);
    drop(responses);
    following.until("nobody who asks", |report| report.is_none()).await;
}

#[tokio::test]
async fn delta_counts_answers_by_nonce_and_what_a_client_has_kept() {
    let following = Following::start().await;
    let (requests, asked) = mpsc::unbounded_channel();
    let subscribe =
        || DeltaDiscoveryRequest { resource_names_subscribe: vec![NAME.into()], ..DeltaDiscoveryRequest::default() };
    let answer = |nonce: &str, error_detail| DeltaDiscoveryRequest {
        response_nonce: nonce.into(),
        error_detail,
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(subscribe()).unwrap();
    following.accepts(&["one"]);
    let mut client = SecretDiscoveryServiceClient::new(following.socket.connect().await);
    let mut responses = client.delta_secrets(UnboundedReceiverStream::new(asked)).await.unwrap().into_inner();
    let first = next(&mut responses).await;
    following.accepts(&["two"]);
    let second = next(&mut responses).await;
    requests.send(answer(&first.nonce, None)).unwrap();
    following.until("the first set, late", |report| has(report, 1, "one")).await;
    requests.send(answer(&second.nonce, refusal())).unwrap();
    following.until("the refusal", |report| report.is_some_and(|report| report.refusal.is_some())).await;
    following.accepts(&["three"]);
    let third = next(&mut responses).await;
    requests.send(answer(&third.nonce, None)).unwrap();
    following.until("the third set", |report| has(report, 1, "three")).await;

    let kept = [(NAME.to_owned(), third.resources[0].version.clone())];
    let again = DeltaDiscoveryRequest { initial_resource_versions: kept.into(), ..subscribe() };
    let (more, asked) = mpsc::unbounded_channel();
    more.send(again).unwrap();
    let others = client.delta_secrets(UnboundedReceiverStream::new(asked)).await.unwrap().into_inner();
    following.until("two clients, of which one has kept it", |report| has(report, 2, "three")).await;
    drop((more, others));
    following.until("the other alone", |report| has(report, 1, "three")).await;
    let unsubscribe =
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec![NAME.into()], ..DeltaDiscoveryRequest::default() };
    requests.send(unsubscribe).unwrap();
    following.until("nobody who asks", |report| report.is_none()).await;
}
