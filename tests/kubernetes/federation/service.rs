//! One address for the bundle endpoints of both replicas, as a Service is.

use std::{
    io::{self, Read as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use crate::support::{http::loopback, workers::Workers};

const POLL: Duration = Duration::from_millis(2);
/// How long all that are in it are gone, and back, while it flaps.
const FLAP: Duration = Duration::from_millis(700);

/// Each connection goes to the next of those that are in it, be it alive or not, as with kube-proxy.
pub(super) struct Service {
    pub(super) port: u16,
    routing: Arc<Mutex<Routing>>,
    _workers: Workers,
}

#[derive(Default)]
struct Routing {
    endpoints: Vec<u16>,
    connections: usize,
    is_away: bool,
    /// Where the next connection goes, and who is told that it was answered.
    held: Option<(u16, Sender<()>)>,
}

impl Service {
    pub(super) fn start(endpoints: &[u16]) -> Self {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let routing = Arc::new(Mutex::new(Routing { endpoints: endpoints.to_vec(), ..Routing::default() }));
        let workers = Workers::start(1, POLL, || {
            let (listener, routing) = (listener.try_clone().unwrap(), Arc::clone(&routing));
            move || {
                if let Ok((client, _)) = listener.accept() {
                    let to = routing.lock().unwrap().next();
                    if let Some((endpoint, answered)) = to {
                        thread::spawn(move || forward(&client, endpoint, answered));
                    }
                }
                true
            }
        });
        Self { port, routing, _workers: workers }
    }

    /// Those that are ready from now on.
    pub(super) fn set(&self, endpoints: &[u16]) {
        self.routing.lock().unwrap().endpoints = endpoints.to_vec();
    }

    /// Sends the next connection to that endpoint, and keeps its answer back. Told when there is one.
    pub(super) fn hold_next(&self, endpoint: u16) -> Receiver<()> {
        let (answered, told) = channel();
        self.routing.lock().unwrap().held = Some((endpoint, answered));
        told
    }

    /// Refuses everybody half of the time, until what this gives is dropped.
    pub(super) fn flap(&self) -> Flapping {
        let workers = Workers::start(1, FLAP, || {
            let routing = Arc::clone(&self.routing);
            move || {
                let mut routing = routing.lock().unwrap();
                routing.is_away = !routing.is_away;
                true
            }
        });
        Flapping { routing: Arc::clone(&self.routing), workers: Some(workers) }
    }
}

/// Of a Service, until it is dropped.
pub(super) struct Flapping {
    routing: Arc<Mutex<Routing>>,
    workers: Option<Workers>,
}

impl Drop for Flapping {
    fn drop(&mut self) {
        drop(self.workers.take());
        self.routing.lock().unwrap().is_away = false;
    }
}

impl Routing {
    fn next(&mut self) -> Option<(u16, Option<Sender<()>>)> {
        if let Some((endpoint, answered)) = self.held.take() {
            return Some((endpoint, Some(answered)));
        }
        self.connections += 1;
        let is_to_be_had = !self.is_away && !self.endpoints.is_empty();
        is_to_be_had.then(|| (self.endpoints[self.connections % self.endpoints.len()], None))
    }
}

fn forward(client: &TcpStream, endpoint: u16, answered: Option<Sender<()>>) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let mut server = TcpStream::connect(loopback(endpoint))?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _either_end = io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(Shutdown::Write)
    });
    let ended = match answered {
        None => io::copy(&mut server, &mut &*client),
        Some(answered) => server.read(&mut [0]).and_then(|_| {
            let _nobody_waits = answered.send(());
            io::copy(&mut server, &mut io::sink())
        }),
    };
    client.shutdown(Shutdown::Both)?;
    ended.map(drop)
}
