//! `issuance deny`, `allow`, `denied`: the active is asked, and nothing is done without it.

use super::{ANSWER_LIMIT, OperateError, ask};
use crate::{
    cli::issuance::denied::{allowed_again, denied_now, render},
    domain::attestation::DeniedSubject,
    grpc::operator_client,
    runtime::args::{IssuanceAllowArgs, IssuanceDenyArgs, IssuanceListArgs, SubjectArgs},
};

/// Denies. Says so.
///
/// # Errors
///
/// When nobody is active, the active refuses, or its answer is lost.
pub fn deny(args: &IssuanceDenyArgs) -> Result<String, OperateError> {
    let subject = subject_of(&args.subject)?;
    let reason = &args.reason;
    let old = ask(&args.data_dir.data_dir, ANSWER_LIMIT, async |socket| {
        operator_client::deny(&socket, &subject, reason).await
    })?;
    Ok(denied_now(&subject, old.as_ref()))
}

/// Takes a denial back. Says so.
///
/// # Errors
///
/// When nobody is active, the active refuses, or its answer is lost.
pub fn allow(args: &IssuanceAllowArgs) -> Result<String, OperateError> {
    let subject = subject_of(&args.subject)?;
    let reason = args.reason.as_ref();
    let old = ask(&args.data_dir.data_dir, ANSWER_LIMIT, async |socket| {
        operator_client::allow(&socket, &subject, reason).await
    })?;
    Ok(allowed_again(&subject, old.as_ref()))
}

/// All that is denied.
///
/// # Errors
///
/// When nobody is active, or its answer is lost.
pub fn denied(args: &IssuanceListArgs) -> Result<String, OperateError> {
    let denied = ask(&args.data_dir.data_dir, ANSWER_LIMIT, async |socket| operator_client::denied(&socket).await)?;
    Ok(render(&denied, args.output.into())?)
}

fn subject_of(args: &SubjectArgs) -> Result<DeniedSubject, OperateError> {
    args.subject().ok_or_else(|| OperateError::Refused("give --id or --serial".into()))
}
