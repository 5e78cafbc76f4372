//! A network of the test's own: hosts in network namespaces, each with one link to a bridge where the test process is, and
//! faults in which packets vanish without any answer.
//!
//! A test begins with [`in_own_network`], which runs it once more in a process inside fresh namespaces. As root that needs
//! nothing else; any other user gets a user namespace around them. All of it is gone with that process.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    cluster::Place,
    support::{process::Process, wait::wait_until},
};

/// Names the file by which the inner process says that it came to its end.
const INSIDE: &str = "COUNTERSIGN_TEST_NETWORK";
const BRIDGE: &str = "bridge0";
const NOWHERE: &str = "02:00:00:00:00:00";
const START: Duration = Duration::from_secs(5);

/// Runs `body` in network and mount namespaces of its own. `test` is the full name of the test that calls this.
pub(crate) fn in_own_network(test: &str, body: impl FnOnce(Network)) {
    if let Some(end) = env::var_os(INSIDE) {
        body(Network::new());
        fs::write(end, "").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let end = folder.path().join("end");
    let mut inner = namespaces();
    inner.args(["setpriv", "--pdeathsig", "KILL"]).arg(env::current_exe().unwrap());
    inner.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, &end).env("PATH", path());
    let status = inner.status().expect("unshare, of util-linux");
    assert!(status.success(), "{test} in namespaces of its own: {status}; what it said is above");
    assert!(end.exists(), "there is no test {test:?}");
}

/// `unshare` with what it needs here.
fn namespaces() -> Command {
    let made = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["--net", "--mount"]);
        command
    };
    let possible = |mut command: Command| command.arg("true").output().is_ok_and(|output| output.status.success());
    let as_user = ["--user", "--map-root-user"];
    if possible(made(&[])) {
        return made(&[]);
    }
    assert!(possible(made(&as_user)), "no network namespaces: run as root, or allow unprivileged user namespaces");
    made(&as_user)
}

/// `ip` is where users without root don't look.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// The bridge, at whose own address this process is.
pub(crate) struct Network {
    hosts: u8,
    folder: TempDir,
}

impl Network {
    fn new() -> Self {
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "address", &mac(1), "type", "bridge"]);
        ip(&["address", "add", &format!("{}/24", address(1)), "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        Self { hosts: 1, folder: tempfile::tempdir().unwrap() }
    }

    /// Where this process is reached by the hosts.
    pub(crate) fn address(&self) -> Ipv4Addr {
        address(1)
    }

    /// Adds a host. All know each other's hardware addresses for good, so that nobody notices by ARP that one is gone.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        self.hosts += 1;
        let number = self.hosts;
        let mut keeper = Command::new("unshare");
        let keeper = Process::start(name, self.folder.path(), keeper.args(["--net", "sleep", "infinity"]));
        let (ours, theirs) = (Path::new("/proc/self/ns/net"), namespace(&keeper));
        wait_until(START, &format!("the namespace of {name}"), || {
            let (ours, theirs) = (fs::read_link(ours).unwrap(), fs::read_link(&theirs).unwrap());
            if ours == theirs { Err("it is still ours") } else { Ok(()) }
        });
        let host = Host { number, keeper };
        let link = host.link();
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &host.keeper.id().to_string()]);
        ip(&["link", "set", &link, "up", "master", BRIDGE]);
        host.ip(&["link", "set", "lo", "up"]);
        host.ip(&["link", "set", "eth0", "up", "address", &mac(number)]);
        host.ip(&["address", "add", &format!("{}/24", host.address()), "dev", "eth0"]);
        for other in (1..32).filter(|other| *other != number) {
            host.ip(&["neighbour", "replace", &address(other).to_string(), "lladdr", &mac(other), "dev", "eth0"]);
        }
        ip(&["neighbour", "replace", &host.address().to_string(), "lladdr", &mac(number), "dev", BRIDGE]);
        host
    }

    /// Gives this process one more address, such as a Service would have.
    pub(crate) fn add_address(&self, address: Ipv4Addr) {
        ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
    }

    /// Makes `name` resolve to `hosts`, for every process started from now on.
    pub(crate) fn resolve(&self, name: &str, hosts: &[&Host]) {
        let file = self.folder.path().join("hosts");
        let lines = hosts.iter().map(|host| format!("{} {name}\n", host.address()));
        fs::write(&file, format!("127.0.0.1 localhost\n{}", lines.collect::<String>())).unwrap();
        run(Command::new("mount").arg("--bind").arg(&file).arg("/etc/hosts"));
    }
}

/// A machine on the network. What runs in it ends by its own guard.
pub(crate) struct Host {
    number: u8,
    /// The namespace is there for as long as this runs.
    keeper: Process,
}

impl Host {
    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// The same, for a cluster.
    pub(crate) fn place(&self) -> Place {
        Place { address: self.address().into(), enter: self.enter() }
    }

    /// The command that runs another one here, which keeps its process ID.
    pub(crate) fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", namespace(&self.keeper).display())]
    }

    /// `command` as one that runs here.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let enter = self.enter();
        let mut inside = Command::new(&enter[0]);
        inside.args(&enter[1..]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Every packet from and to this host vanishes; nobody is told, and no link goes down.
    pub(crate) fn lose(&self) {
        ip(&["link", "set", &self.link(), "nomaster"]);
    }

    /// Ends [`lose`](Self::lose).
    pub(crate) fn find(&self) {
        ip(&["link", "set", &self.link(), "master", BRIDGE]);
    }

    /// Every packet between this host and `other` vanishes, in both directions.
    pub(crate) fn lose_way_to(&self, other: &Self) {
        self.send_to(other, NOWHERE);
        other.send_to(self, NOWHERE);
    }

    /// Ends [`lose_way_to`](Self::lose_way_to).
    pub(crate) fn find_way_to(&self, other: &Self) {
        self.send_to(other, &mac(other.number));
        other.send_to(self, &mac(self.number));
    }

    fn send_to(&self, other: &Self, mac: &str) {
        self.ip(&["neighbour", "replace", &other.address().to_string(), "lladdr", mac, "dev", "eth0"]);
    }

    fn link(&self) -> String {
        format!("host{}", self.number)
    }

    fn ip(&self, words: &[&str]) {
        run(&mut self.command(Command::new("ip").args(words)));
    }
}

fn namespace(keeper: &Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", keeper.id()))
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn mac(number: u8) -> String {
    format!("02:00:00:00:01:{number:02x}")
}

fn ip(words: &[&str]) {
    run(Command::new("ip").args(words));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
}
