//! The operator's commands on the state of a pair: token, recover, issuance, authority, federation.

pub mod authority;
pub mod denial;
pub mod federation;
pub mod policy;
pub mod rotation;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixStream, runtime::Builder, time::timeout};

use super::{
    args::{IssuanceListArgs, RecoverArgs, TokenArgs},
    seams::SystemClock,
    serve::{
        histories::histories_of,
        proofs::{self, EMBEDDED_ISSUER},
    },
};
use crate::{
    cli::issuance::{self, Listing},
    domain::{clock::Clock, jwt::MintError},
    grpc::operator_client::{OperatorError, entries_by_admin_socket},
    service::{
        issuance_history::{Entries, HistoryError, IssuanceEntry, IssuanceHistory},
        signing_state::root_of,
    },
    storage::{
        authority_transfer::TransferError,
        data_dir::{DataDir, DataDirError},
        key_file::{self, KeyFileError},
        recovery::{Condition, Findings, Quarantine, Recovery, RecoveryError},
    },
};

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The data directory can't be used, or is none.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The token issuer's key can't be read.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The key makes no token.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// Recovery did not do what was asked.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The signing authority was not saved or put back.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// A log can't be read.
    #[error(transparent)]
    Log(#[from] HistoryError),
    /// The active replica does not answer.
    #[error(
        "the active replica does not answer on {socket} within {limit:?}: it may be stopped; its log is read when it goes \
         on or has ended"
    )]
    Silent {
        /// Where it was asked.
        socket: String,
        /// How long.
        limit: Duration,
    },
    /// Only the active can do it.
    #[error(
        "no replica of {data_dir} is active: start `countersign serve --data-dir {data_dir}`, or let the standby take over, \
         then run the command again ({why})"
    )]
    NoActive {
        /// The data directory.
        data_dir: String,
        /// What was seen.
        why: String,
    },
    /// The active did not do it.
    #[error("{0}")]
    Refused(String),
    /// Whether the active did it is not known.
    #[error("{0}: it may have been done or not: run the command again")]
    Undecided(String),
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long `admin.sock` has to give its first entry.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// And each further one: the active may be opening the long log of a replica that has ended.
const GAP_LIMIT: Duration = Duration::from_secs(30);

/// A token for a service account, with a newline. It is a secret: whoever holds it is that account until it expires.
///
/// # Errors
///
/// When the data directory has no token issuer, or its key can't be read.
pub fn token(args: &TokenArgs) -> Result<zeroize::Zeroizing<String>, OperateError> {
    let data_dir = existing(&args.data_dir.data_dir)?;
    let unused = || DataDirError::Unused(args.data_dir.data_dir.display().to_string());
    let file = data_dir.token_issuer_key();
    let pem = key_file::read(&file)?.ok_or_else(unused)?;
    let key = proofs::issuer_key(&file, &pem)?;
    let mut token = key.mint(EMBEDDED_ISSUER, &args.account, &args.audience, SystemClock.now(), args.lifetime)?;
    token.push('\n');
    Ok(token)
}

/// What was found or done, and whether all of it is sound.
///
/// # Errors
///
/// When a replica runs, or the file system refuses.
pub fn recover(args: &RecoverArgs) -> Result<(String, bool), OperateError> {
    #[cfg(feature = "kubernetes")]
    if args.place.state == super::args::StateKind::Kubernetes && !args.set_logs_aside {
        return authority::recover_in_kubernetes(&args.place, args.new_root);
    }
    let data_dir = existing(&args.place.data_dir.data_dir)?;
    let recovery = Recovery::begin(data_dir, root_of)?;
    if args.new_root {
        let mut text = moved(&recovery.make_way_for_new_root(SystemClock.now())?);
        text.push_str("the next `countersign serve` makes a new root: give every client its new root-cert.pem\n");
        return Ok((text, true));
    }
    if args.set_logs_aside {
        let text = match recovery.set_logs_aside(SystemClock.now())? {
            None => "no issuance log is damaged: nothing was moved\n".to_owned(),
            Some(quarantine) => {
                moved(&quarantine) + "the root stays; what stands in these logs is not listed any more\n"
            }
        };
        return Ok((text, true));
    }
    let findings = recovery.examine();
    let conditions = std::iter::once(("state".to_owned(), &findings.state))
        .chain(findings.logs.iter().map(|(slot, condition)| (format!("issuance log of {slot}"), condition)));
    let mut text = String::new();
    for (part, condition) in conditions {
        let (verdict, what) = match condition {
            Condition::Sound(what) => ("sound", what),
            Condition::Damaged(what) => ("damaged", what),
            Condition::Unreadable(what) => ("unreadable", what),
        };
        writeln!(text, "{part}: {verdict}: {what}").map_err(io::Error::other)?;
    }
    text.push_str(way_out(&findings));
    Ok((text, findings.is_sound()))
}

