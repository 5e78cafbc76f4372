//! Every outcome of signing as one gRPC status. Codes, and texts up to the parenthesis, are istiod's; why a caller was not
//! believed is logged, never sent.

use tonic::{Code, Status};

use crate::{
    domain::{
        attestation::EntitlementError,
        authority::{IssueError, TtlError},
    },
    service::create_certificate::CreateError,
};

/// The status that a caller of `CreateCertificate` gets.
pub(super) fn status_of(error: &CreateError) -> Status {
    match error {
        CreateError::Unattested(_) | CreateError::NotEntitled(EntitlementError::Denied { .. }) => {
            Status::unauthenticated("request authenticate failure")
        }
        CreateError::NotEntitled(_) => Status::unauthenticated("request impersonation authentication failure"),
        CreateError::Csr(error) => Status::invalid_argument(signing_error(error)),
        CreateError::Issue(error @ IssueError::Ttl(TtlError::OverMax { .. })) => {
            Status::invalid_argument(signing_error(error))
        }
        CreateError::Issue(error) => Status::internal(signing_error(error)),
        CreateError::Log(_) => Status::unavailable("the certificate could not be put on record"),
        CreateError::NotActive => Status::unavailable(NOT_ACTIVE),
        CreateError::Unavailable { .. } => Status::unavailable(error.to_string()),
        CreateError::Overloaded | CreateError::NoAnswer(_) => Status::unavailable(error.to_string()),
        CreateError::ByActive { code, message } => Status::new(Code::from(*code), message.clone()),
    }
}

/// Said by a replica to another one only.
const NOT_ACTIVE: &str = "this replica is not active";

fn signing_error(error: &impl std::fmt::Display) -> String {
    format!("CSR signing error ({error})")
}
