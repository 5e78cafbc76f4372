//! `authority export`, `authority import`, and `recover` in Kubernetes.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use super::{ANSWER_LIMIT, OperateError, existing};
use crate::{
    cli::passphrase::{self, Ask},
    domain::clock::Clock,
    grpc::authority_service::{self, ExportAnswer},
    runtime::{
        args::{ExportArgs, ImportArgs, ImportSource, PassphraseArgs, StateKind, StatePlace},
        seams::{RingRandom, SystemClock},
    },
    service::{
        authority_backup::{Backup, Cover, Passphrase},
        authority_export::Exported,
        signing_state::{ImportedState, root_of},
    },
    storage::{
        self,
        authority_transfer::{StoppedState, TransferError},
        data_dir::{DataDir, DataDirError},
    },
};
#[cfg(feature = "kubernetes")]
use crate::{
    k8s::{client::client, istio_ca_secret, state_recovery::StateRecovery},
    runtime::args::SecretName,
};

/// How often somebody is asked who holds the state and does not answer yet, and after which time again: five seconds in all.
const ATTEMPTS: u32 = 50;
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Saves the signing authority. Says so.
///
/// # Errors
///
/// When there is none, it can't be had, or the file can't be written.
pub fn export(args: &ExportArgs) -> Result<String, OperateError> {
    let out = args.out.display();
    if args.out.exists() {
        return Err(OperateError::Refused(format!("{out} exists: give another --out")));
    }
    let passphrase = read_passphrase(&args.passphrase, Ask::Twice)?;
    let Exported { file, is_of_ended_term } = in_memory_or_stored(&args.place, &passphrase)?;
    let (Backup { standing, .. }, Cover { root, .. }) = Backup::open(&file, &checked(&passphrase)?).map_err(refused)?;
    if !storage::write_new_private_file(&args.out, &file)? {
        return Err(OperateError::Refused(format!("{out} exists: give another --out")));
    }
    let root =
        root.map_or_else(|| "a plugged-in authority, whose key is not in it".to_owned(), |root| format!("root {root}"));
    let what = if is_of_ended_term {
        format!(
            "what is stored can't be used: this is what the replica held in memory when its term {} ended, version {} of the \
             authority and {} of the trust bundle; what was stored later is not in it\n",
            standing.term, standing.authority, standing.trust
        )
    } else {
        String::new()
    };
    Ok(format!("wrote {out}: {root}\n{what}it is worth as much as the key itself: keep file and passphrase apart\n"))
}

/// Puts a signing authority in place. Says what was done.
///
/// # Errors
///
/// When it can't be read or used, what is there may not be replaced, or the state can't be written.
pub fn import(args: &ImportArgs) -> Result<String, OperateError> {
    let now = SystemClock.now();
    let imported = match &args.source {
        ImportSource { file: Some(file), .. } => {
            let content = storage::read_file(file);
            let content = content.map_err(|error| OperateError::Refused(format!("{}: {error}", file.display())))?;
            let passphrase = read_passphrase(&args.passphrase, Ask::Once)?;
            let (backup, _) = Backup::open(&content, &checked(&passphrase)?).map_err(refused)?;
            ImportedState::from_backup(&backup, now).map_err(refused)?
        }
        #[cfg(not(feature = "kubernetes"))]
        ImportSource { file: None, istio_secret: Some(_) } => {
            return Err(OperateError::Refused("--istio-secret: Kubernetes is not in this build".into()));
        }
        #[cfg(feature = "kubernetes")]
        ImportSource { file: None, istio_secret: Some(SecretName { namespace, name }) } => {
            let files = runtime()?.block_on(async {
                let client = client(args.place.kubeconfig.as_deref()).await.map_err(refused)?;
                istio_ca_secret::read(client, namespace, name).await.map_err(refused)
            })?;
            ImportedState::from_files(&files, &args.trust_domain, now)
                .map_err(|error| OperateError::Refused(format!("Secret {namespace}/{name}: {error}")))?
        }
        ImportSource { file: None, istio_secret: None } => {
            return Err(OperateError::Refused("give FILE or --istio-secret".into()));
        }
    };
    if let Some(sequence) = imported.sequence_ahead(now) {
        let warning = format!(
            "the trust bundle in it has sequence {sequence}, which goes by the seconds since 1970: that is ahead of this clock, {now}. One of \
             them is wrong; what is signed by a clock that is goes by wrong times, so compare it before the next `countersign serve`"
        );
        writeln!(io::stderr(), "warning: {warning}")?;
    }
    let root = imported.root().map_or_else(|| "a plugged-in authority".to_owned(), |root| format!("root {root}"));
    let mut text = String::new();
    match args.place.state {
        StateKind::Embedded => {
            let data_dir = DataDir::open(&args.place.data_dir.data_dir)?;
            let state = StoppedState::open(data_dir, root_of)?;
            let term = state.import(imported, args.replace)?;
            state.close()?;
            writeln!(text, "imported {root} under term {term}; the next `countersign serve` signs with it")
        }
        #[cfg(feature = "kubernetes")]
        StateKind::Kubernetes => {
            let done = in_kubernetes(&args.place, async |state| state.import(imported, args.replace, now).await)?;
            for kept in &done.kept {
                writeln!(text, "kept what was there as Secret {kept}").map_err(io::Error::other)?;
            }
            let term = done.term;
            writeln!(
                text,
                "imported {root} under term {term}; whoever is active steps down and the next one signs with it"
            )
        }
    }
    .map_err(io::Error::other)?;
    Ok(text)
}

