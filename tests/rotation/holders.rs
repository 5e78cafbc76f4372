//! Those who hold SVIDs and show them to each other: two agents, and a client that goes by what came with its last certificate,
//! as pilot-agent does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use countersign::{
    domain::{
        clock::Clock as _,
        x509::{Certificate, CertificateChain, PrivateKey, TrustBundle},
    },
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    runtime::seams::SystemClock,
};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Request,
    transport::{Certificate as Root, ClientTlsConfig, Endpoint},
};

use crate::{
    pair::{Pair, TTL},
    support::{
        countersign::{Agent, root_file, write_token},
        wait::wait_until,
        workload_api::x509_svids,
    },
};

/// A certificate with what stands above it, and what its holder goes by.
#[derive(Clone)]
struct Held {
    who: &'static str,
    chain: CertificateChain,
    bundle: TrustBundle,
}

/// All of them, watched all the time.
pub(crate) struct Holders {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _agents: [Agent; 2],
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    verified: AtomicUsize,
    renewals: AtomicUsize,
    client: Mutex<Option<Held>>,
    failures: Mutex<Vec<String>>,
}

impl Holders {
    /// Starts them and waits until each holds a certificate.
    pub(crate) fn start(pair: &Pair) -> Self {
        let agents = [pair.agent("one"), pair.agent("two")];
        let shared = Arc::new(Shared::default());
        let client = Client::new(pair);
        let sockets = agents.each_ref().map(|agent| agent.socket.clone());
        let token = sockets[1].with_extension("token");
        let (renewing, watching) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || renewing.renew_at_half_life(client)),
            thread::spawn(move || watching.watch(&sockets)),
        ];
        let holders = Self { shared, threads, _agents: agents };
        holders.verify();
        // the second one has nothing but its certificate from now on, as when its token ended long ago
        fs::write(token, "").unwrap();
        holders
    }

    /// Waits until all have shown theirs to one another once more.
    pub(crate) fn verify(&self) {
        let before = self.shared.verified.load(Ordering::Relaxed);
        wait_until(Duration::from_secs(20), "all hold a certificate and are believed", || {
            self.check();
            // a round is nine, and one is under way
            if self.shared.verified.load(Ordering::Relaxed) >= before + 18 { Ok(()) } else { Err("not yet") }
        });
    }

    /// Fails if anybody was refused by anybody.
    pub(crate) fn check(&self) {
        let failures = self.shared.failures.lock().unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// Waits for a further renewal of the client.
    pub(crate) fn renew(&self) {
        let before = self.shared.renewals.load(Ordering::Relaxed);
        wait_until(TTL * 2, "a further renewal", || {
            self.check();
            if self.shared.renewals.load(Ordering::Relaxed) > before { Ok(()) } else { Err("none") }
        });
    }

    /// Ends: how often one was verified by another, and how often the client has renewed.
    pub(crate) fn end(mut self) -> (usize, usize) {
        self.stop();
        self.check();
        (self.shared.verified.load(Ordering::Relaxed), self.shared.renewals.load(Ordering::Relaxed))
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn failed(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn renew_at_half_life(&self, mut client: Client) {
        let mut due = Instant::now();
        while !self.is_over() {
            if Instant::now() < due {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            due = Instant::now() + TTL / 2;
            match client.renewed() {
                Ok(held) => {
                    *self.client.lock().unwrap() = Some(held);
                    self.renewals.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.failed(error),
            }
        }
    }

    /// Everybody verifies everybody, again and again.
    fn watch(&self, sockets: &[PathBuf; 2]) {
        let runtime = runtime();
        let mut had = [false; 2];
        while !self.is_over() {
            let mut held = Vec::new();
            for ((who, socket), had) in ["agent one", "agent two"].into_iter().zip(sockets).zip(&mut had) {
                match fetched(&runtime, who, socket) {
                    Some(svid) => {
                        *had = true;
                        held.push(svid);
                    }
                    None if *had => self.failed(format!("{who} has no SVID any more")),
                    None => {}
                }
            }
            held.extend(self.client.lock().unwrap().clone());
            for shows in &held {
                for looks in &held {
                    match shows.chain.verify(&looks.bundle, SystemClock.now()) {
                        Ok(()) if held.len() == 3 => {
                            self.verified.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(()) => {}
                        Err(error) => self.failed(format!("{} refuses {}: {error}", looks.who, shows.who)),
                    }
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `None` while the agent has none yet.
fn fetched(runtime: &Runtime, who: &'static str, socket: &Path) -> Option<Held> {
    let response = runtime.block_on(async { x509_svids(socket).await.ok()?.message().await.ok()? });
    let svid = response?.svids.into_iter().next()?;
    let chain = CertificateChain::new(certificates(&svid.x509_svid)).unwrap();
    let bundle = TrustBundle::new("cluster.local".parse().unwrap(), certificates(&svid.bundle)).unwrap();
    Some(Held { who, chain, bundle })
}

fn certificates(mut der: &[u8]) -> Vec<Certificate> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der).unwrap();
        all.push(Certificate::from_der(&der[..der.len() - rest.len()]).unwrap());
        der = rest;
    }
    all
}

/// Renews on a new connection each time, verifies the server by the roots of its last answer, and tries one replica after the
/// other.
struct Client {
    ports: [u16; 2],
    token: PathBuf,
    data: PathBuf,
    csr: String,
    roots: String,
    runtime: Runtime,
}

impl Client {
    fn new(pair: &Pair) -> Self {
        let id = "spiffe://cluster.local/ns/default/sa/client".parse().unwrap();
        Self {
            ports: pair.ports(),
            token: pair.logs().join("client.token"),
            data: pair.data(),
            csr: PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap(),
            roots: fs::read_to_string(root_file(&pair.data())).unwrap(),
            runtime: runtime(),
        }
    }

    fn renewed(&mut self) -> Result<Held, String> {
        write_token(&self.data, "default/client", &self.token);
        let token = fs::read_to_string(&self.token).unwrap();
        let mut failures = Vec::new();
        for port in [self.ports[0], self.ports[1], self.ports[0]] {
            match self.runtime.block_on(ask(port, token.trim(), &self.csr, &self.roots)) {
                Ok(mut answer) => {
                    self.roots = answer.pop().unwrap();
                    let chain = Certificate::all_from_pem(answer.concat().as_bytes()).unwrap();
                    let bundle = TrustBundle::from_pem("cluster.local".parse().unwrap(), self.roots.as_bytes());
                    let chain = CertificateChain::new(chain).unwrap();
                    return Ok(Held { who: "the client", chain, bundle: bundle.unwrap() });
                }
                Err(error) => failures.push(format!("port {port}: {error}")),
            }
        }
        Err(format!("no renewal: {failures:?}"))
    }
}

async fn ask(port: u16, token: &str, csr: &str, roots: &str) -> Result<Vec<String>, String> {
    let tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(roots)).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap().connect_timeout(Duration::from_secs(1));
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    let message = IstioCertificateRequest { csr: csr.to_owned(), validity_duration: 0, metadata: None };
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
    Ok(answer.map_err(|status| format!("{status:?}"))?.into_inner().cert_chain)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
