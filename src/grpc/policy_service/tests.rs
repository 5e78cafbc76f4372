use futures_util::StreamExt;
use tokio::time::timeout;

use super::*;
use crate::{
    domain::{
        identity::ServiceAccount,
        policy::{
            Backing, Change, ClusterChange, ContextReport, IdentitySet, Labels, MeshLabels, NamespaceFacts, PodFacts,
            ReportChange, Reporter, ServiceFacts, Sidecar,
        },
    },
    service::{
        metrics::Metrics,
        policy_enforcement::{ReportOrigin, Reported},
    },
};

fn labels() -> Arc<Labels> {
    Arc::new([("app", "s")].into_iter().collect())
}

/// The Service's pods: one, which runs as this account.
fn pods(account: &str) -> ClusterChange {
    ClusterChange::Pods(Change::Reset(vec![PodFacts {
        object: ObjectName::new("n", account),
        uid: account.into(),
        labels: labels(),
        account: ServiceAccount::new("n", account).unwrap(),
        finished: false,
        sidecar: Sidecar::Injected,
        ready_at: None,
        named_ports: None,
        control_plane: None,
    }]))
}

fn publisher() -> Arc<PolicyPublisher> {
    let publisher = Arc::new(PolicyPublisher::new("td".parse().unwrap(), "r"));
    let mesh = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
    publisher.apply(ClusterChange::Namespaces(Change::Reset(vec![NamespaceFacts {
        name: "n".into(),
        labels: mesh,
        all_labels: Labels::default(),
    }])));
    publisher.apply(ClusterChange::Services(Change::Reset(vec![ServiceFacts {
        object: ObjectName::new("n", "s"),
        uid: "s".into(),
        created: 0,
        backing: Backing::Selector((*labels()).clone()),
        ports: [].into(),
        opt_out: None,
        tag: None,
    }])));
    publisher.apply(pods("a"));
    publisher.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
    let (publishing, enforcement) = (Arc::clone(&publisher), Arc::clone(publisher.enforcement()));
    tokio::spawn(publishing.run());
    tokio::spawn(enforcement.run(publisher.follow(), None, Arc::new(Metrics::new())));
    publisher
}

/// A gateway has accepted `account` alone, and says so as its change of that number.
fn accept(publisher: &PolicyPublisher, account: &str, sequence: u64) {
    let set = IdentitySet::of([&format!("spiffe://td/ns/n/sa/{account}").parse().unwrap()]);
    let report = ContextReport { streams: 1, accepted: [(set, 1)].into(), refusal: None };
    let services = vec![(ObjectName::new("n", "s"), report)];
    let change = ReportChange { reset: true, services, gone: Vec::new() };
    let reporter = Arc::new(Reporter { gateway: "spiffe://td/gateway".parse().unwrap(), instance: "one".into() });
    let reported = Reported { sequence, follows: None, change };
    publisher.enforcement().report(&reporter, ReportOrigin::Agent, reported).unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_that_identities_are_in_force_which_nobody_has_judged_yet() {
    let publisher = publisher();
    let source = Source::Operator(publisher.enforcement().follow());
    let mut stream = updates(&publisher, source, &WatchRequest::default());
    let mut sequence = 1;
    for account in ["a", "b", "c"] {
        publisher.apply(pods(account));
        let (id, others) = (format!("spiffe://td/ns/n/sa/{account}"), Duration::from_secs(60));
        let mut accepted = false;
        loop {
            let message = timeout(others, stream.next()).await.expect("never in force").unwrap().unwrap();
            let Some(service) = message.services.into_iter().next() else { continue };
            let is_enforced = service.conditions.iter().any(|condition| condition.reason == "Enforced");
            let is_new = service.identities == [id.clone()];
            assert!(!(is_new && is_enforced && !accepted), "{account} is said to be in force: nobody has accepted it");
            match (is_new, is_enforced) {
                (true, true) => break,
                (true, false) if !accepted => {
                    accept(&publisher, account, sequence);
                    (accepted, sequence) = (true, sequence + 1);
                }
                _ => {}
            }
        }
    }
}
