//! What gateways' proxies hold, as it is told: the agent's side, and the replica's side of a stream.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{
    ca_client::{CaClient, Question},
    policy_places::Place,
};
use crate::{
    domain::{
        identity::SpiffeId,
        policy::{ContextReport, IdentitySet, ObjectName, ReportChange, Reporter},
    },
    proto::countersign::{
        policy::v1::{
            AcceptedIdentities, ReportRequest, ReportResponse, ServiceName, ServiceReport,
            policy_service_client::PolicyServiceClient,
        },
        v1::{PassedReport, PassedReportTaken},
    },
    service::{
        context_acceptance::{ReportPart, ReportSink, ReportStream},
        policy_enforcement::{PolicyEnforcement, ReportError, ReportOrigin, Reported},
        policy_follower::ServiceKey,
        ports::{BoxFuture, SignError},
    },
};

/// Of the name that an agent has for itself, in bytes.
const INSTANCE_AT_MOST: usize = 64;
/// Of a refusal's text, in bytes. An agent cuts it shorter.
const REFUSAL_AT_MOST: usize = 1024;
/// Sets of one Service.
const SETS_AT_MOST: usize = 16;
/// Of one change.
const SERVICES_AT_MOST: usize = 10_000;
/// Of one stream between replicas.
const AGENTS_AT_MOST: usize = 1024;
/// Who says nothing for so long is forgotten, and begins anew.
const SILENT_AT_MOST: Duration = Duration::from_secs(12);

/// Where an agent tells it: at the replicas that a client reaches on their CA port.
pub struct GatewayReports {
    replicas: Arc<CaClient>,
    instance: String,
}

struct Telling {
    instance: String,
    requests: mpsc::Sender<ReportRequest>,
    answers: Streaming<ReportResponse>,
}

impl GatewayReports {
    /// To `replicas`, in the name of a process that is called `instance`.
    pub const fn new(replicas: Arc<CaClient>, instance: String) -> Self {
        Self { replicas, instance }
    }
}

impl ReportSink for GatewayReports {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ReportStream>, String>> {
        Box::pin(async {
            let call = |question: Question| {
                let (requests, told) = mpsc::channel(1);
                let (channel, request) = question.bring(Request::new(ReceiverStream::new(told)));
                async move {
                    let answers = PolicyServiceClient::new(channel).report(request).await?.into_inner();
                    Ok((requests, answers))
                }
            };
            let opened = self.replicas.ask_anywhere(call, Ok::<_, SignError>).await;
            let (requests, answers) = opened.map_err(|error| error.to_string())?;
            Ok(Box::new(Telling { instance: self.instance.clone(), requests, answers }) as Box<dyn ReportStream>)
        })
    }
}

impl ReportStream for Telling {
    fn tell(&mut self, part: ReportPart) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let message = report_message(std::mem::take(&mut self.instance), part);
            // when the stream has ended, the answer says why
            let _is_open = self.requests.send(message).await.is_ok();
            let answer = self.answers.message().await;
            let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
            answer.map(|ReportResponse {}| ()).ok_or_else(|| "the replica has ended the stream".to_owned())
        })
    }
}

pub(super) fn report_message(instance: String, part: ReportPart) -> ReportRequest {
    let ReportPart { change: ReportChange { reset, services, gone }, sequence, is_last } = part;
    let services_gone = gone.iter().map(service_name).collect();
    let services = services.into_iter().map(|(service, report)| service_message(&service, report)).collect();
    ReportRequest { instance, sequence, reset, services, services_gone, last: is_last }
}

fn service_name(object: &ObjectName) -> ServiceName {
    ServiceName { namespace: object.namespace.to_string(), name: object.name.to_string() }
}

fn service_message(service: &ObjectName, report: ContextReport) -> ServiceReport {
    let accepted = report.accepted.into_iter();
    ServiceReport {
        service: Some(service_name(service)),
        streams: report.streams,
        accepted: accepted
            .map(|(set, streams)| AcceptedIdentities { set: Bytes::copy_from_slice(set.as_bytes()), streams })
            .collect(),
        refusal: report.refusal.unwrap_or_default().into(),
    }
}

/// A replica's side of a stream.
pub(super) struct Reports {
    enforcement: Arc<PolicyEnforcement>,
    requests: Streaming<ReportRequest>,
    gathering: Gathering,
    deadline: Instant,
    _place: Place,
}

/// What agents say to another replica, on one stream.
pub(super) struct PassedReports {
    enforcement: Arc<PolicyEnforcement>,
    messages: Streaming<PassedReport>,
    agents: HashMap<(String, String), Gathering>,
}

impl PassedReports {
    /// For a replica that is believed.
    pub(super) fn new(enforcement: Arc<PolicyEnforcement>, messages: Streaming<PassedReport>) -> Self {
        Self { enforcement, messages, agents: HashMap::new() }
    }

