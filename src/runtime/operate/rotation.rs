//! `authority x509` and `authority jwt`: the active is asked, and nothing is done without it.

use super::{ANSWER_LIMIT, OperateError, ask};
use crate::{
    cli::authority::{outcome, render},
    grpc::rotation_service,
    runtime::args::{RotationCommand, RotationOfArgs, RotationStepArgs},
    service::ports::{AuthorityKind, RotationOrder, WantedStep},
};

/// Takes a step, or shows how things stand.
///
/// # Errors
///
/// When nobody is active, there is no such step, it has to wait, or its answer is lost.
pub fn rotate(kind: AuthorityKind, command: &RotationCommand) -> Result<String, OperateError> {
    let (step, args) = match command {
        RotationCommand::Show(args) => {
            let order = RotationOrder { kind, step: None, dry_run: false, force: false, reason: None };
            let report = ask(&args.data_dir.data_dir, ANSWER_LIMIT, async |socket| {
                rotation_service::rotate(&socket, &order).await
            })?;
            return Ok(render(&report, args.output.into())?);
        }
        RotationCommand::Prepare(args) => (WantedStep::Prepare, args),
        RotationCommand::Activate(RotationOfArgs { id, step }) => (WantedStep::Activate(id.clone()), step),
        RotationCommand::Taint(RotationOfArgs { id, step }) => (WantedStep::Taint(id.clone()), step),
        RotationCommand::Revoke(RotationOfArgs { id, step }) => (WantedStep::Revoke(id.clone()), step),
    };
    let RotationStepArgs { dry_run, force, reason, data_dir } = args;
    let order =
        RotationOrder { kind, step: Some(step.clone()), dry_run: *dry_run, force: *force, reason: reason.clone() };
    let report = ask(&data_dir.data_dir, ANSWER_LIMIT, async |socket| rotation_service::rotate(&socket, &order).await)?;
    outcome(&step, *dry_run, &report).map_err(OperateError::Refused)
}
