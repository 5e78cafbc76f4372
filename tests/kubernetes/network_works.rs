//! What the fault tests rely on: that packets really vanish, both ways, without an answer, and come through again.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{
    cluster::{Cluster, block_on},
    network::{Host, Network, in_own_network},
    support::{process::Process, wait::wait_until},
};

const SILENCE: Duration = Duration::from_millis(500);
const START: Duration = Duration::from_secs(10);

#[test]
fn packets_of_a_lost_host_vanish_and_come_through_again() {
    in_own_network("network_works::packets_of_a_lost_host_vanish_and_come_through_again", |mut network| {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (network.host("one"), network.host("other"));
        let _echoes = [&one, &other].map(|host| Echo::start(host, folder.path()));
        for host in [&one, &other] {
            wait_until(START, "an echo", || connect(host).map_err(|error| format!("{error:?}")));
        }
        let mut kept = connect(&one).unwrap();
        assert_eq!(ask(&mut kept), Ok(()));

        one.lose();
        assert_eq!(ask(&mut kept), Err(ErrorKind::WouldBlock), "on an old connection");
        assert_eq!(connect(&one).map(drop), Err(ErrorKind::TimedOut), "on a new one");
        assert!(connect(&other).is_ok(), "the other host was lost as well");
        assert!(!reaches(&one, &other) && !reaches(&other, &one));
        one.find();
        wait_until(START, "the way back", || connect(&one).map_err(|error| format!("{error:?}")));

        assert!(reaches(&one, &other));
        one.lose_way_to(&other);
        assert!(!reaches(&one, &other) && !reaches(&other, &one));
        assert!(connect(&one).is_ok() && connect(&other).is_ok(), "we were cut off too");
        one.find_way_to(&other);
        assert!(reaches(&one, &other));
    });
}

#[test]
fn a_cluster_runs_on_a_host() {
    in_own_network("network_works::a_cluster_runs_on_a_host", |mut network: Network| {
        let host = network.host("api");
        let cluster = Cluster::start_at(&host.place(), &[]);
        let name = block_on(cluster.namespace("here"));
        assert_eq!(name, "here-0");
        network.resolve("both.test", &[&host]);
        let found = std::net::ToSocketAddrs::to_socket_addrs(&("both.test", 1)).unwrap().collect::<Vec<_>>();
        assert_eq!(found, [SocketAddr::from((host.address(), 1))]);
    });
}

/// Something on port 7 that sends back what it gets. Python is there wherever the test command runs.
struct Echo(#[expect(dead_code, reason = "held for its end")] Process);

impl Echo {
    const CODE: &str = "import socketserver as s\n\
        class H(s.BaseRequestHandler):\n def handle(self):\n  while (b := self.request.recv(99)): self.request.sendall(b)\n\
        s.ThreadingTCPServer(('0.0.0.0', 7), H).serve_forever()";

    fn start(host: &Host, logs: &Path) -> Self {
        let name = format!("echo-{}", host.address());
        Self(Process::start(&name, logs, &mut host.command(Command::new("python3").args(["-c", Self::CODE]))))
    }
}

fn connect(host: &Host) -> Result<TcpStream, ErrorKind> {
    let stream = TcpStream::connect_timeout(&(host.address(), 7).into(), SILENCE).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    stream.write_all(b"?").and_then(|()| stream.read_exact(&mut [0])).map_err(|error| error.kind())
}

fn reaches(from: &Host, to: &Host) -> bool {
    let code = format!("import socket; socket.create_connection(('{}', 7), 0.5)", to.address());
    from.command(Command::new("python3").args(["-c", &code])).output().unwrap().status.success()
}
