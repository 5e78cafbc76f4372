//! `policy list`, `gateways`, `explain`, `watch`, `diff`: the replica of the data directory is asked, whether it is active or not.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use tokio::{runtime::Builder, time::timeout};

use super::{ANSWER_LIMIT, OperateError, existing};
use crate::{
    cli::policy::{Policies, changes, diff, explain, gateways, list},
    grpc::{
        operator_client::OperatorError,
        policy_client::{PolicyUpdates, preview},
    },
    runtime::args::{Asking, PolicyDiffArgs, PolicyExplainArgs, PolicyListArgs, PolicyWatchArgs},
    service::policy_publisher::PreviewLabel,
};

/// Namespaces and Services.
///
/// # Errors
///
/// When no replica answers, or knows the cluster yet.
pub fn listed(args: &PolicyListArgs) -> Result<String, OperateError> {
    let policies = all(&args.asking)?;
    Ok(list(&policies, args.namespace.as_deref(), args.asking.output.into())?)
}

/// Gateways.
///
/// # Errors
///
/// When no replica answers, or knows the cluster yet.
pub fn gateways_listed(args: &PolicyListArgs) -> Result<String, OperateError> {
    let policies = all(&args.asking)?;
    Ok(gateways(&policies, args.namespace.as_deref(), args.asking.output.into())?)
}

/// One of them, in words.
///
/// # Errors
///
/// When there is none, no replica answers, or knows the cluster yet.
pub fn explained(args: &PolicyExplainArgs) -> Result<String, OperateError> {
    let policies = all(&args.asking)?;
    let (namespace, service) =
        args.subject.split_once('/').map_or((args.subject.as_str(), None), |(one, other)| (one, Some(other)));
    let none = || OperateError::Refused(format!("there is no {}", args.subject));
    Ok(explain(&policies.listing(namespace, service).ok_or_else(none)?, args.asking.output.into())?)
}

/// What a label would change.
///
/// # Errors
///
/// When there is no such namespace, no replica answers, or knows the cluster yet.
pub fn previewed(args: &PolicyDiffArgs) -> Result<String, OperateError> {
    let (namespace, label) = match (&args.label, &args.unlabel) {
        (Some(namespace), _) => {
            (namespace, args.revision.clone().map_or(PreviewLabel::Injection, PreviewLabel::Revision))
        }
        (None, Some(namespace)) => (namespace, PreviewLabel::None),
        (None, None) => return Err(OperateError::Refused("give --label or --unlabel".into())),
    };
    let (now, then) = ask(&args.asking, async |socket| preview(&socket, namespace, label).await)?;
    Ok(diff(&now, &then, args.asking.output.into())?)
}

/// Prints changes until the replica leaves or nobody reads them.
///
/// # Errors
///
/// When no replica answers, or it leaves.
pub fn watched(args: &PolicyWatchArgs) -> Result<(), OperateError> {
    let socket = existing(&args.asking.data_dir.data_dir)?.admin_socket();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let named = |error| failed(error, &args.asking);
        let mut updates = PolicyUpdates::open(&socket).await.map_err(named)?;
        loop {
            let update = updates.next().await.map_err(named)?;
            let text = changes(&update, args.asking.output.into())?;
            let mut out = io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
    })
}

/// The full state.
fn all(asking: &Asking) -> Result<Policies, OperateError> {
    ask(asking, async |socket| {
        let mut updates = PolicyUpdates::open(&socket).await?;
        let mut policies = Policies::default();
        loop {
            let update = updates.next().await?;
            let is_whole = !update.version.is_empty();
            policies.take(update);
            if is_whole {
                return Ok(policies);
            }
        }
    })
}

fn ask<T>(asking: &Asking, question: impl AsyncFnOnce(PathBuf) -> Result<T, OperatorError>) -> Result<T, OperateError> {
    let socket = existing(&asking.data_dir.data_dir)?.admin_socket();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(ANSWER_LIMIT, question(socket)).await });
    let silent = || {
        OperateError::Refused(format!(
            "the replica says nothing within {ANSWER_LIMIT:?}: it does not know the cluster yet; its log says what it can't list"
        ))
    };
    answer.map_err(|_elapsed| silent())?.map_err(|error| failed(error, asking))
}

fn failed(error: OperatorError, asking: &Asking) -> OperateError {
    match error {
        OperatorError::NoActive(why) => {
            OperateError::Refused(format!("no replica of {} runs ({why})", asking.data_dir.data_dir.display()))
        }
        OperatorError::Refused(_) | OperatorError::Broken(_) => OperateError::Refused(error.to_string()),
    }
}
