//! What agents of gateways say to this replica, passed on to the others: every replica is to know what is in force.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::debug;

use super::{ANSWER_LIMIT, PairClient};
use crate::{
    domain::policy::{Report, ReportChange, Reporter},
    grpc::policy_report::report_message,
    proto::countersign::v1::{PassedReport, PassedReportTaken, pair_service_client::PairServiceClient},
    service::{
        context_acceptance::ReportPart,
        policy_enforcement::PolicyEnforcement,
        ports::{Candidate, PairEndpoint},
    },
};

/// New replicas are looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Changes within this are passed on together.
const PACE: Duration = Duration::from_millis(100);
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
/// For a replica of a version that takes none.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// Of each agent, what another replica was told.
type Told = BTreeMap<Arc<Reporter>, (u64, Report)>;

impl PairClient {
    /// Passes on what is said to `enforcement`, to whoever is known, for ever.
    pub async fn pass_reports(self: Arc<Self>, enforcement: Arc<PolicyEnforcement>) -> Infallible {
        let mut passing: HashMap<PairEndpoint, JoinSet<()>> = HashMap::new();
        loop {
            let known = self.directory.candidates().await.unwrap_or_default();
            let others = known.into_iter().filter(|known| known.replica.as_ref() != Some(&self.replica));
            let others: Vec<PairEndpoint> = others.map(|Candidate { endpoint, .. }| endpoint).collect();
            // a set of tasks that is dropped ends them
            passing.retain(|endpoint, _| others.contains(endpoint));
            for endpoint in others {
                passing.entry(endpoint.clone()).or_insert_with(|| {
                    let (pair, enforcement) = (Arc::clone(&self), Arc::clone(&enforcement));
                    let mut task = JoinSet::new();
                    task.spawn(async move { match pair.pass_reports_to(&endpoint, &enforcement).await {} });
                    task
                });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn pass_reports_to(&self, endpoint: &PairEndpoint, enforcement: &PolicyEnforcement) -> Infallible {
        loop {
            let Err(status) = self.pass_reports_on(endpoint, enforcement).await;
            debug!(event = "policy_reports_not_passed", to = %endpoint, code = ?status.code(), why = status.message());
            sleep(if status.code() == Code::Unimplemented { LONG_PAUSE } else { PAUSE }).await;
        }
    }

    /// On one stream, until it ends.
    async fn pass_reports_on(
        &self,
        endpoint: &PairEndpoint,
        enforcement: &PolicyEnforcement,
    ) -> Result<Infallible, Status> {
        let line = self.forwarding.to(endpoint).map_err(Status::unavailable)?;
        let (reports, passed) = mpsc::channel(1);
        let mut client = PairServiceClient::new(line.channel);
        let taken = within(client.pass_reports(ReceiverStream::new(passed))).await?;
        let (mut taken, mut told, mut changes) = (taken.into_inner(), Told::new(), enforcement.changes());
        loop {
            changes.mark_unchanged();
            let (begin, here) = (Instant::now(), enforcement.heard_here());
            told.retain(|reporter, _| here.contains(reporter));
            for reporter in here {
                for part in news_of(&reporter, enforcement, &mut told) {
                    let report = Some(report_message(reporter.instance.to_string(), part));
                    let message = PassedReport { gateway: reporter.gateway.to_string(), report };
                    // when the stream has ended, the answer says why
                    let _is_open = within(async { Ok(reports.send(message).await.is_ok()) }).await?;
                    let PassedReportTaken {} =
                        within(taken.message()).await?.ok_or_else(|| Status::unavailable("the replica has left"))?;
                }
            }
            _ = timeout_at(begin + CONFIRM_EVERY, changes.changed()).await;
            sleep_until(begin + PACE).await;
        }
    }
}

/// What the other replica does not know of an agent yet, or that it is as before.
fn news_of(reporter: &Arc<Reporter>, enforcement: &PolicyEnforcement, told: &mut Told) -> Vec<ReportPart> {
    let Some((sequence, now)) = enforcement.report_of(reporter) else { return Vec::new() };
    let before = told.get(reporter);
    if before.is_some_and(|(known, _)| *known == sequence) {
        return vec![ReportPart { sequence, ..ReportPart::default() }];
    }
    let change = ReportChange::between(before.map(|(_, report)| report), &now).unwrap_or_default();
    told.insert(Arc::clone(reporter), (sequence, now));
    ReportPart::parts_of(change, sequence)
}

async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(ANSWER_LIMIT, call).await.map_err(|_elapsed| Status::deadline_exceeded("no answer"))?
}
