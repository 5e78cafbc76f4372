//! The workload socket as a file: taken without pushing out a live owner, guarded by its mode and by who connects, and
//! cleared away by whoever bound it and nobody else.

mod incoming;

use std::{
    fs::{self, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::stream::{self, Stream};
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixSocket, UnixStream},
    time::{sleep, timeout},
};
use tracing::warn;

use self::incoming::{CONNECTIONS, Incoming, LocalConnection, SHARE};
use crate::service::{
    descriptors::connections_allowed,
    line_limit::{Line, LineLimit},
};

/// Who may connect.
#[derive(Clone, Debug)]
pub struct SocketAccess {
    /// Permission bits of the socket file; to connect takes `w`.
    pub mode: u32,
    /// Users (effective UID of the caller) that may connect; any if empty.
    pub uids: Vec<u32>,
    /// Primary groups (effective GID of the caller) that may connect; any if empty. A caller must pass both lists.
    pub gids: Vec<u32>,
}

/// A bound socket. Dropping it removes the file, unless another socket has taken its place.
#[derive(Debug)]
pub struct WorkloadListener {
    listener: UnixListener,
    access: SocketAccess,
    file: SocketFile,
    /// Of callers by their user.
    lines: LineLimit<Trouble, Option<u32>>,
}

/// Why a path can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The kernel's limit.
    #[error("the socket path {} has {length} bytes, at most {MAX_PATH_BYTES} are possible: choose a shorter one", .path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its bytes.
        length: usize,
    },
    /// Somebody serves there.
    #[error("the socket {} is served by another process: stop that one or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something of value may stand there.
    #[error("{} exists and is not a socket: move it away or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// Somebody was interrupted while binding there.
    #[error(
        "the directory {} has been locked by another process for {LOCK_LIMIT:?}, which takes a moment: look for a stopped \
         process that has it open, and continue or end it", .0.display()
    )]
    Locked(PathBuf),
    /// The system refused.
    #[error("the socket {} can't be {action}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// `sun_path` has 108 bytes, the last of them zero.
const MAX_PATH_BYTES: usize = 107;

/// The file's name until somebody listens there.
const NEW: &str = ".new";
const BACKLOG: u32 = 1024;
const DIRECTORY_MODE: u32 = 0o755;
/// A live owner takes a connection at once, or its queue is full, which also says that it lives.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// An owner that hangs up and lives on is not asked more often than this.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// What an HTTP/2 client begins with: the preface and empty SETTINGS (RFC 9113 section 3.4). An owner that drains would wait
/// for it.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// An owner that drains takes its file away before it hangs up.
const FILE_INTERVAL: Duration = Duration::from_millis(200);
/// The lock is held only while a path is looked at and bound: a probe at most.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Default for SocketAccess {
    /// Everybody who can reach the file: the mount decides who that is.
    fn default() -> Self {
        Self { mode: 0o666, uids: Vec::new(), gids: Vec::new() }
    }
}

impl SocketAccess {
    fn permits(&self, uid: u32, gid: u32) -> bool {
        let passes = |list: &[u32], id| list.is_empty() || list.contains(&id);
        passes(&self.uids, uid) && passes(&self.gids, gid)
    }
}

