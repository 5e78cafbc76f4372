//! Every outcome of signing as one gRPC status. Codes, and texts up to the parenthesis, are istiod's; why a caller was not
//! believed is logged, never sent. And the status that another one sent, as people are told of it.

use tonic::{Code, Status};

use crate::{
    domain::{
        attestation::EntitlementError,
        authority::{IssueError, TtlError},
    },
    service::{causes::and_causes, create_certificate::CreateError, ports::OrderError},
};

/// A status for people, with what is behind it.
pub(super) fn said_by(status: &Status) -> String {
    and_causes(format!("{:?}: {}", status.code(), status.message()), status)
}

/// The status that a caller of `CreateCertificate` gets.
pub(super) fn status_of(error: &CreateError) -> Status {
    match error {
        CreateError::Unattested(_) | CreateError::NotEntitled(EntitlementError::Denied { .. }) => {
            Status::unauthenticated(NOT_AUTHENTICATED)
        }
        CreateError::NotEntitled(_) => Status::unauthenticated(NO_IMPERSONATION),
        CreateError::Csr(error) => Status::invalid_argument(signing_error(error)),
        CreateError::Issue(error @ IssueError::Ttl(TtlError::OverMax { .. })) => {
            Status::invalid_argument(signing_error(error))
        }
        CreateError::Issue(error) => Status::internal(signing_error(error)),
        CreateError::Audiences(_) | CreateError::Lifetime { .. } => Status::invalid_argument(error.to_string()),
        CreateError::Jwt(_) => Status::internal(error.to_string()),
        CreateError::Log(_) | CreateError::State(_) => {
            Status::unavailable("the certificate could not be put on record")
        }
        CreateError::NotActive => Status::unavailable(NOT_ACTIVE),
        CreateError::Unavailable { .. } => Status::unavailable(error.to_string()),
        CreateError::Undecided(_)
        | CreateError::NoAuthority
        | CreateError::NoJwtKey
        | CreateError::Busy
        | CreateError::Overloaded
        | CreateError::NoAnswer(_) => Status::unavailable(error.to_string()),
        CreateError::ByActive { code, message } => Status::new(Code::from(*code), message.clone()),
    }
}

/// The status that a caller of `JwtService.Mint` gets. Whoever is known and denied is told so there: istiod has no such call, and a
/// client that is told that it is not known tries its other proof.
pub(super) fn status_of_mint(error: &CreateError) -> Status {
    if let CreateError::NotEntitled(_) = error { Status::permission_denied(NO_IDENTITY) } else { status_of(error) }
}

/// The status that an operator gets whose order was not decided on here.
pub(super) fn status_of_order(error: &OrderError) -> Status {
    let text = error.to_string();
    match error {
        OrderError::NotActive | OrderError::NoActive(_) => Status::failed_precondition(text),
        OrderError::Refused { code, .. } => Status::new(Code::from(*code), text),
        OrderError::Undecided(_) => Status::unavailable(text),
    }
}

/// Of a caller who is not believed, whatever the reason.
pub(super) const NOT_AUTHENTICATED: &str = "request authenticate failure";
/// Of a caller who wants to be somebody else.
pub(super) const NO_IMPERSONATION: &str = "request impersonation authentication failure";
/// Of a caller who is believed, and may not have what it asks for. SPIFFE's own agent says it, and clients look for it.
pub(super) const NO_IDENTITY: &str = "no identity issued";
/// Said by a replica to another one only.
const NOT_ACTIVE: &str = "this replica is not active";