    /// Takes the next message.
    pub(super) async fn next(&mut self) -> Result<Option<PassedReportTaken>, Status> {
        let Some(PassedReport { gateway, report }) = self.messages.message().await? else { return Ok(None) };
        let report = report.ok_or_else(|| Status::invalid_argument("report is missing"))?;
        let agent = (gateway, report.instance.clone());
        if !self.agents.contains_key(&agent) {
            let gateway = agent.0.parse().map_err(|error| Status::invalid_argument(format!("gateway: {error}")))?;
            if self.agents.len() >= AGENTS_AT_MOST {
                // of those whose reports are all taken: each begins anew, if it still speaks
                return Err(Status::aborted("begin anew: this stream has had too many agents"));
            }
            self.agents.insert(agent.clone(), Gathering::new(gateway));
        }
        if let Some(gathering) = self.agents.get_mut(&agent)
            && let Some((reporter, reported)) = gathering.take(report)?
        {
            match self.enforcement.report(&reporter, ReportOrigin::Replica, reported) {
                Err(error @ ReportError::NotFollowed) => return Err(refusal(&error)),
                // what there is no room for is not known here
                Ok(()) | Err(ReportError::TooManyAgents(_) | ReportError::TooManyServices) => {}
            }
        }
        Ok(Some(PassedReportTaken {}))
    }
}

/// What one agent says on one stream.
struct Gathering {
    gateway: SpiffeId,
    reporter: Option<Arc<Reporter>>,
    /// The number of the last change that was taken from this stream.
    taken: Option<u64>,
    /// The part of the next that has come.
    change: ReportChange,
    has_begun: bool,
}

impl Reports {
    /// Of an agent of `gateway`, until `deadline`.
    pub(super) fn new(
        enforcement: Arc<PolicyEnforcement>,
        gateway: SpiffeId,
        requests: Streaming<ReportRequest>,
        deadline: Instant,
        place: Place,
    ) -> Self {
        Self { enforcement, requests, gathering: Gathering::new(gateway), deadline, _place: place }
    }

    /// Takes the next message. The agent's end of the stream is its end.
    pub(super) async fn next(&mut self) -> Result<Option<ReportResponse>, Status> {
        let silent = Instant::now() + SILENT_AT_MOST;
        let message = match timeout_at(silent.min(self.deadline), self.requests.message()).await {
            Ok(message) => message?,
            Err(_elapsed) if silent < self.deadline => {
                return Err(Status::deadline_exceeded(format!("nothing was said for {SILENT_AT_MOST:?}")));
            }
            Err(_elapsed) => return Err(Status::unavailable("open the stream again, with a proof that holds now")),
        };
        let Some(message) = message else { return Ok(None) };
        if let Some((reporter, reported)) = self.gathering.take(message)? {
            self.enforcement.report(&reporter, ReportOrigin::Agent, reported).map_err(|error| refusal(&error))?;
        }
        Ok(Some(ReportResponse {}))
    }
}

fn refusal(error: &ReportError) -> Status {
    match error {
        ReportError::NotFollowed => Status::failed_precondition(error.to_string()),
        ReportError::TooManyAgents(_) | ReportError::TooManyServices => Status::resource_exhausted(error.to_string()),
    }
}

impl Gathering {
    fn new(gateway: SpiffeId) -> Self {
        Self { gateway, reporter: None, taken: None, change: ReportChange::default(), has_begun: false }
    }

    /// What follows from a message: nothing while more of it is to come.
    fn take(&mut self, message: ReportRequest) -> Result<Option<(Arc<Reporter>, Reported)>, Status> {
        let reporter = self.reporter(message.instance)?;
        if message.reset {
            self.change = ReportChange { reset: true, ..ReportChange::default() };
        } else if self.taken.is_none() && !self.change.reset {
            return Err(Status::invalid_argument("everything comes first: reset is not set"));
        }
        self.has_begun |= message.reset || !message.services.is_empty() || !message.services_gone.is_empty();
        let services = message.services.into_iter().map(service_report).collect::<Result<Vec<_>, _>>()?;
        self.change.services.extend(services);
        let gone = message.services_gone.into_iter().map(|name| object(Some(name)));
        self.change.gone.extend(gone.collect::<Result<Vec<_>, _>>()?);
        if self.change.services.len().max(self.change.gone.len()) > SERVICES_AT_MOST {
            return Err(refusal(&ReportError::TooManyServices));
        }
        if !message.last && self.has_begun {
            return Ok(None);
        }
        let change = std::mem::take(&mut self.change);
        let follows = self.taken.filter(|_| !change.reset);
        self.has_begun = false;
        self.taken = Some(message.sequence);
        Ok(Some((reporter, Reported { sequence: message.sequence, follows, change })))
    }

