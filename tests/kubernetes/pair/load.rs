//! Our agent's client in loops, each with a key and connections of its own: a steady load of CreateCertificate.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use countersign::{
    domain::x509::PrivateKey,
    grpc::ca_client::{CaClient, CaEndpoint},
    runtime::seams::SystemClock,
    service::ports::CertificateAuthority as _,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::{
    pair::TRUST_DOMAIN,
    support::{certificate::Certificate, wait::wait_until},
};

/// Between the calls of one loop.
const PAUSE: Duration = Duration::from_millis(60);
const PROGRESS: Duration = Duration::from_secs(30);
const TTL_SECONDS: i64 = 600;

/// A call that was answered with a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) serial: String,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
}

/// A load that runs until it is dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    loops: Vec<JoinHandle<()>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    calls: Mutex<Vec<Call>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts `loops` loops; half of them prefer the last address.
    pub(crate) fn start(addresses: &[String], token_file: &Path, root_file: &Path, loops: usize) -> Self {
        Self::start_with(addresses, token_file, root_file, loops, PAUSE)
    }

    /// Starts two loops, with this pause between the calls of each.
    pub(crate) fn start_slowly(addresses: &[String], token_file: &Path, root_file: &Path, pause: Duration) -> Self {
        Self::start_with(addresses, token_file, root_file, 2, pause)
    }

    fn start_with(addresses: &[String], token_file: &Path, root_file: &Path, loops: usize, pause: Duration) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let loops = (0..loops)
            .map(|number| {
                let mut addresses = addresses.to_vec();
                if number % 2 == 1 {
                    addresses.reverse();
                }
                let client = client(&addresses, token_file, root_file);
                let shared = Arc::clone(&shared);
                runtime.spawn(async move { shared.work(&client, pause).await })
            })
            .collect();
        Self { shared, loops, _runtime: runtime }
    }

    /// Waits for `count` further certificates.
    pub(crate) fn wait_for_more(&self, count: usize) {
        let wanted = self.calls().len() + count;
        wait_until(PROGRESS, &format!("{wanted} certificates"), || {
            let got = self.calls().len();
            assert!(self.loops.iter().all(|task| !task.is_finished()), "a loop ended: see its panic above");
            if got >= wanted { Ok(()) } else { Err(format!("{got}; failures: {:#?}", self.failures())) }
        });
    }

    /// Every call so far that was answered, by its end.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Every call so far that was not.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    async fn work(&self, client: &CaClient, pause: Duration) {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/load").parse().unwrap();
        let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match client.sign(&csr, TTL_SECONDS).await {
                Ok(signed) => {
                    let serial = Certificate::from_pem(&signed.chain.to_pem())[0].serial.clone();
                    self.calls.lock().unwrap().push(Call { serial, begun, ended: Instant::now() });
                }
                Err(error) => {
                    self.failures.lock().unwrap().push(format!("after {:?}: {error}", begun.elapsed()));
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Our agent's client.
pub(crate) fn client(addresses: &[String], token_file: &Path, root_file: &Path) -> CaClient {
    assert!(fs::exists(token_file).unwrap() && fs::exists(root_file).unwrap());
    let endpoint = |address: &String| {
        let _: SocketAddr = address.parse().unwrap();
        CaEndpoint { address: address.clone(), server_name: "localhost".to_owned() }
    };
    let endpoints = addresses.iter().map(endpoint).collect();
    CaClient::new(endpoints, token_file.to_owned(), root_file.to_owned(), Arc::new(SystemClock))
}

/// The longest time between `from` and now in which no call ended with success.
pub(crate) fn longest_gap(calls: &[Call], from: Instant) -> Duration {
    let mut ends: Vec<Instant> = calls.iter().map(|call| call.ended).filter(|end| *end > from).collect();
    ends.extend([from, Instant::now()]);
    ends.sort();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The longest call that ended after `from`.
pub(crate) fn longest(calls: &[Call], from: Instant) -> Duration {
    calls.iter().filter(|call| call.ended > from).map(|call| call.ended - call.begun).max().unwrap_or_default()
}
