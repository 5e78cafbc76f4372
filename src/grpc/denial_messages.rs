//! Denials as they are sent between replicas, and to and from the command line.

use tonic::{Response, Status};

use super::{
    reasons::{optional_reason, reason_of},
    status::status_of_order,
};
use crate::{
    domain::{
        attestation::{Denial, Denied, DeniedSubject, Reason},
        clock::Timestamp,
    },
    proto::countersign::v1::{
        self as wire, AllowRequest, DenialChanged, DenyRequest, ListDeniedResponse, denied_subject::Kind,
    },
    service::{denial::DenialError, ports::DenialChange, signing_state::ChangeError},
};

/// A denial as it is asked for.
pub(super) fn deny_of(request: DenyRequest) -> Result<DenialChange, Status> {
    let DenyRequest { subject, reason } = request;
    Ok(DenialChange::Deny { subject: subject_of(subject)?, reason: reason_of(&reason)? })
}

/// The end of one as it is asked for.
pub(super) fn allow_of(request: AllowRequest) -> Result<DenialChange, Status> {
    let AllowRequest { subject, reason } = request;
    Ok(DenialChange::Allow { subject: subject_of(subject)?, reason: optional_reason(&reason)? })
}

/// Asks for a denial.
pub(super) fn deny_request(subject: &DeniedSubject, reason: &Reason) -> DenyRequest {
    DenyRequest { subject: Some(wire_subject(subject)), reason: reason.to_string() }
}

/// Asks for the end of one.
pub(super) fn allow_request(subject: &DeniedSubject, reason: Option<&Reason>) -> AllowRequest {
    AllowRequest { subject: Some(wire_subject(subject)), reason: reason.map(Reason::to_string).unwrap_or_default() }
}

/// The answer to either.
pub(super) fn changed(
    subject: DeniedSubject,
    result: Result<Option<Denial>, DenialError>,
) -> Result<Response<DenialChanged>, Status> {
    let old = result.map_err(|error| status_of(&error))?;
    Ok(Response::new(DenialChanged { old: old.map(|old| wire_denial(subject, &old)) }))
}

/// What was there before, from the answer to either.
pub(super) fn old_of(changed: DenialChanged) -> Result<Option<Denial>, Status> {
    Ok(changed.old.map(denial_of).transpose()?.map(|(_, denial)| denial))
}

/// The answer with all that is denied.
pub(super) fn list_of(
    denied: &Result<impl AsRef<Denied>, DenialError>,
) -> Result<Response<ListDeniedResponse>, Status> {
    let denied = denied.as_ref().map_err(status_of)?.as_ref();
    let denials = denied.iter().map(|(subject, denial)| wire_denial(subject, denial)).collect();
    Ok(Response::new(ListDeniedResponse { denials }))
}

/// All that is denied, from that answer.
pub(super) fn denied_of(list: ListDeniedResponse) -> Result<Denied, Status> {
    list.denials.into_iter().map(denial_of).collect()
}

fn subject_of(subject: Option<wire::DeniedSubject>) -> Result<DeniedSubject, Status> {
    let subject = subject.and_then(|subject| subject.kind);
    match subject.ok_or_else(|| Status::invalid_argument("subject is missing"))? {
        Kind::SpiffeId(id) => id.parse().map(DeniedSubject::Identity).map_err(|error| format!("spiffe_id: {error}")),
        Kind::Serial(serial) => serial.parse().map(DeniedSubject::Serial).map_err(|error| format!("serial: {error}")),
    }
    .map_err(Status::invalid_argument)
}

fn wire_subject(subject: &DeniedSubject) -> wire::DeniedSubject {
    let kind = match subject {
        DeniedSubject::Identity(id) => Kind::SpiffeId(id.to_string()),
        DeniedSubject::Serial(serial) => Kind::Serial(serial.to_string()),
    };
    wire::DeniedSubject { kind: Some(kind) }
}

fn wire_denial(subject: DeniedSubject, denial: &Denial) -> wire::Denial {
    wire::Denial {
        subject: Some(wire_subject(&subject)),
        reason: denial.reason.to_string(),
        since: denial.since.seconds(),
        actor_uid: denial.actor_uid,
    }
}

fn denial_of(denial: wire::Denial) -> Result<(DeniedSubject, Denial), Status> {
    let wire::Denial { subject, reason, since, actor_uid } = denial;
    let denial = Denial { reason: reason_of(&reason)?, since: Timestamp::from_seconds(since), actor_uid };
    Ok((subject_of(subject)?, denial))
}

fn status_of(error: &DenialError) -> Status {
    let text = error.to_string();
    match error {
        DenialError::Order(error) => status_of_order(error),
        DenialError::NeverIssued(..) => Status::invalid_argument(text),
        DenialError::NotDenied(_) => Status::not_found(text),
        DenialError::Change(ChangeError::Full { .. }) => Status::resource_exhausted(text),
        DenialError::Change(ChangeError::State(_)) => Status::data_loss(text),
    }
}