impl WorkloadListener {
    /// Binds `path`. Its directory is created if it is missing; the socket file of a dead process is replaced.
    ///
    /// # Errors
    ///
    /// When the path is too long, served by a live process, something else than a socket, its directory stays locked, or
    /// the system refuses.
    pub async fn bind(path: &Path, access: SocketAccess) -> Result<Self, BindError> {
        let length = path.as_os_str().len().max(path.with_file_name(NEW).as_os_str().len());
        if length > MAX_PATH_BYTES {
            return Err(BindError::TooLong { path: path.to_owned(), length });
        }
        let failed = |action| move |source| BindError::Io { path: path.to_owned(), action, source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        create_directory(directory).map_err(failed("given a directory"))?;
        // Of two processes that find the same dead socket, the second must not remove what the first has bound.
        let _lock = timeout(LOCK_LIMIT, lock(directory))
            .await
            .map_err(|_elapsed| BindError::Locked(directory.to_owned()))?
            .map_err(failed("locked"))?;
        match probe(path).await.map_err(failed("looked at"))? {
            Occupant::None => {}
            Occupant::Dead => fs::remove_file(path).map_err(failed("replaced"))?,
            Occupant::Live(_) => return Err(BindError::InUse(path.to_owned())),
            Occupant::Other => return Err(BindError::NotASocket(path.to_owned())),
        }
        let (listener, file) = listen(path, access.mode).map_err(failed("bound"))?;
        Ok(Self { listener, access, file, lines: LineLimit::default() })
    }

    /// The connections of permitted callers who have begun HTTP/2. Never ends and never fails: what can't be accepted now may
    /// be a little later. Who says nothing is cut; when there are too many others wait in the kernel's queue.
    pub(super) fn incoming(self) -> impl Stream<Item = io::Result<LocalConnection>> {
        let incoming = Incoming::of(self, connections_allowed(SHARE, CONNECTIONS));
        stream::unfold(incoming, |mut incoming| async { Some((Ok(incoming.next().await), incoming)) })
    }

    /// Can be dropped and called again without loss.
    async fn accept(&self) -> UnixStream {
        loop {
            let caller = self.listener.accept().await.and_then(|(stream, _)| Ok((stream.peer_cred()?, stream)));
            match caller {
                Ok((peer, stream)) if self.access.permits(peer.uid(), peer.gid()) => return stream,
                Ok((peer, _)) => {
                    if let Some(Line { left_out }) = self.lines.line(Trouble::Caller, Some(peer.uid())) {
                        let (uid, gid, pid) = (peer.uid(), peer.gid(), peer.pid());
                        warn!(event = "socket_caller_refused", path = %self.file.path.display(), uid, gid, pid, left_out);
                    }
                }
                Err(error) => {
                    if let Some(Line { left_out }) = self.lines.line(Trouble::Accept, None) {
                        warn!(event = "socket_accept_failed", path = %self.file.path.display(), %error, left_out);
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What is said of callers that are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trouble {
    Caller,
    Accept,
}

/// Waits until `path` can be bound: nothing stands there, or the socket of a dead process. For a standby. It keeps one
/// connection to a live owner, which the kernel ends with its process.
///
/// # Errors
///
/// When the path can't be looked at, or something else than a socket stands there.
pub async fn wait_until_free(path: &Path) -> Result<(), BindError> {
    loop {
        match probe(path).await {
            Ok(Occupant::None | Occupant::Dead) => return Ok(()),
            Ok(Occupant::Live(connection)) => {
                if let Some(connection) = connection {
                    owner_leaves(path, connection).await;
                }
                sleep(PROBE_INTERVAL).await;
            }
            Ok(Occupant::Other) => return Err(BindError::NotASocket(path.to_owned())),
            Err(source) => return Err(BindError::Io { path: path.to_owned(), action: "looked at", source }),
        }
    }
}

/// Returns when the owner hangs up or says that it will, or its file is gone.
async fn owner_leaves(path: &Path, mut connection: UnixStream) {
    if connection.write_all(GREETING).await.is_err() {
        return;
    }
    let (mut received, mut greeted) = ([0; 256], false);
    loop {
        match timeout(FILE_INTERVAL, connection.read(&mut received)).await {
            Ok(Ok(1..)) if !greeted => {}
            // the end, or GOAWAY: nobody asked for anything else
            Ok(_) => return,
            Err(_elapsed) => {
                greeted = true;
                if !tokio::fs::try_exists(path).await.unwrap_or(false) {
                    return;
                }
            }
        }
    }
}

/// What stands at a path.
enum Occupant {
    None,
    Dead,
    /// With a connection to it, unless its queue is full.
    Live(Option<UnixStream>),
    Other,
}

async fn probe(path: &Path) -> io::Result<Occupant> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Ok(Occupant::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::None),
        Err(error) => return Err(error),
    }
    match timeout(PROBE_LIMIT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Occupant::Dead),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::None),
        // A full queue, or one that its owner has just left: it lived until now.
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => {
            Ok(Occupant::Live(None))
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(connection)) => Ok(Occupant::Live(Some(connection))),
        Err(_elapsed) => Ok(Occupant::Live(None)),
    }
}

/// The lock goes with the descriptor.
async fn lock(directory: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => sleep(LOCK_INTERVAL).await,
            Err(error) => return Err(error.into()),
        }
    }
}

fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE))
}

fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    // The file is born with at most this mode; what the umask took off is given back afterwards.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    // Whoever finds a file at which nobody listens may take it for a dead process's and remove it, as pilot-agent does.
    let new = path.with_file_name(NEW);
    if fs::symlink_metadata(&new).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        fs::remove_file(&new)?;
    }
    socket.bind(&new)?;
    let mut file = SocketFile { inode: inode(&fs::symlink_metadata(&new)?), path: new };
    fs::set_permissions(&file.path, fs::Permissions::from_mode(mode))?;
    let listener = socket.listen(BACKLOG)?;
    fs::rename(&file.path, path)?;
    path.clone_into(&mut file.path);
    Ok((listener, file))
}

/// A bound file, which goes with its owner.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| inode(&metadata) == self.inode);
        if still_ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(event = "socket_not_removed", path = %self.path.display(), %error);
        }
    }
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests;
