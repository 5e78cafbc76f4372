//! The binary under test, started the way a user starts it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    http::{self, free_port, loopback},
    process::Process,
    wait::wait_until,
};

/// Names a release build to test instead of the one that the tests were built with.
const RELEASED: &str = "COUNTERSIGN_TEST_BINARY";
const START: Duration = Duration::from_secs(10);

/// Whether a release build is tested: figures hold only for that.
pub(crate) fn is_released() -> bool {
    env::var_os(RELEASED).is_some()
}

/// The binary, with none of the settings that the caller's environment may hold for it.
pub(crate) fn countersign() -> Command {
    let released = env::var_os(RELEASED);
    let mut command = Command::new(released.unwrap_or_else(|| env!("CARGO_BIN_EXE_countersign").into()));
    let is_setting = |name: &str| name.starts_with("COUNTERSIGN_") || name.starts_with("OTEL_");
    for (name, _) in env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// A `countersign serve`.
pub(crate) struct Serve {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

impl Serve {
    /// Starts one on ports of its own and waits until it is ready.
    pub(crate) fn start(name: &str, logs: &Path, data: &Path, flags: &[&str]) -> Self {
        let serve = Self::spawn(name, logs, data, free_port(), flags);
        serve.wait_until_ready();
        serve
    }

    /// Starts one and does not wait.
    pub(crate) fn spawn(name: &str, logs: &Path, data: &Path, port: u16, flags: &[&str]) -> Self {
        Self::spawn_with(name, logs, data, port, flags, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn spawn_with(
        name: &str,
        logs: &Path,
        data: &Path,
        port: u16,
        flags: &[&str],
        variables: &[(String, String)],
    ) -> Self {
        let admin_port = free_port();
        let mut command = countersign();
        command.arg("serve").arg("--data-dir").arg(data).args(flags);
        command.arg("--listen").arg(loopback(port).to_string());
        command.arg("--admin-listen").arg(loopback(admin_port).to_string()).envs(variables.iter().cloned());
        Self { process: Process::start(name, logs, &mut command), port, admin_port }
    }

    /// Waits for `/readyz`.
    pub(crate) fn wait_until_ready(&self) {
        let what = format!("serve on port {} ready", self.port);
        wait_until(START, &what, || http::get(loopback(self.admin_port), "/readyz"));
    }

    /// Where clients reach it, by a name that its certificate holds.
    pub(crate) fn address(&self) -> String {
        ca_address(self.port)
    }
}

/// `localhost:PORT`.
pub(crate) fn ca_address(port: u16) -> String {
    format!("localhost:{port}")
}

/// The trust bundle that `serve` keeps beside its state.
pub(crate) fn root_file(data: &Path) -> PathBuf {
    data.join("root-cert.pem")
}

/// A fresh token for `NAMESPACE/ACCOUNT`, written to `path`.
pub(crate) fn write_token(data: &Path, account: &str, path: &Path) {
    let made = countersign().args(["token", account, "--data-dir"]).arg(data).output().unwrap();
    assert!(made.status.success(), "token {account}: {}\n{}", made.status, String::from_utf8_lossy(&made.stderr));
    fs::write(path, made.stdout).unwrap();
}

/// A `countersign agent` and its socket.
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
}

impl Agent {
    /// Starts one with a token of its own for `account` and waits until its socket is there.
    pub(crate) fn start(name: &str, logs: &Path, data: &Path, account: &str, cas: &[String], ttl: &str) -> Self {
        Self::start_with(name, logs, data, account, cas, ttl, &[])
    }

    /// The same with further flags.
    pub(crate) fn start_with(
        name: &str,
        logs: &Path,
        data: &Path,
        account: &str,
        cas: &[String],
        ttl: &str,
        flags: &[&str],
    ) -> Self {
        let mut command = Self::command(name, logs, data, account, cas, ttl);
        Self::started(name, logs, command.args(flags))
    }

    /// The same with variables in its environment.
    pub(crate) fn start_under(
        name: &str,
        logs: &Path,
        data: &Path,
        account: &str,
        cas: &[String],
        variables: &[(String, String)],
    ) -> Self {
        let mut command = Self::command(name, logs, data, account, cas, "1h");
        Self::started(name, logs, command.envs(variables.iter().cloned()))
    }

    fn command(name: &str, logs: &Path, data: &Path, account: &str, cas: &[String], ttl: &str) -> Command {
        let (socket, token) = (socket_of(name, logs), logs.join(format!("{name}.token")));
        write_token(data, account, &token);
        let mut command = countersign();
        command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(&token);
        command.arg("--root-file").arg(root_file(data)).args(["--svid-ttl", ttl]);
        for ca in cas {
            command.args(["--ca-address", ca]);
        }
        command
    }

    fn started(name: &str, logs: &Path, command: &mut Command) -> Self {
        let (socket, process) = (socket_of(name, logs), Process::start(name, logs, command));
        wait_until(
            START,
            &format!("the socket of {name}"),
            || {
                if socket.exists() { Ok(()) } else { Err("no such file") }
            },
        );
        Self { process, socket }
    }
}

fn socket_of(name: &str, logs: &Path) -> PathBuf {
    logs.join(format!("{name}.sock"))
}
