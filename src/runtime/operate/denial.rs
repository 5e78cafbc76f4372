//! `issuance deny`, `allow`, `denied`: the active is asked, and nothing is done without it.

use std::path::PathBuf;

use tokio::{runtime::Builder, time::timeout};

use super::{ANSWER_LIMIT, OperateError, existing};
use crate::{
    cli::issuance::denied::{allowed_again, denied_now, render},
    domain::attestation::DeniedSubject,
    grpc::operator_client::{self, OperatorError},
    runtime::args::{DataDir, IssuanceAllowArgs, IssuanceDenyArgs, IssuanceListArgs, SubjectArgs},
};

/// Denies. Says so.
///
/// # Errors
///
/// When nobody is active, the active refuses, or its answer is lost.
pub fn deny(args: &IssuanceDenyArgs) -> Result<String, OperateError> {
    let subject = subject_of(&args.subject)?;
    let reason = &args.reason;
    let old = ask(&args.data_dir, async |socket| operator_client::deny(&socket, &subject, reason).await)?;
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
    let old = ask(&args.data_dir, async |socket| operator_client::allow(&socket, &subject, reason).await)?;
    Ok(allowed_again(&subject, old.as_ref()))
}

/// All that is denied.
///
/// # Errors
///
/// When nobody is active, or its answer is lost.
pub fn denied(args: &IssuanceListArgs) -> Result<String, OperateError> {
    let denied = ask(&args.data_dir, async |socket| operator_client::denied(&socket).await)?;
    Ok(render(&denied, args.output.into())?)
}

fn subject_of(args: &SubjectArgs) -> Result<DeniedSubject, OperateError> {
    args.subject().ok_or_else(|| OperateError::Refused("give --id or --serial".into()))
}

pub(super) fn ask<T>(
    data_dir: &DataDir,
    question: impl AsyncFnOnce(PathBuf) -> Result<T, OperatorError>,
) -> Result<T, OperateError> {
    let path = &data_dir.data_dir;
    let socket = existing(path)?.admin_socket();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(ANSWER_LIMIT, question(socket)).await });
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(OperatorError::NoActive(why))) => {
            Err(OperateError::NoActive { data_dir: path.display().to_string(), why })
        }
        Ok(Err(OperatorError::Refused(why))) => Err(OperateError::Refused(why)),
        Ok(Err(error @ OperatorError::Broken(_))) => Err(OperateError::Undecided(error.to_string())),
        Err(_elapsed) => Err(OperateError::Undecided(format!(
            "the active replica does not answer within {ANSWER_LIMIT:?}, its process may be stopped"
        ))),
    }
}