/// What is wrong with a request, in the words around it.
pub(super) fn signing_error(error: &impl std::fmt::Display) -> String {
    format!("CSR signing error ({error})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        domain::{
            attestation::{AttestationError, ReviewError},
            clock::Timestamp,
            identity::ServiceAccountError,
            jwt::TokenError,
            random::RandomUnavailable,
            x509::{CsrError, lint::Finding},
        },
        service::ports::LogError,
    };

    fn assert_said(error: impl Into<CreateError>, code: Code, text: &str) {
        let status = status_of(&error.into());
        assert_eq!((status.code(), status.message()), (code, text));
    }

    #[test]
    fn why_a_caller_is_not_believed_is_never_said() {
        let (caller, reason) = ("spiffe://cluster.local/ns/a/sa/b", "stolen");
        let id = || caller.parse().unwrap();
        let unknown = "request authenticate failure";
        assert_said(AttestationError::NoProof, Code::Unauthenticated, unknown);
        assert_said(AttestationError::UnknownIssuer, Code::Unauthenticated, unknown);
        assert_said(AttestationError::Token(TokenError::Audience), Code::Unauthenticated, unknown);
        let other = AttestationError::OtherCluster { claimed: "remote".into(), own: "Kubernetes".into() };
        assert_said(other, Code::Unauthenticated, unknown);
        assert_said(AttestationError::NoPod("a/b".parse().unwrap()), Code::Unauthenticated, unknown);
        for refusal in [
            ReviewError::Said("[invalid bearer token, service account token has been invalidated]".into()),
            ReviewError::NotAuthenticated,
            ReviewError::Group,
            ReviewError::Username("admin".into()),
            ReviewError::Account(ServiceAccountError::Namespace("A".into())),
            ReviewError::Audience,
        ] {
            assert_said(AttestationError::Review(refusal), Code::Unauthenticated, unknown);
        }
        let denied = EntitlementError::Denied { id: id(), reason: reason.parse().unwrap() };
        assert_said(denied, Code::Unauthenticated, unknown);
        let impersonation = "request impersonation authentication failure";
        let asked = EntitlementError::Impersonation { caller: id(), requested: "x".into() };
        assert_said(asked, Code::Unauthenticated, impersonation);
        assert_said(EntitlementError::Reserved(id()), Code::Unauthenticated, impersonation);
    }

    #[test]
    fn a_request_that_cannot_be_signed_is_told_as_istiod_does() {
        let text = "CSR signing error (certificate signing request is not properly encoded)";
        assert_said(CsrError::Pem, Code::InvalidArgument, text);
        let text = "CSR signing error (failed to parse X.509 certificate signing request)";
        assert_said(CsrError::Der, Code::InvalidArgument, text);
        let text = "CSR signing error (x509: ECDSA verification failure)";
        assert_said(CsrError::Signature { algorithm: "ECDSA" }, Code::InvalidArgument, text);
        let text = "CSR signing error (requested TTL 3h0m0s is greater than the max allowed TTL 2h0m0s)";
        let over = TtlError::OverMax { requested: 10_800, max: 7_200 };
        assert_said(IssueError::Ttl(over), Code::InvalidArgument, text);
    }

    #[test]
    fn what_fails_in_signing_is_internal() {
        let expired = TtlError::AuthorityExpired(Timestamp::from_seconds(1_795_348_800));
        let text = "CSR signing error (signing certificate has expired at 2026-11-22T12:00:00Z)";
        assert_said(IssueError::Ttl(expired), Code::Internal, text);
        let text = "CSR signing error (the certificate could not be signed: why)";
        assert_said(IssueError::Sign("why".into()), Code::Internal, text);
        let text = "CSR signing error (the certificate was withheld by the lint: svid-id: what)";
        let finding = Finding { rule: "svid-id", detail: "what".into() };
        assert_said(IssueError::Lint(finding), Code::Internal, text);
        let text = format!("CSR signing error ({RandomUnavailable})");
        assert_said(IssueError::Random(RandomUnavailable), Code::Internal, &text);
    }

    #[test]
    fn what_another_replica_may_do_is_unavailable() {
        assert_said(
            LogError("the disk is full".into()),
            Code::Unavailable,
            "the certificate could not be put on record",
        );
        assert_said(CreateError::NotActive, Code::Unavailable, "this replica is not active");
        let text = "too many requests are waiting for an active replica";
        assert_said(CreateError::Overloaded, Code::Unavailable, text);
        let text = "no replica could sign within 10s: no replica is active";
        let last = "no replica is active".into();
        assert_said(CreateError::Unavailable { waited: Duration::from_secs(10), last }, Code::Unavailable, text);
        let silent = CreateError::NoAnswer("why".into());
        let text = silent.to_string();
        assert_said(silent, Code::Unavailable, &text);
    }

    #[test]
    fn a_proof_that_could_not_be_judged_is_unavailable_with_the_reason() {
        let away = ReviewError::Unavailable("the API server can't be reached".into());
        let text = "the token could not be reviewed: the API server can't be reached";
        assert_said(AttestationError::Review(away), Code::Unavailable, text);
        let text = "client certificate: the pods of this cluster are not known";
        assert_said(AttestationError::PodsUnknown, Code::Unavailable, text);
        assert_eq!(status_of(&AttestationError::NoBundle.into()).code(), Code::Unavailable);
    }

    #[test]
    fn who_may_have_no_token_is_told_so_and_who_is_not_believed_is_not() {
        let id = || "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
        let denied = EntitlementError::Denied { id: id(), reason: "stolen".parse().unwrap() };
        let other = EntitlementError::Impersonation { caller: id(), requested: "x".into() };
        for error in [denied, other, EntitlementError::Reserved(id())] {
            let status = status_of_mint(&error.into());
            assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
        }
        let status = status_of_mint(&AttestationError::UnknownIssuer.into());
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "request authenticate failure"));
    }

    #[test]
    fn the_answer_of_the_active_is_passed_on() {
        let by_active = CreateError::ByActive { code: 3, message: "CSR signing error (x)".into() };
        assert_said(by_active, Code::InvalidArgument, "CSR signing error (x)");
    }
}
