//! A workload socket at a path that the operator chose.

use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::{
    pair::Place,
    socket::fetch_first,
    support::{countersign::Serve, http::free_port},
    turn,
};

const END: std::time::Duration = std::time::Duration::from_secs(10);

#[test]
fn both_replicas_take_the_same_flags_and_the_second_serves_the_socket_after_the_first() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let socket = place.logs().join("chosen.sock");
    let flags = ["--workload-socket", socket.to_str().unwrap()];
    let start = |name| Serve::start(name, place.logs(), &place.data(), &flags);
    let mut first = start("first");
    let second = start("second");
    assert_eq!(fetch_first(&socket).spiffe_id, "spiffe://cluster.local/ns/default/sa/gateway");
    first.process.signal(Signal::TERM);
    first.process.wait_for_success(END);
    fetch_first(&socket);
    drop(second);
}

#[test]
fn a_socket_of_somebody_else_is_an_error() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let socket = place.logs().join("chosen.sock");
    let _foreign = UnixListener::bind(&socket).unwrap();
    let flags = ["--workload-socket", socket.to_str().unwrap()];
    let mut serve = Serve::spawn("serve", place.logs(), &place.data(), free_port(), &flags);
    let status = serve.process.wait_for_end(END);
    let said = serve.process.errors();
    assert!(!status.success() && said.contains("chosen.sock"), "{status}: {said}");
}
