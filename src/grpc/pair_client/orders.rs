//! What operators of this replica want, done by the active.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Response, Status};

use super::{PairClient, is_said_by_peer};
use crate::{
    domain::attestation::{Denial, Denied},
    grpc::{
        denial_messages::{allow_request, denied_of, deny_request, old_of},
        pair_channels::Line,
        pair_service::ANSWERED,
        rotation_messages::{report_of, request_for},
        status::said_by,
    },
    proto::countersign::{
        rotation::v1::{ForwardedRotate, rotation_pair_service_client::RotationPairServiceClient},
        v1::{ForwardedAllow, ForwardedDeny, ListDeniedRequest, pair_service_client::PairServiceClient},
    },
    service::ports::{
        ActiveReplica, BoxFuture, ByActive, DenialChange, OperatorOfActive, OrderError, RotationOfActive,
        RotationOrder, RotationReport,
    },
};

/// The active writes its state before it answers; the operator's own command waits a little longer.
const ORDER_LIMIT: Duration = Duration::from_secs(4);

impl PairClient {
    pub(super) fn line_to_active(&self) -> Result<(ActiveReplica, Line), OrderError> {
        let active = self.active_or_why_not().map_err(OrderError::NoActive)?;
        let line = self.asking.to(&active.endpoint).map_err(OrderError::NoActive)?;
        Ok((active, line))
    }

    async fn ordered<T>(
        &self,
        active: &ActiveReplica,
        line: &Line,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, OrderError> {
        self.ordered_within(ORDER_LIMIT, active, line, answer).await
    }

    pub(super) async fn ordered_within<T>(
        &self,
        limit: Duration,
        active: &ActiveReplica,
        line: &Line,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, OrderError> {
        let replica = &active.replica;
        let status = match timeout(limit, answer).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_elapsed) => {
                self.asking.forget(line);
                self.doubt.notify_one();
                return Err(OrderError::Undecided(format!("{replica} did not answer within {limit:?}")));
            }
        };
        if status.metadata().contains_key(ANSWERED) {
            return Err(OrderError::Refused { code: status.code().into(), message: status.message().to_owned() });
        }
        self.doubt.notify_one();
        if !is_said_by_peer(&status) {
            self.asking.forget(line);
        }
        Err(if status.code() == Code::FailedPrecondition {
            OrderError::NoActive(format!("{replica} is not active any more"))
        } else if status.code() == Code::Unimplemented {
            let message = format!("{replica}, which is active, is of a version that takes no orders of other replicas");
            OrderError::Refused { code: Code::Unimplemented.into(), message }
        } else {
            OrderError::Undecided(format!("{replica}: {}", said_by(&status)))
        })
    }

    async fn change(&self, change: &DenialChange, actor_uid: u32) -> Result<ByActive<Option<Denial>>, OrderError> {
        let (active, line) = self.line_to_active()?;
        let mut client = PairServiceClient::new(line.channel.clone());
        let replica = self.replica.clone();
        let changed = match change {
            DenialChange::Deny { subject, reason } => {
                let request = Some(deny_request(subject, reason));
                let deny = client.deny(ForwardedDeny { request, actor_uid, replica });
                self.ordered(&active, &line, deny).await?
            }
            DenialChange::Allow { subject, reason } => {
                let request = Some(allow_request(subject, reason.as_ref()));
                let allow = client.allow(ForwardedAllow { request, actor_uid, replica });
                self.ordered(&active, &line, allow).await?
            }
        };
        let answer = old_of(changed).map_err(|status| nonsense(&active, &status))?;
        Ok(ByActive { answer, replica: active.replica })
    }

    async fn list_denied(&self) -> Result<ByActive<Denied>, OrderError> {
        let (active, line) = self.line_to_active()?;
        let mut client = PairServiceClient::new(line.channel.clone());
        let list = self.ordered(&active, &line, client.list_denied(ListDeniedRequest {})).await?;
        let answer = denied_of(list).map_err(|status| nonsense(&active, &status))?;
        Ok(ByActive { answer, replica: active.replica })
    }
}

impl OperatorOfActive for PairClient {
    fn change_denied<'a>(
        &'a self,
        change: &'a DenialChange,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Option<Denial>>, OrderError>> {
        Box::pin(self.change(change, actor_uid))
    }

    fn denied(&self) -> BoxFuture<'_, Result<ByActive<Denied>, OrderError>> {
        Box::pin(self.list_denied())
    }
}

impl RotationOfActive for PairClient {
    fn rotate<'a>(
        &'a self,
        order: &'a RotationOrder,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<RotationReport>, OrderError>> {
        Box::pin(async move {
            let (active, line) = self.line_to_active()?;
            let mut client = RotationPairServiceClient::new(line.channel.clone());
            let (request, replica) = (Some(request_for(order)), self.replica.clone());
            let rotate = client.rotate(ForwardedRotate { request, actor_uid, replica });
            let rotation = self.ordered(&active, &line, rotate).await?;
            let answer = report_of(rotation).map_err(|status| nonsense(&active, &status))?;
            Ok(ByActive { answer, replica: active.replica })
        })
    }
}

pub(super) fn nonsense(active: &ActiveReplica, status: &Status) -> OrderError {
    OrderError::Undecided(format!("the answer of {} can't be read: {}", active.replica, status.message()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::metadata::MetadataValue;

    use super::*;
    use crate::{
        domain::leadership::Term,
        service::ports::{Candidate, PairDirectory, PairEndpoint},
    };

    struct Nobody;

    impl PairDirectory for Nobody {
        fn candidates(&self) -> BoxFuture<'_, Result<Vec<Candidate>, String>> {
            Box::pin(async { Err("nobody is known".into()) })
        }
    }

    #[tokio::test]
    async fn what_the_active_says_is_told_from_what_becomes_of_a_connection() {
        let client = PairClient::new(Arc::new(Nobody), "own".into());
        let endpoint = PairEndpoint::Unix("/nowhere".into());
        let active = ActiveReplica { replica: "a".into(), term: Term::new(1), endpoint };
        let line = client.asking.to(&active.endpoint).unwrap();
        let ordered = async |status: Status| {
            let answer = client.ordered::<()>(&active, &line, async { Err(status) });
            answer.await.unwrap_err()
        };
        let mut own = Status::not_found("serial 01 is not denied");
        own.metadata_mut().insert(ANSWERED, MetadataValue::from_static("true"));
        let message = own.message().to_owned();
        assert_eq!(ordered(own).await, OrderError::Refused { code: Code::NotFound.into(), message });
        let older = ordered(Status::unimplemented("")).await;
        assert!(matches!(&older, OrderError::Refused { message, .. } if message.contains("of a version")), "{older}");
        let no_more = ordered(Status::failed_precondition("this replica is not active")).await;
        assert!(matches!(no_more, OrderError::NoActive(_)), "{no_more}");
        for status in [Status::unavailable("broken"), Status::not_found("said by nobody knows whom")] {
            let lost = ordered(status).await;
            assert!(matches!(lost, OrderError::Undecided(_)), "{lost}");
        }
    }
}
