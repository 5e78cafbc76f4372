//! The steps, in their order.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixStream, task::spawn_blocking, time::sleep};

use super::{
    QuickstartError,
    identity::{IdentityStream, uri},
    say,
    stage::Stage,
};
use crate::{
    cli::{
        inspect::{self, Format, Request, Source},
        render::Palette,
    },
    domain::{clock::Clock, identity::ServiceAccount, jwt::PROOF_AUDIENCE, leadership::Term, x509::Certificate},
    runtime::{
        args::{self, TokenArgs},
        operate,
        seams::SystemClock,
    },
    service::issuance_history::RecordedEvent,
    storage::{
        data_dir::{DataDir, write_atomically},
        pair_directory::{ActiveEntry, PairDirectory, ReplicaEntry},
    },
};

/// Short enough to see rotations, which come at half of it.
const SVID_TTL: &str = "6s";
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "default";
const ACCOUNT: &str = "gateway";
/// Between two looks at something that is to change.
const PAUSE: Duration = Duration::from_millis(10);

/// All of them.
pub(super) async fn all(stage: &mut Stage, palette: Palette) -> Result<(), QuickstartError> {
    say(&format!("working in {}", stage.folder().display()))?;
    let data = stage.folder().join("data");
    let data = DataDir::open(&data).map_err(io::Error::other)?;

    let first = start_replica(stage, "serve-1", &data).await?;
    let (active, term) = see_active(stage, &data, first).await?;
    let second = start_replica(stage, "serve-2", &data).await?;
    let standby = see_standby(stage, &data, second).await?;
    write_token(stage, &data).await?;
    let socket = start_agent(stage, &data, [&active, &standby]).await?;

    let mut identities = Identities { data: &data, stream: open(stage, &socket).await?, last: None };
    identities.see_next(stage, "first identity", term).await?;
    show(stage, &socket, palette).await?;
    identities.see_next(stage, "rotation", term).await?;
    let term = fail_over(stage, &data, &active, &standby, term).await?;
    identities.see_next(stage, "identity after the failover", term).await?;

    say(&format!("all of it held, in {:.1} s", stage.elapsed().as_secs_f64()))?;
    say("next: run `countersign serve`, and in a second terminal the command that it prints; README.md goes on")?;
    Ok(())
}

async fn start_replica(stage: &mut Stage, name: &'static str, data: &DataDir) -> Result<u32, QuickstartError> {
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--svid-ttl", SVID_TTL, "--data-dir"];
    let mut arguments = vec![OsStr::new("serve")];
    arguments.extend(flags.map(OsStr::new));
    arguments.push(data.path().as_os_str());
    stage.start(name, &arguments).await
}

async fn see_active(stage: &mut Stage, data: &DataDir, pid: u32) -> Result<(ReplicaEntry, Term), QuickstartError> {
    let (pair, root) = (PairDirectory::new(data.clone()), data.root_cert());
    let found = until(move || {
        let Some(entry) = entry_of(&pair, pid)? else { return Ok(None) };
        let active = pair.active()?.filter(|active| active.replica == entry.replica && root.exists());
        Ok(active.map(|active| (entry, active.term)))
    });
    let work = async {
        let (entry, term) = found.await?;
        let (replica, number, address) = (&entry.replica, term.number(), entry.ca_address);
        let line = format!("{replica} (process {pid}) made a root, is active in term {number}, signs on {address}");
        Ok(((entry, term), line))
    };
    stage.step("starting the first replica", work).await
}

async fn see_standby(stage: &mut Stage, data: &DataDir, pid: u32) -> Result<ReplicaEntry, QuickstartError> {
    let pair = PairDirectory::new(data.clone());
    let work = async {
        let entry = until(move || entry_of(&pair, pid)).await?;
        let line = format!("{} (process {pid}) is its standby, takes requests on {}", entry.replica, entry.ca_address);
        Ok((entry, line))
    };
    stage.step("starting the second replica", work).await
}

async fn write_token(stage: &mut Stage, data: &DataDir) -> Result<(), QuickstartError> {
    let path = token_file(stage);
    let data_dir = args::DataDir { data_dir: data.path().to_owned() };
    let work = async {
        let written = spawn_blocking(move || {
            let account = ServiceAccount::new(NAMESPACE, ACCOUNT).map_err(|error| error.to_string())?;
            let args = TokenArgs { account, data_dir, audience: PROOF_AUDIENCE.into(), lifetime: TOKEN_LIFETIME };
            let token = operate::token(&args).map_err(|error| error.to_string())?;
            write_atomically(&path, 0o600, token.as_bytes()).map_err(|error| error.to_string())
        });
        written.await.map_err(|error| error.to_string())??;
        Ok(((), format!("a token for {NAMESPACE}/{ACCOUNT} is written, valid for {TOKEN_LIFETIME:?}")))
    };
    stage.step("minting a token", work).await
}

