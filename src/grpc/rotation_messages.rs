//! Orders and reports of a rotation, as they are sent between replicas, and to and from the command line.

use tonic::Status;

use super::{reasons::optional_reason, status::status_of_order};
use crate::{
    domain::{
        authority::rotation::{self, Slot},
        clock::Timestamp,
    },
    proto::countersign::rotation::v1::{Authority, Kind, Phase, Prepare, RotateRequest, Rotation, rotate_request},
    service::{
        authority_rotation::RotationError,
        ports::{AuthorityKind, AuthorityReport, RotationOrder, RotationReport, StateError, WantedStep},
    },
};

/// An order as it is asked for.
pub(super) fn order_of(request: RotateRequest) -> Result<RotationOrder, Status> {
    let kind = match request.kind() {
        Kind::X509 => AuthorityKind::X509,
        Kind::Jwt => AuthorityKind::Jwt,
        Kind::Unspecified => return Err(Status::invalid_argument("kind is missing")),
    };
    let RotateRequest { step, dry_run, force, reason, .. } = request;
    let step = step.map(|step| match step {
        rotate_request::Step::Prepare(Prepare {}) => WantedStep::Prepare,
        rotate_request::Step::Activate(id) => WantedStep::Activate(id),
        rotate_request::Step::Taint(id) => WantedStep::Taint(id),
        rotate_request::Step::Revoke(id) => WantedStep::Revoke(id),
    });
    Ok(RotationOrder { kind, step, dry_run, force, reason: optional_reason(&reason)? })
}

/// Asks for it.
pub(super) fn request_for(order: &RotationOrder) -> RotateRequest {
    let kind = match order.kind {
        AuthorityKind::X509 => Kind::X509,
        AuthorityKind::Jwt => Kind::Jwt,
    };
    let step = order.step.as_ref().map(|step| match step {
        WantedStep::Prepare => rotate_request::Step::Prepare(Prepare {}),
        WantedStep::Activate(id) => rotate_request::Step::Activate(id.clone()),
        WantedStep::Taint(id) => rotate_request::Step::Taint(id.clone()),
        WantedStep::Revoke(id) => rotate_request::Step::Revoke(id.clone()),
    });
    RotateRequest {
        kind: kind.into(),
        step,
        dry_run: order.dry_run,
        force: order.force,
        reason: order.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// The answer.
pub(super) fn answer(result: Result<RotationReport, RotationError>) -> Result<Rotation, Status> {
    let RotationReport { sequence, authorities, id, done, obstacles, behind } =
        result.map_err(|error| status_of(&error))?;
    let authorities = authorities.into_iter().map(|AuthorityReport { slot, last_end, waits_for }| {
        let phase = match slot.phase {
            rotation::Phase::Prepared => Phase::Prepared,
            rotation::Phase::Active => Phase::Active,
            rotation::Phase::Old => Phase::Old,
        };
        Authority {
            id: slot.id,
            phase: phase.into(),
            not_after: slot.not_after.seconds(),
            tainted: slot.tainted,
            published_in: slot.published_in,
            last_end: last_end.map(Timestamp::seconds),
            waits_for,
        }
    });
    Ok(Rotation { sequence, authorities: authorities.collect(), id, done, obstacles, behind })
}

/// What was answered.
pub(super) fn report_of(rotation: Rotation) -> Result<RotationReport, Status> {
    let Rotation { sequence, authorities, id, done, obstacles, behind } = rotation;
    let authorities = authorities.into_iter().map(|authority| {
        let phase = match authority.phase() {
            Phase::Prepared => rotation::Phase::Prepared,
            Phase::Active => rotation::Phase::Active,
            Phase::Old => rotation::Phase::Old,
            Phase::Unspecified => return Err(Status::internal("an authority stands nowhere")),
        };
        let Authority { id, not_after, tainted, published_in, last_end, waits_for, .. } = authority;
        let slot = Slot { id, phase, not_after: Timestamp::from_seconds(not_after), tainted, published_in };
        Ok(AuthorityReport { slot, last_end: last_end.map(Timestamp::from_seconds), waits_for })
    });
    Ok(RotationReport { sequence, authorities: authorities.collect::<Result<_, _>>()?, id, done, obstacles, behind })
}

fn status_of(error: &RotationError) -> Status {
    let text = error.to_string();
    match error {
        RotationError::Order(error) => status_of_order(error),
        RotationError::Refused(_) | RotationError::Intermediate(_) | RotationError::State(StateError::Unusable(_)) => {
            Status::invalid_argument(text)
        }
        RotationError::State(StateError::Damaged(_)) => Status::data_loss(text),
        RotationError::State(StateError::Conflict { .. } | StateError::Fenced { .. } | StateError::Io(_)) => {
            Status::unavailable(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_reports_come_out_as_they_went_in() {
        let id = || String::from("ab");
        for step in [
            None,
            Some(WantedStep::Prepare),
            Some(WantedStep::Activate(id())),
            Some(WantedStep::Taint(id())),
            Some(WantedStep::Revoke(id())),
        ] {
            for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
                let reason = Some("why".parse().unwrap());
                let order = RotationOrder { kind, step: step.clone(), dry_run: true, force: false, reason };
                assert_eq!(order_of(request_for(&order)).unwrap(), order);
            }
        }
        let not_after = Timestamp::from_seconds(9);
        let authorities = [rotation::Phase::Prepared, rotation::Phase::Active, rotation::Phase::Old].map(|phase| {
            let slot = Slot { id: id(), phase, not_after, tainted: phase == rotation::Phase::Old, published_in: 4 };
            AuthorityReport { slot, last_end: Some(not_after), waits_for: vec!["x".into()] }
        });
        let obstacles = vec!["y".into()];
        let (authorities, behind) = (authorities.to_vec(), vec!["z".into()]);
        let report = RotationReport { sequence: 5, authorities, id: id(), done: true, obstacles, behind };
        assert_eq!(report_of(answer(Ok(report.clone())).unwrap()).unwrap(), report);
        assert!(order_of(RotateRequest::default()).is_err());
    }
}