    fn reporter(&mut self, instance: String) -> Result<Arc<Reporter>, Status> {
        if let Some(known) = &self.reporter {
            return Ok(Arc::clone(known));
        }
        let is_name = !instance.is_empty() && instance.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name || instance.len() > INSTANCE_AT_MOST {
            let wanted =
                format!("the first message names its instance by 1 to {INSTANCE_AT_MOST} printable characters");
            return Err(Status::invalid_argument(wanted));
        }
        let reporter = Arc::new(Reporter { gateway: self.gateway.clone(), instance: instance.into() });
        Ok(Arc::clone(self.reporter.insert(reporter)))
    }
}

fn service_report(message: ServiceReport) -> Result<(ObjectName, ContextReport), Status> {
    let service = object(message.service)?;
    let malformed = |what| Status::invalid_argument(format!("of Service {service}: {what}"));
    if message.accepted.len() > SETS_AT_MOST || message.refusal.len() > REFUSAL_AT_MOST {
        return Err(malformed("more sets, or a longer refusal, than is taken"));
    }
    let set = |accepted: AcceptedIdentities| {
        let set: [u8; 16] =
            accepted.set.as_ref().try_into().map_err(|_other_length| malformed("a set that is not 16 bytes long"))?;
        Ok::<_, Status>((IdentitySet::from_bytes(set), accepted.streams))
    };
    let accepted = message.accepted.into_iter().map(set).collect::<Result<_, _>>()?;
    let refusal = (!message.refusal.is_empty()).then(|| message.refusal.into());
    Ok((service, ContextReport { streams: message.streams, accepted, refusal }))
}

fn object(name: Option<ServiceName>) -> Result<ObjectName, Status> {
    let ServiceName { namespace, name } = name.unwrap_or_default();
    let key = ServiceKey::parse(&format!("{namespace}/{name}"));
    key.map(|key| key.object()).ok_or_else(|| Status::invalid_argument("service names no Service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathering() -> Gathering {
        Gathering::new("spiffe://td/gateway".parse().unwrap())
    }

    fn report() -> (ObjectName, ContextReport) {
        let accepted = [(IdentitySet::of([]), 2)].into();
        (ObjectName::new("n", "a"), ContextReport { streams: 3, accepted, refusal: Some("no".into()) })
    }

    fn message(sequence: u64, reset: bool, services: usize, is_last: bool) -> ReportRequest {
        let change = ReportChange { reset, services: vec![report(); services], gone: Vec::new() };
        report_message("agent-1".into(), ReportPart { change, sequence, is_last })
    }

    #[test]
    fn a_change_counts_when_it_is_whole_and_arrives_as_it_was_told() {
        let mut gathering = gathering();
        assert_eq!(gathering.take(message(1, true, 1, false)).unwrap(), None);
        let (reporter, first) = gathering.take(message(1, false, 1, true)).unwrap().unwrap();
        assert_eq!((reporter.instance.as_ref(), reporter.gateway.as_str()), ("agent-1", "spiffe://td/gateway"));
        let change = ReportChange { reset: true, services: vec![report(); 2], gone: Vec::new() };
        assert_eq!(first, Reported { sequence: 1, follows: None, change });
        let (_, second) = gathering.take(message(4, false, 1, true)).unwrap().unwrap();
        assert_eq!((second.sequence, second.follows, second.change.reset), (4, Some(1), false));
        let (_, still) = gathering.take(message(4, false, 0, false)).unwrap().unwrap();
        assert_eq!(still, Reported { sequence: 4, follows: Some(4), change: ReportChange::default() });
        let (_, nothing) = gathering.take(message(5, true, 0, true)).unwrap().unwrap();
        assert_eq!((nothing.follows, nothing.change.reset), (None, true));
    }

    #[test]
    fn what_is_malformed_or_too_much_is_refused() {
        let with = |change: fn(&mut ReportRequest)| {
            let mut message = message(1, true, 1, true);
            change(&mut message);
            gathering().take(message).map(|_| ()).map_err(|status| status.code())
        };
        assert_eq!(with(|_| {}), Ok(()));
        let bad: [fn(&mut ReportRequest); 9] = [
            |message| message.instance.clear(),
            |message| message.instance = "a b".into(),
            |message| message.instance = "a".repeat(INSTANCE_AT_MOST + 1),
            |message| message.reset = false,
            |message| message.services[0].service = None,
            |message| message.services[0].accepted[0].set = Bytes::from_static(&[0; 17]),
            |message| message.services[0].accepted = vec![AcceptedIdentities::default(); SETS_AT_MOST + 1],
            |message| message.services[0].refusal = "x".repeat(REFUSAL_AT_MOST + 1),
            |message| message.services_gone = vec![ServiceName { namespace: "N".into(), name: "a".into() }],
        ];
        for (number, change) in bad.into_iter().enumerate() {
            assert_eq!(with(change), Err(tonic::Code::InvalidArgument), "row {number}");
        }
        let mut gathering = gathering();
        gathering.take(message(1, true, SERVICES_AT_MOST, false)).unwrap();
        let too_many = gathering.take(message(1, false, 1, true)).unwrap_err();
        assert_eq!(too_many.code(), tonic::Code::ResourceExhausted);
    }
}