async fn start_agent(
    stage: &mut Stage,
    data: &DataDir,
    replicas: [&ReplicaEntry; 2],
) -> Result<PathBuf, QuickstartError> {
    let (socket, token, root) = (stage.folder().join("agent.sock"), token_file(stage), data.root_cert());
    let addresses = replicas.map(|replica| replica.ca_address.to_string());
    let mut arguments: Vec<&OsStr> = ["agent", "--svid-ttl", SVID_TTL].map(OsStr::new).to_vec();
    for address in &addresses {
        arguments.extend(["--ca-address", address].map(OsStr::new));
    }
    for (flag, path) in [("--token-file", &token), ("--root-file", &root), ("--socket", &socket)] {
        arguments.extend([OsStr::new(flag), path.as_os_str()]);
    }
    let pid = stage.start("agent", &arguments).await?;
    let work = async {
        while UnixStream::connect(&socket).await.is_err() {
            sleep(PAUSE).await;
        }
        Ok(((), format!("the agent (process {pid}) knows both addresses, serves {}", uri(&socket))))
    };
    stage.step("starting the agent", work).await?;
    Ok(socket)
}

async fn open(stage: &mut Stage, socket: &Path) -> Result<IdentityStream, QuickstartError> {
    let work =
        async { Ok((IdentityStream::open(socket).await?, "a client of the socket waits for identities".into())) };
    stage.step("opening a stream of identities", work).await
}

/// What a client of the socket gets.
struct Identities<'a> {
    data: &'a DataDir,
    stream: IdentityStream,
    last: Option<Certificate>,
}

impl Identities<'_> {
    /// Waits for an identity with a new serial that was signed in `term`: what was signed before it may come first.
    async fn see_next(&mut self, stage: &mut Stage, step: &'static str, term: Term) -> Result<(), QuickstartError> {
        let (last, stream, data) = (&self.last, &mut self.stream, self.data);
        let work = async move {
            loop {
                let next = stream.next().await?;
                let is_late = last.as_ref().is_some_and(|last| SystemClock.now() > last.not_after());
                if is_late {
                    return Err("it came after the last one had expired".into());
                }
                let is_new = last.as_ref().is_none_or(|last| last.serial() != next.serial());
                let signer = signer_of(data, &next).await?;
                if is_new && signer.term == term.number() {
                    let (serial, Signer { term, replica }) = (next.serial().to_string(), signer);
                    return Ok((next, format!("{step}: serial {serial}, signed by {replica} in term {term}")));
                }
            }
        };
        self.last = Some(stage.step(step, work).await?);
        Ok(())
    }
}

async fn show(stage: &mut Stage, socket: &Path, palette: Palette) -> Result<(), QuickstartError> {
    let uri = uri(socket);
    let request = Request {
        source: Source::Socket(uri.clone()),
        bundle: None,
        server_name: None,
        format: Format::Table,
        palette,
    };
    let work = async {
        let seen = inspect::inspect(&request, SystemClock.now()).await.map_err(|error| error.to_string())?;
        if !seen.is_sound {
            return Err(format!("it is not sound:\n{}", seen.output));
        }
        Ok(((), format!("countersign inspect {}\n", seen.output.trim_end())))
    };
    stage.step("inspecting the identity", work).await
}

async fn fail_over(
    stage: &mut Stage,
    data: &DataDir,
    active: &ReplicaEntry,
    standby: &ReplicaEntry,
    term: Term,
) -> Result<Term, QuickstartError> {
    stage.kill(active.pid)?;
    let (pair, standby) = (PairDirectory::new(data.clone()), standby.replica.clone());
    let work = async {
        let is_next = move |entry: &ActiveEntry| entry.replica == standby && entry.term > term;
        let next = until(move || Ok(pair.active()?.filter(&is_next))).await?;
        let (killed, heir, number) = (&active.replica, next.replica, next.term.number());
        Ok((next.term, format!("kill -9 of {killed} (process {}): {heir} is active in term {number}", active.pid)))
    };
    stage.step("failover", work).await
}

struct Signer {
    term: u64,
    replica: String,
}

/// Who signed a certificate, by the issuance logs.
async fn signer_of(data: &DataDir, certificate: &Certificate) -> Result<Signer, String> {
    let wanted = certificate.serial().to_string();
    let entries = operate::issuance_entries(data.clone()).await.map_err(|error| error.to_string())?;
    let signer = entries.into_iter().rev().find_map(|entry| match entry.event {
        RecordedEvent::Issued { serial, term, replica, .. } if serial == wanted => Some(Signer { term, replica }),
        RecordedEvent::Issued { .. } | RecordedEvent::Withheld { .. } | RecordedEvent::Missing { .. } => None,
    });
    signer.ok_or_else(|| format!("serial {wanted} stands in no issuance log"))
}

fn entry_of(pair: &PairDirectory, pid: u32) -> io::Result<Option<ReplicaEntry>> {
    Ok(pair.replicas()?.into_iter().find(|entry| entry.pid == pid))
}

fn token_file(stage: &Stage) -> PathBuf {
    stage.folder().join("token")
}

/// Looks again and again, off the runtime, until there is something; the step sets the limit.
async fn until<T: Send + 'static>(
    probe: impl Fn() -> io::Result<Option<T>> + Send + Sync + 'static,
) -> Result<T, String> {
    let probe = Arc::new(probe);
    loop {
        let look = Arc::clone(&probe);
        match spawn_blocking(move || look()).await.map_err(io::Error::other).flatten() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => sleep(PAUSE).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}
