//! pilot-agent's own CA client behind one virtual address, as a Service is: each connection goes to a replica by chance.

use std::{
    collections::HashSet,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use countersign::{domain::random::SecureRandom as _, runtime::seams::RingRandom};
use serde_json::Value;

use crate::{
    pair::TRUST_DOMAIN,
    support::{
        http::loopback,
        peer::{lines, peer},
        process::Process,
        service::join,
        wait::wait_until,
    },
};

const CONNECT: Duration = Duration::from_secs(60);
const PROGRESS: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(200);
const SCATTERINGS: usize = 20;

/// The virtual address. It forwards bytes until this process ends; a connection ends when either side ends it.
pub(crate) struct VirtualAddress {
    pub(crate) address: SocketAddr,
    open: Arc<Mutex<Vec<Open>>>,
}

/// A connection, the port that it comes from, and the replica that it goes to.
struct Open {
    client: TcpStream,
    port: u16,
    replica: usize,
}

impl VirtualAddress {
    /// One for these replicas.
    pub(crate) fn of(replicas: [SocketAddr; 2]) -> Self {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let open: Arc<Mutex<Vec<Open>>> = Arc::default();
        let kept = Arc::clone(&open);
        thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let (replica, kept) = (by_chance(), Arc::clone(&kept));
                thread::spawn(move || {
                    // what can't be reached is silent, as behind a Service; what refuses, refuses
                    let Ok(server) = TcpStream::connect_timeout(&replicas[replica], CONNECT) else { return };
                    let port = client.peer_addr().map(|peer| peer.port());
                    let Ok(port) = port else { return };
                    kept.lock().unwrap().push(Open { client: client.try_clone().unwrap(), port, replica });
                    join(client, server);
                    kept.lock().unwrap().retain(|open| open.port != port);
                });
            }
        });
        Self { address, open }
    }

    /// Has all connect anew, until each replica has somebody. Whoever once lost a replica stays with the other one, so that
    /// nobody would be hit when that is lost.
    pub(crate) fn scatter(&self, citadels: &[Citadel]) {
        for _ in 0..SCATTERINGS {
            for open in self.open.lock().unwrap().iter() {
                let _closed_already = open.client.shutdown(Shutdown::Both);
            }
            citadels.iter().for_each(|citadel| citadel.wait_for_more(1));
            let replicas: HashSet<usize> = self.open.lock().unwrap().iter().map(|open| open.replica).collect();
            if replicas.len() == 2 {
                return;
            }
        }
        panic!("chance had everybody at one replica {SCATTERINGS} times");
    }
}

fn by_chance() -> usize {
    let mut byte = [0];
    RingRandom::new().fill(&mut byte).unwrap();
    usize::from(byte[0] & 1)
}

/// A client that asks again and again.
pub(crate) struct Citadel {
    process: Process,
    name: String,
}

/// One of its calls.
#[derive(Clone, Debug)]
pub(crate) struct CitadelCall {
    pub(crate) serial: Option<String>,
    pub(crate) took: Duration,
    pub(crate) error: Option<String>,
}

impl Citadel {
    /// Starts one and waits for its first certificate.
    pub(crate) fn start(name: &str, logs: &Path, address: SocketAddr, token: &Path, roots: &Path) -> Self {
        let mut command = peer("citadel-client");
        command.args(["--address", &format!("localhost:{}", address.port())]);
        command.args(["--spiffe-id", &format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/citadel")]);
        command.arg("--token-file").arg(token).arg("--root-file").arg(roots);
        command.args(["--ttl", &format!("{}s", TTL.as_secs()), "--interval", &format!("{}ms", INTERVAL.as_millis())]);
        command.args(["--calls", "1000000", "--deadline", "1h"]);
        let citadel = Self { process: Process::start(name, logs, &mut command), name: name.to_owned() };
        citadel.wait_for_more(1);
        citadel
    }

    /// Its calls so far.
    pub(crate) fn calls(&self) -> Vec<CitadelCall> {
        lines(&self.process).iter().map(CitadelCall::read).collect()
    }

    /// Waits until it has got `count` further certificates.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let got = || self.calls().iter().filter(|call| call.error.is_none()).count();
        let wanted = got() + count;
        wait_until(PROGRESS, &format!("{wanted} certificates of {}", self.name), || match got() {
            got if got >= wanted => Ok(()),
            got => Err(format!("{got}; last: {:?}", self.calls().last())),
        });
    }
}

impl CitadelCall {
    fn read(line: &Value) -> Self {
        let text = |field: &str| line[field].as_str().map(str::to_owned);
        Self {
            serial: text("serial"),
            took: Duration::from_millis(line["took_ms"].as_u64().expect("took_ms")),
            error: text("error"),
        }
    }
}

/// The longest time from one certificate to the next, whatever failed in between: who had to renew at its begin was without a
/// new one for so long.
pub(crate) fn longest_without(calls: &[CitadelCall]) -> Duration {
    let (mut longest, mut without) = (Duration::ZERO, Duration::ZERO);
    for call in calls {
        without += INTERVAL + call.took;
        longest = longest.max(without);
        if call.error.is_none() {
            without = Duration::ZERO;
        }
    }
    longest
}
