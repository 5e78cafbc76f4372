//! `countersign agent` on a host whose clock is five minutes off: the real binary, and a CA whose certificates, its own serving
//! certificate and root among them, are made by a clock that is off the other way. No test here needs a peer.
//!
//! A clock of the whole host can't be set for one process, and nothing in an agent depends on more than the difference.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use countersign::{
    domain::{
        authority::{SigningAuthority, Subject, TtlBounds, issue},
        clock::Timestamp,
        identity::SpiffeId,
        x509::{Certificate, PrivateKey, VerifiedCsr},
    },
    proto::istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    runtime::seams::RingRandom,
};
use spiffe::WorkloadApiClient;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::support::{
    countersign::countersign,
    http::{self, free_port, loopback},
    observe::leave_for_alerts,
    process::Process,
    wait::wait_until,
};

const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const DAY: Duration = Duration::from_secs(86_400);
const SOON: Duration = Duration::from_secs(15);

fn now() -> Timestamp {
    Timestamp::from_seconds(0).plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

/// By a clock that is so many seconds ahead.
fn now_of(ahead: i64) -> Timestamp {
    Timestamp::from_micros(now().micros() + ahead * 1_000_000)
}

/// A CA by another clock. It dates its certificates back by two minutes.
struct Ca {
    authority: SigningAuthority,
    ahead: i64,
}

impl Ca {
    fn new(ahead: i64, made: Timestamp) -> Self {
        let trust_domain = "cluster.local".parse().unwrap();
        let (authority, _) = SigningAuthority::self_signed(&trust_domain, DAY, made, &RingRandom::new()).unwrap();
        Self { authority, ahead }
    }

    /// The leaf and the roots, PEM.
    fn signed(&self, csr: &str, server_names: &[String], ttl_seconds: i64, at: Timestamp) -> Vec<String> {
        let csr = VerifiedCsr::from_pem(csr.as_bytes()).unwrap();
        let id: SpiffeId = ID.parse().unwrap();
        let subject = Subject { id: &id, server_names };
        let bounds = TtlBounds::new(DAY / 2, DAY).unwrap();
        let issued = issue(&self.authority, &csr, subject, ttl_seconds, &bounds, at, &RingRandom::new()).unwrap();
        issued.response_chain(&self.authority)
    }

    fn serving(&self, made: Timestamp) -> Identity {
        let key = PrivateKey::generate_p256().unwrap();
        let csr = key.certificate_request(&ID.parse().unwrap()).unwrap();
        let chain = self.signed(&csr, &["localhost".to_owned()], 0, made);
        Identity::from_pem(&chain[0], key.to_pem().as_bytes())
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Ca {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let IstioCertificateRequest { csr, validity_duration, .. } = request.into_inner();
        let cert_chain = self.signed(&csr, &[], validity_duration, now_of(self.ahead));
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// An agent with its CA.
struct World {
    agent: Process,
    admin_port: u16,
    socket: PathBuf,
    /// The CA is gone without it.
    ca: Option<Runtime>,
    client: Runtime,
    _folder: TempDir,
}

impl World {
    /// A CA whose clock is `ahead` of the agent's by so many seconds; `old`: it has been there for an hour.
    fn start(ahead: i64, old: bool, ttl: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = if old { now_of(ahead - 3600) } else { now_of(ahead) };
        let ca = Ca::new(ahead, made);
        let (token, roots, socket) =
            (folder.path().join("token"), folder.path().join("roots"), folder.path().join("s"));
        fs::write(&token, "a.b.c").unwrap();
        fs::write(&roots, ca.authority.bundle().to_pem()).unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTlsConfig::new().identity(ca.serving(made));
        let server = Server::builder().tls_config(tls).unwrap().add_service(IstioCertificateServiceServer::new(ca));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let admin_port = free_port();
        let mut command = countersign();
        command.args(["agent", "--trust-domain", "cluster.local", "--svid-ttl", ttl]);
        command.args(["--ca-address", &format!("localhost:{port}")]).arg("--token-file").arg(token);
        command.arg("--root-file").arg(roots).arg("--socket").arg(&socket);
        command.arg("--admin-listen").arg(loopback(admin_port).to_string());
        let agent = Process::start("agent", folder.path(), &mut command);
        Self { agent, admin_port, socket, ca: Some(runtime), client: Runtime::new().unwrap(), _folder: folder }
    }

    fn readiness(&self) -> String {
        http::get(loopback(self.admin_port), "/readyz").unwrap_or_else(|other| other)
    }

    fn says(&self, text: &str) {
        wait_until(SOON, text, || {
            let said = self.readiness();
            if said.contains(text) { Ok(()) } else { Err(said) }
        });
    }

    fn metrics(&self) -> String {
        http::get(loopback(self.admin_port), "/metrics").unwrap()
    }

    fn metric(&self, name: &str) -> Result<i64, String> {
        let page = http::get(loopback(self.admin_port), "/metrics")?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or(page)
    }

    /// What a client of the Workload API gets at once, which is never outside of its time by the agent's clock.
    fn served(&self) -> Result<Certificate, String> {
        let asked = async {
            let client = WorkloadApiClient::connect_to(format!("unix:{}", self.socket.display())).await?;
            client.fetch_x509_svid().await
        };
        let svid = self.client.block_on(async { tokio::time::timeout(Duration::from_millis(500), asked).await });
        let before = now();
        let svid = svid.map_err(|_elapsed| "nothing")?.map_err(|error| format!("{error:?}"))?;
        let leaf = Certificate::from_der(svid.cert_chain()[0].as_bytes()).unwrap();
        assert!(leaf.not_before() <= now(), "served {} before its time", leaf.serial());
        // it may end while it is on its way
        assert!(before.minus(Duration::from_secs(1)) < leaf.not_after(), "{} was served after its end", leaf.serial());
        Ok(leaf)
    }

    /// Looks for so long, and has it that nothing is served.
    fn nothing_for(&self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            let served = self.served();
            assert!(served.is_err(), "{served:?}: {}", self.readiness());
        }
    }

    fn wait_for_another(&self, than: Option<&Certificate>) -> Certificate {
        wait_until(SOON, "another SVID", || match self.served() {
            Ok(leaf) if Some(leaf.serial()) != than.map(Certificate::serial) => Ok(leaf),
            other => Err(format!("{other:?}; {}", self.readiness())),
        })
    }
}

#[test]
fn five_minutes_behind_a_ca_that_is_new_it_is_not_spoken_to_and_nothing_is_served() {
    let world = World::start(300, false, "1h");
    world.says("ClockSkew: ");
    world.nothing_for(Duration::from_secs(3));
    assert!(world.readiness().contains("the certificate of the server is valid only from 20"), "{}", world.readiness());
}

#[test]
fn five_minutes_behind_its_svid_is_held_back_and_the_difference_is_shown() {
    let world = World::start(300, true, "1h");
    world.says("ClockSkew: the new SVID is not valid yet by the clock of this host");
    let skew = world.metric("countersign_clock_skew_seconds").unwrap();
    assert!((165..=180).contains(&skew), "{skew}");
    let right = World::start(0, true, "1h");
    right.wait_for_another(None);
    leave_for_alerts("clock_behind", &right.metrics(), &world.metrics());
    world.nothing_for(Duration::from_secs(3));
}

#[test]
fn a_little_behind_it_waits_for_the_ca_and_then_for_the_svid() {
    let began = now();
    let world = World::start(124, false, "1h");
    world.says("ClockSkew: ");
    let leaf = world.wait_for_another(None);
    assert!(leaf.not_before() > began, "it was from the future");
    // each trouble once, though they were met each second
    assert_eq!(world.agent.errors().matches("svid_not_renewed").count(), 1, "{}", world.agent.errors());
    wait_until(SOON, "no skew", || match world.metric("countersign_clock_skew_seconds")? {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn five_minutes_ahead_it_renews_early_and_withdraws_at_the_end_by_its_own_clock() {
    // of 312 s there are 12 left
    let mut world = World::start(-300, true, "312s");
    let mut last = world.wait_for_another(None);
    let first = Instant::now();
    for _ in 0..3 {
        let next = world.wait_for_another(Some(&last));
        assert!(now() < last.not_after(), "the one before had not ended");
        last = next;
    }
    let each = first.elapsed() / 3;
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&each), "{each:?}");
    assert_eq!(world.metric("countersign_clock_skew_seconds"), Ok(0));
    // the CA goes, and what is held ends
    world.ca.take().unwrap().shutdown_background();
    wait_until(Duration::from_secs(20), "nothing served", || match world.served() {
        Ok(leaf) => Err(format!("{} until {}", leaf.serial(), leaf.not_after())),
        Err(_) => Ok(()),
    });
    assert!(now() >= last.not_after().minus(Duration::from_secs(1)), "it was served to its end");
    world.says("the SVID has expired");
    world.nothing_for(Duration::from_secs(2));
}

#[test]
fn five_minutes_ahead_what_has_ended_already_is_never_served() {
    let world = World::start(-300, true, "120s");
    world.says("expired");
    world.nothing_for(Duration::from_secs(3));
}
