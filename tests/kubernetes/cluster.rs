//! etcd and an API server of a test's own, or one pair for all tests that leave it as it is.

mod audit;
mod objects;
mod rights_settled;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tonic::codegen::http::Request;

pub(crate) use audit::AuditedRequest;
pub(crate) use objects::{Account, PodPhase, TokenFor};
pub(crate) use server::Place;

use crate::support::{process::Process, wait::wait_until};

const START: Duration = Duration::from_secs(60);

/// A running API server with its etcd. Both end when this is dropped, and at the latest with the test process.
///
/// What changes the server itself takes `&mut self`: the shared one can't be hurt.
pub(crate) struct Cluster {
    api_server: Process,
    etcd: Process,
    files: server::Files,
    names: AtomicUsize,
    starts: usize,
    // after the processes whose logs are in it, which a failing test shows
    folder: Folder,
}

enum Folder {
    Own(TempDir),
    Shared(PathBuf),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Own(folder) => folder.path(),
            Self::Shared(path) => path,
        }
    }
}

impl Cluster {
    /// Starts one on loopback, for a test that stops the server or needs it empty.
    pub(crate) fn start() -> Self {
        Self::start_at(&Place::loopback(), &[])
    }

    /// Starts one elsewhere, or with more flags for the API server. Waits until it is ready.
    pub(crate) fn start_at(place: &Place, flags: &[&str]) -> Self {
        Self::start_in(Folder::Own(tempfile::tempdir().unwrap()), place, flags)
    }

    /// The one for all tests of this process that keep to namespaces of their own. Started when it is first asked for.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_in(Folder::Shared(shared_folder()), &Place::loopback(), &[]))
    }

    fn start_in(folder: Folder, place: &Place, flags: &[&str]) -> Self {
        let files = server::Files::write(folder.path(), place, flags);
        let etcd = Process::start_tied("etcd", folder.path(), &files.etcd());
        let api_server = Process::start_tied("kube-apiserver", folder.path(), &files.api_server());
        let cluster = Self { api_server, etcd, files, names: AtomicUsize::new(0), starts: 1, folder };
        cluster.wait_until_ready();
        cluster
    }

    /// Waits until the API server says so itself.
    pub(crate) fn wait_until_ready(&self) {
        wait_until(START, "the API server ready", || {
            block_on(async {
                let request = Request::get("/readyz").body(Vec::new()).unwrap();
                let ask = async { self.admin().request_text(request).await };
                match tokio::time::timeout(Duration::from_secs(2), ask).await {
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err("no answer".to_owned()),
                }
            })
        });
    }

    /// A client that may do everything. It belongs to the runtime that this is called on.
    pub(crate) fn admin(&self) -> Client {
        client_of(&self.admin_kubeconfig())
    }

    /// The kubeconfig of that client.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.files.admin_kubeconfig()
    }

    /// Writes a kubeconfig for the user that `user` describes, who finds the API server at `server`.
    pub(crate) fn write_kubeconfig(&self, path: &Path, user: &serde_json::Value, server: &str) {
        self.files.write_kubeconfig(path, user, server);
    }

    /// A folder for what a test writes; logs of the servers are in it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `https://IP:PORT`.
    pub(crate) fn url(&self) -> String {
        self.files.url()
    }

    /// A name that nothing else in this cluster has.
    pub(crate) fn unique(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Every request that the API server has taken so far, in the order of its audit log. Watches are in it from their begin.
    pub(crate) fn requests(&self) -> Vec<AuditedRequest> {
        audit::read(&self.files.audit_log())
    }

    /// The API server takes connections and requests, and answers none, until [`resume`](Self::resume).
    #[expect(clippy::needless_pass_by_ref_mut, reason = "the shared one must not be had for it")]
    pub(crate) fn pause(&mut self) {
        self.api_server.pause();
    }

    /// Ends a [`pause`](Self::pause).
    #[expect(clippy::needless_pass_by_ref_mut, reason = "the shared one must not be had for it")]
    pub(crate) fn resume(&mut self) {
        self.api_server.resume();
    }

    /// `kill -9` of the API server: connections are reset, new ones refused, until [`restart`](Self::restart).
    pub(crate) fn kill(&mut self) {
        self.api_server.kill();
    }

    /// Starts the killed API server on the same port and with the same state, and does not wait.
    pub(crate) fn restart(&mut self) {
        let name = format!("kube-apiserver-{}", self.starts);
        self.starts += 1;
        self.api_server = Process::start_tied(&name, self.folder.path(), &self.files.api_server());
    }
}

/// A client by a kubeconfig. It belongs to the runtime that this is called on.
pub(crate) fn client_of(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = block_on(Config::from_custom_kubeconfig(kubeconfig, &options)).unwrap();
    Client::try_from(config).unwrap()
}

/// Runs one future to its end, also from within a runtime, which then stands still.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// One that bears the number of this process; those of processes that have ended are taken away.
fn shared_folder() -> PathBuf {
    let above = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    fs::create_dir_all(&above).unwrap();
    for entry in fs::read_dir(&above).unwrap() {
        let path = entry.unwrap().path();
        let owner = path.file_name().unwrap();
        if !Path::new("/proc").join(owner).exists() {
            let _gone_already = fs::remove_dir_all(&path);
        }
    }
    let own = above.join(process::id().to_string());
    fs::create_dir(&own).unwrap();
    own
}