fn moved(quarantine: &Quarantine) -> String {
    let Quarantine { path, moved } = quarantine;
    moved.iter().map(|part| format!("moved {} to {}\n", part.display(), path.display())).collect()
}

fn way_out(findings: &Findings) -> &'static str {
    if findings.is_sound() {
        ""
    } else if matches!(findings.state, Condition::Sound(_)) {
        "the root is not concerned: restore the data directory from a backup, or put the damaged logs aside with \
         --set-logs-aside\n"
    } else {
        "restore the data directory or the signing authority from a backup, or give up what is damaged and make a new root \
         with --new-root\n"
    }
}

/// The issuance logs of all replicas, in the order of signing.
///
/// # Errors
///
/// When a log can't be read.
pub fn issuance_list(args: &IssuanceListArgs) -> Result<String, OperateError> {
    let data_dir = existing(&args.data_dir.data_dir)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let entries = runtime.block_on(issuance_entries(data_dir))?;
    let listing = Listing::of(entries);
    for missing in listing.missing() {
        writeln!(io::stderr(), "warning: {missing}")?;
    }
    Ok(issuance::render(&listing, args.output.into())?)
}

/// What `issuance list` shows, of a running pair or a stopped one.
pub(super) async fn issuance_entries(data_dir: DataDir) -> Result<Vec<IssuanceEntry>, OperateError> {
    let socket = data_dir.admin_socket();
    if UnixStream::connect(&socket).await.is_ok() {
        let silent = |limit| OperateError::Silent { socket: socket.display().to_string(), limit };
        return collect_within(entries_by_admin_socket(socket.clone()), silent).await;
    }
    // nobody is active: what lives is asked, what is dead is read
    let mut entries = histories_of(data_dir).entries();
    let mut all = Vec::new();
    while let Some(entry) = entries.recv().await {
        all.push(entry?);
    }
    Ok(all)
}

async fn collect_within(
    mut entries: Entries,
    silent: impl Fn(Duration) -> OperateError,
) -> Result<Vec<IssuanceEntry>, OperateError> {
    let mut all = Vec::new();
    loop {
        let limit = if all.is_empty() { ANSWER_LIMIT } else { GAP_LIMIT };
        match timeout(limit, entries.recv()).await.map_err(|_elapsed| silent(limit))? {
            Some(entry) => all.push(entry?),
            None => return Ok(all),
        }
    }
}

/// A data directory that is there already: these commands never make one.
fn existing(path: &Path) -> Result<DataDir, DataDirError> {
    DataDir::open_existing(path)
}

/// Has the active answer within `limit`.
fn ask<T>(
    path: &Path,
    limit: Duration,
    question: impl AsyncFnOnce(PathBuf) -> Result<T, OperatorError>,
) -> Result<T, OperateError> {
    let socket = existing(path)?.admin_socket();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(limit, question(socket)).await });
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(OperatorError::NoActive(why))) => {
            Err(OperateError::NoActive { data_dir: path.display().to_string(), why })
        }
        Ok(Err(OperatorError::Refused(why))) => Err(OperateError::Refused(why)),
        Ok(Err(error @ OperatorError::Broken(_))) => Err(OperateError::Undecided(error.to_string())),
        Err(_elapsed) => Err(OperateError::Undecided(format!(
            "the active replica does not answer within {limit:?}, its process may be stopped"
        ))),
    }
}
