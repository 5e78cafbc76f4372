//! Ports that are in use. The only test that binds the default ones.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use tokio::runtime::Runtime;

use crate::{
    caller::Caller,
    pair::Place,
    support::{
        countersign::countersign,
        http::{self, loopback},
        process::Process,
        wait::wait_until,
    },
    turn,
};

const CA: u16 = 15012;
const ADMIN: u16 = 15020;
const START: Duration = Duration::from_secs(10);
/// Another run of this very test may be at work on this machine.
const OTHERS: Duration = Duration::from_secs(60);

#[test]
fn a_default_port_gives_way_to_a_replica_and_to_nothing_else() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let data = place.data();
    let foreign = take(CA);
    drop(take(ADMIN));
    refused("foreign", &place, &data, &[], "listen 127.0.0.1:15012 is in use already");
    drop(foreign);

    let first = serve("first", &place, &data, &[]);
    wait_until(START, "the first ready", || http::get(loopback(ADMIN), "/readyz"));
    assert_eq!(signing_address(&first), (loopback(CA), false));
    let second = serve("second", &place, &data, &[]);
    let (free, gave_way) = signing_address(&second);
    assert!(gave_way && free.port() != CA && free.ip().is_loopback(), "{}", second.output());
    let caller = Caller::new(&data, "default/client");
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    for port in [CA, free.port()] {
        wait_until(START, &format!("a certificate from port {port}"), || {
            runtime.block_on(caller.sign(&caller.connection(port)))
        });
    }

    let busy = "listen 127.0.0.1:15012 is in use";
    refused("chosen", &place, &data, &["--listen", "127.0.0.1:15012"], busy);
    let free = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:15020"];
    refused("chosen-admin", &place, &data, &free, "adminListen 127.0.0.1:15020 is in use");
    refused("stranger", &place, &place.logs().join("other"), &[], busy);
}

/// Holds a default port, as another program would.
fn take(port: u16) -> TcpListener {
    wait_until(OTHERS, &format!("port {port} free (end what holds it: this test needs it)"), || {
        TcpListener::bind(loopback(port))
    })
}

fn serve(name: &str, place: &Place, data: &Path, flags: &[&str]) -> Process {
    Process::start(name, place.logs(), countersign().arg("serve").arg("--data-dir").arg(data).args(flags))
}

fn refused(name: &str, place: &Place, data: &Path, flags: &[&str], why: &str) {
    let mut process = serve(name, place, data, flags);
    let status = process.wait_for_end(START);
    let said = process.errors();
    assert!(!status.success() && said.contains(&format!("error: {why}")), "{name}: {status}: {said}");
}

/// Where it says that it takes requests, and whether it says that it had to give way.
fn signing_address(serve: &Process) -> (SocketAddr, bool) {
    wait_until(START, "it says where it takes requests", || {
        let output = serve.output();
        let line = output.lines().find_map(|line| line.trim().strip_prefix("signing API"));
        let line = line.filter(|_| output.contains("try:")).ok_or(format!("{output}{}", serve.errors()))?.trim();
        let (address, rest) = line.split_once(',').unwrap_or((line, ""));
        Ok::<_, String>((address.parse().unwrap(), rest.contains("another replica holds the default port")))
    })
}