/// What was found in the Secrets and the Lease, or done about it, and whether all of it is sound.
///
/// # Errors
///
/// When the API server can't be asked.
#[cfg(feature = "kubernetes")]
pub(super) fn recover_in_kubernetes(place: &StatePlace, new_root: bool) -> Result<(String, bool), OperateError> {
    let mut text = String::new();
    if new_root {
        let done = in_kubernetes(place, async |state| state.make_way_for_new_root(SystemClock.now()).await)?;
        for kept in &done.kept {
            writeln!(text, "kept what was there as Secret {kept}").map_err(io::Error::other)?;
        }
        text.push_str("the next active makes a new root: give it to everything that trusted the old one\n");
        return Ok((text, true));
    }
    let findings = in_kubernetes(place, async |state| state.examine().await)?;
    for part in &findings.parts {
        writeln!(text, "{part}").map_err(io::Error::other)?;
    }
    match &findings.damage {
        None => text.push_str("state: sound\n"),
        Some(damage) => {
            writeln!(text, "state: damaged: {damage}").map_err(io::Error::other)?;
            text.push_str(
                "put a backup back with `countersign authority import`; before that save what the active, or the one that was \
                 active last, has in memory, with `countersign authority export` in its pod; or give up the old root with \
                 --new-root\n",
            );
        }
    }
    Ok((text, findings.damage.is_none()))
}

/// What the replica on this machine has in memory or, while none is active, what is stored. Who has just become active holds the
/// state before it can be asked, so it is asked again.
fn in_memory_or_stored(place: &StatePlace, passphrase: &str) -> Result<Exported, OperateError> {
    let mut attempts = 0;
    loop {
        let (stored, why) = match from_memory(place, passphrase)? {
            ExportAnswer::Backup(exported) => return Ok(exported),
            ExportAnswer::NotActive(why) => (stored_sealed(place, passphrase), Some(why)),
            ExportAnswer::NoReplica => (stored_sealed(place, passphrase), None),
        };
        match (stored, why) {
            (Err(OperateError::Transfer(TransferError::Running)), _) if attempts < ATTEMPTS => {
                attempts += 1;
                runtime()?.block_on(async { sleep(ASK_AGAIN).await });
            }
            (Err(error), Some(why)) => return Err(OperateError::Refused(format!("{error}; {why}"))),
            (stored, _) => return stored,
        }
    }
}

/// What the replica on this machine has in memory, if one runs.
fn from_memory(place: &StatePlace, passphrase: &str) -> Result<ExportAnswer, OperateError> {
    let socket = match existing(&place.data_dir.data_dir) {
        Ok(data_dir) => data_dir.admin_socket(),
        Err(DataDirError::Unused(_)) => return Ok(ExportAnswer::NoReplica),
        Err(error) => return Err(error.into()),
    };
    let answer =
        runtime()?.block_on(async { timeout(ANSWER_LIMIT, authority_service::export(&socket, passphrase)).await });
    let silent = |_elapsed| OperateError::Silent { socket: socket.display().to_string(), limit: ANSWER_LIMIT };
    answer.map_err(silent)?.map_err(refused)
}

/// What is stored, as a backup file.
fn stored_sealed(place: &StatePlace, passphrase: &str) -> Result<Exported, OperateError> {
    let backup = stored(place)?;
    let cover = Cover { root: root_of(&backup.authority), made: SystemClock.now() };
    let file = backup.seal(&cover, &checked(passphrase)?, &RingRandom::new()).map_err(refused)?;
    Ok(Exported { file, is_of_ended_term: false })
}

/// What is stored, while nobody here is active.
fn stored(place: &StatePlace) -> Result<Backup, OperateError> {
    match place.state {
        StateKind::Embedded => {
            let state = StoppedState::open(existing(&place.data_dir.data_dir)?, root_of)?;
            let backup = state.backup()?;
            state.close()?;
            Ok(backup)
        }
        #[cfg(feature = "kubernetes")]
        StateKind::Kubernetes => in_kubernetes(place, async |state| state.backup().await),
    }
}

#[cfg(feature = "kubernetes")]
fn in_kubernetes<T, E: std::fmt::Display>(
    place: &StatePlace,
    work: impl AsyncFnOnce(StateRecovery) -> Result<T, E>,
) -> Result<T, OperateError> {
    runtime()?.block_on(async {
        let client = client(place.kubeconfig.as_deref()).await.map_err(refused)?;
        let namespace = place.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        work(StateRecovery::new(client, &namespace, root_of)).await.map_err(refused)
    })
}

fn read_passphrase(args: &PassphraseArgs, ask: Ask) -> Result<Zeroizing<String>, OperateError> {
    let text = match args.passphrase_file.as_deref() {
        Some(file) => first_line(file)?,
        None => passphrase::ask(ask)?,
    };
    checked(&text)?;
    Ok(text)
}

fn first_line(file: &Path) -> Result<Zeroizing<String>, OperateError> {
    let refused = |problem: String| OperateError::Refused(format!("{}: {problem}", file.display()));
    let content = storage::read_file(file).map(Zeroizing::new).map_err(|error| refused(error.to_string()))?;
    let text = std::str::from_utf8(&content).map_err(|error| refused(error.to_string()))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn checked(passphrase: &str) -> Result<Passphrase, OperateError> {
    Passphrase::new(Zeroizing::new(passphrase.to_owned())).map_err(refused)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn refused(error: impl std::fmt::Display) -> OperateError {
    OperateError::Refused(error.to_string())
}
