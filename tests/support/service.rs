//! One address for several replicas, as a Service has it.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use super::{countersign::ca_address, http::loopback};

/// An address behind which both are until this process ends. Each connection goes to the next one in turn, and to the other one if
/// that refuses it, as with a Service that has noticed.
pub(crate) fn service(replicas: [SocketAddr; 2]) -> String {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (turn, client) in listener.incoming().map(Result::unwrap).enumerate() {
            thread::spawn(move || {
                if let Some(server) = connect(replicas[turn % 2]).or_else(|| connect(replicas[(turn + 1) % 2])) {
                    join(client, server);
                }
            });
        }
    });
    ca_address(port)
}

fn connect(replica: SocketAddr) -> Option<TcpStream> {
    TcpStream::connect_timeout(&replica, Duration::from_secs(1)).ok()
}

/// Forwards bytes between the two until either ends.
pub(crate) fn join(client: TcpStream, server: TcpStream) {
    let pump = |mut from: TcpStream, mut to: TcpStream| {
        let _broken = std::io::copy(&mut from, &mut to);
        for stream in [from, to] {
            let _closed_already = stream.shutdown(Shutdown::Both);
        }
    };
    let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || pump(from, to));
    pump(client, server);
}
