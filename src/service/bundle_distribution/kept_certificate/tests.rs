//! A gateway's Secret in memory. Time is paused: it jumps to the next thing that is due.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;
use crate::{
    domain::{
        authority::{
            SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        bundle::FoundRoots,
        clock::BootInstant,
        x509::{CertificateChain, TrustBundle, VerifiedCsr, X509Svid},
    },
    service::{
        bundle_distribution::SeenStream,
        ports::{BoxFuture, SignError, SignedChain},
    },
};

const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(600);

struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.0.elapsed())
    }
}

/// The Secret, the signer and the handshake.
struct World {
    authority: SigningAuthority,
    clock: Arc<PausedClock>,
    /// What is followed is told of here.
    seen: mpsc::UnboundedSender<SecretSeen>,
    following: Mutex<Option<mpsc::UnboundedReceiver<SecretSeen>>>,
    written: Mutex<Vec<String>>,
    /// Certificate, key and roots, as whoever reads the Secret finds them.
    stands: Mutex<Option<[String; 3]>>,
    is_read: AtomicBool,
    signs: AtomicBool,
    signed: AtomicUsize,
    refuses: AtomicBool,
}

impl TlsSecret for World {
    fn follow(&self) -> SeenStream<SecretSeen> {
        let mut following = self.following.lock().unwrap().take().unwrap();
        Box::pin(futures_util::stream::poll_fn(move |context| following.poll_recv(context).map(|seen| seen.map(Ok))))
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<StoredSecret>, String>> {
        let stands = self.stands.lock().unwrap().as_ref().map(stored);
        Box::pin(async { if self.is_read.load(Ordering::Relaxed) { Ok(stands) } else { Err("not now".to_owned()) } })
    }

    fn write<'a>(
        &'a self,
        _version: Option<&'a str>,
        files: &'a ServingFiles,
    ) -> BoxFuture<'a, Result<StoredSecret, WriteError>> {
        self.written.lock().unwrap().push(files.certificate.clone());
        let written = [files.certificate.clone(), files.key.to_string(), files.roots.clone()];
        let secret = stored(&written);
        *self.stands.lock().unwrap() = Some(written);
        Box::pin(async { Ok(secret) })
    }
}

fn stored([certificate, key, roots]: &[String; 3]) -> StoredSecret {
    StoredSecret {
        version: String::new(),
        certificate: certificate.clone().into_bytes(),
        key: key.as_bytes().to_vec().into(),
        roots: FoundRoots::read(Some(roots), None),
        publisher: Some("countersign".to_owned()),
        kind: TLS_TYPE.to_owned(),
    }
}

impl CertificateAuthority for World {
    fn sign<'a>(&'a self, csr_pem: &'a str, _ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        self.signed.fetch_add(1, Ordering::Relaxed);
        let csr = VerifiedCsr::from_pem(csr_pem.as_bytes()).unwrap();
        let bounds = TtlBounds::new(TTL, TTL).unwrap();
        let issued =
            issue(&self.authority, &csr, &ID.parse().unwrap(), 0, &bounds, self.clock.now(), &TestRandom).unwrap();
        let chain = CertificateChain::new(vec![issued.leaf]).unwrap();
        let roots_pem = self.authority.roots_pem().to_owned();
        let signs = self.signs.load(Ordering::Relaxed);
        Box::pin(async move {
            if signs { Ok(SignedChain { chain, roots_pem }) } else { Err(SignError::Unavailable("nobody".to_owned())) }
        })
    }
}

impl SelfCheck for World {
    fn check(&self, _svid: &X509Svid, bundle: &TrustBundle) -> Result<(), String> {
        assert_eq!(bundle, self.authority.bundle());
        if self.refuses.load(Ordering::Relaxed) { Err("as a client: no".to_owned()) } else { Ok(()) }
    }
}

struct Roots(watch::Receiver<Trust>);

impl Trusted for Roots {
    fn now(&self) -> Option<Trust> {
        Some(self.0.borrow().clone())
    }

    async fn changed(&mut self) {
        self.0.changed().await.unwrap();
    }
}

struct Keeping {
    world: Arc<World>,
    trust: watch::Sender<Trust>,
    status: watch::Receiver<Option<CertificateStatus>>,
    metrics: Arc<Metrics>,
    task: JoinHandle<Infallible>,
}

impl Keeping {
    fn start() -> Self {
        let (seen, following) = mpsc::unbounded_channel();
        let world = Arc::new(World {
            authority: authority(),
            clock: Arc::new(PausedClock(Instant::now())),
            seen,
            following: Mutex::new(Some(following)),
            written: Mutex::default(),
            stands: Mutex::default(),
            is_read: AtomicBool::new(true),
            signs: AtomicBool::new(true),
            signed: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
        });
        let metrics = Arc::new(Metrics::default());
        let kept = KeptCertificate {
            name: "gateways/mesh".to_owned(),
            holder: Holder::Gateway,
            secret: Arc::clone(&world) as _,
            authority: Arc::clone(&world) as _,
            check: Arc::clone(&world) as _,
            id: ID.parse().unwrap(),
            server_names: Vec::new(),
            ttl: TTL,
            publisher: "countersign".to_owned(),
            clock: Arc::clone(&world.clock) as _,
            metrics: Arc::clone(&metrics),
        };
        let bundle = world.authority.bundle().clone();
        let (trust, trusted) = watch::channel(Trust { bundle, roots_pem: world.authority.roots_pem().to_owned() });
        let (told, status) = watch::channel(None);
        let task =
            tokio::spawn(async move { kept.run(Roots(trusted), |status| drop(told.send_replace(Some(status)))).await });
        let keeping = Self { world, trust, status, metrics, task };
        keeping.see(SecretSeen::Namespace(true));
        keeping.see(SecretSeen::Secret(None));
        keeping
    }

    fn see(&self, seen: SecretSeen) {
        self.world.seen.send(seen).unwrap();
    }

    fn written(&self) -> usize {
        self.world.written.lock().unwrap().len()
    }

    /// The serial number that is said to be held, and when that was verified.
    fn held(&self) -> (String, Option<Timestamp>) {
        match self.status.borrow().clone() {
            Some(
                CertificateStatus::Good { held: Some(held), .. } | CertificateStatus::Failing { held: Some(held), .. },
            ) => (held.serial, held.verified_at),
            other => panic!("{other:?}"),
        }
    }

    /// The serial number of what was written last.
    fn serial(&self) -> String {
        let written = self.world.written.lock().unwrap();
        Certificate::all_from_pem(written.last().unwrap().as_bytes()).unwrap()[0].serial().to_string()
    }

    fn shows(&self, verified_at: Timestamp) -> bool {
        let line = "countersign_output_verified_timestamp_seconds{output=\"gateways/mesh\"} ";
        self.metrics.encode().contains(&format!("{line}{}\n", verified_at.seconds()))
    }

    fn failure(&self) -> String {
        match self.status.borrow().as_ref() {
            Some(CertificateStatus::Failing { why, .. }) => why.clone(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_a_handshake_with_itself_is_never_written_in_place_of_a_good_one() {
    let keeping = Keeping::start();
    sleep(SECOND).await;
    assert_eq!(keeping.written(), 1);
    keeping.world.refuses.store(true, Ordering::Relaxed);
    sleep(TTL).await;
    assert_eq!(keeping.written(), 1, "the old one stays, whatever becomes of it");
    assert!(keeping.world.signed.load(Ordering::Relaxed) > 10, "and others are asked for");
    assert_eq!(keeping.failure(), "the new one failed in a handshake with itself, as a client: no; it is not written");
    keeping.world.refuses.store(false, Ordering::Relaxed);
    sleep(LONGEST_IN_VAIN + SECOND).await;
    assert_eq!(keeping.written(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_signs_is_noticed_within_seconds_however_long_that_took_and_at_once_when_it_tells_of_itself() {
    let keeping = Keeping::start();
    keeping.world.signs.store(false, Ordering::Relaxed);
    sleep(600 * SECOND).await;
    let asked = keeping.world.signed.load(Ordering::Relaxed);
    assert!((140..160).contains(&asked), "{asked}");
    assert_eq!(keeping.failure(), "it could not be signed: no certificate authority answered: nobody");
    keeping.world.signs.store(true, Ordering::Relaxed);
    sleep(LONGEST_IN_VAIN + Duration::from_millis(100)).await;
    assert_eq!(keeping.written(), 1);

    for wake in [2, 1, 0] {
        keeping.world.signs.store(false, Ordering::Relaxed);
        keeping.see(SecretSeen::Secret(None));
        sleep(60 * SECOND).await;
        let before = keeping.written();
        keeping.world.signs.store(true, Ordering::Relaxed);
        match wake {
            // the same roots, in another answer
            0 => keeping.trust.send_modify(|_| ()),
            1 => {
                keeping.see(SecretSeen::Namespace(false));
                keeping.see(SecretSeen::Namespace(true));
            }
            _ => {
                keeping.see(SecretSeen::Secret(Some(marked(TLS_TYPE))));
            }
        }
        sleep(Duration::from_millis(10)).await;
        let status = keeping.status.borrow().clone();
        assert_eq!(keeping.written(), before + 1, "{wake}: {status:?}");
    }
}

/// A Secret that is handed over.
fn marked(kind: &str) -> StoredSecret {
    StoredSecret {
        version: "7".to_owned(),
        certificate: Vec::new(),
        key: Vec::new().into(),
        roots: FoundRoots::read(None, None),
        publisher: Some("countersign".to_owned()),
        kind: kind.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_handed_over_and_of_another_type_is_left_as_it_is_and_said_so() {
    let keeping = Keeping::start();
    sleep(SECOND).await;
    let before = keeping.written();
    keeping.see(SecretSeen::Secret(Some(marked("Opaque"))));
    sleep(600 * SECOND).await;
    assert_eq!(keeping.written(), before);
    let status = keeping.status.borrow().as_ref().map(ToString::to_string);
    let said = "it is of type Opaque, which can't be changed: delete it, and it is made anew as kubernetes.io/tls";
    assert_eq!(status.as_deref(), Some(said));
    keeping.see(SecretSeen::Secret(None));
    sleep(SECOND).await;
    assert_eq!(keeping.written(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_secret_whose_renewal_fails_says_which_svid_it_holds_and_is_read_back_until_that_ends() {
    let keeping = Keeping::start();
    sleep(SECOND).await;
    let serial = keeping.serial();
    assert_eq!(keeping.held().0, serial);
    keeping.world.signs.store(false, Ordering::Relaxed);
    let (half, end) = (NOW.plus(TTL / 2), NOW.plus(TTL));
    let mut last = NOW;
    for _ in 0..(TTL.as_secs() / 40 - 1) {
        sleep(40 * SECOND).await;
        let now = keeping.world.clock.now();
        let (held, verified_at) = keeping.held();
        let verified_at = verified_at.unwrap();
        assert!(now < half.plus(SECOND) || keeping.failure().contains("nobody"), "no half of it is over: {now}");
        assert!(held == serial && verified_at > last && now.since(verified_at) <= 40 * SECOND, "{now}, {verified_at}");
        assert!(keeping.shows(verified_at), "{}", keeping.metrics.encode());
        last = verified_at;
    }
    sleep(2 * TTL).await;
    let (held, verified_at) = keeping.held();
    let verified_at = verified_at.unwrap();
    assert!(held == serial && verified_at < end && keeping.shows(verified_at), "what has expired is right no more");
    let said = keeping.status.borrow().as_ref().unwrap().to_string();
    assert!(
        said.starts_with(&format!("serial {serial}, verified at {verified_at}, failing, it could not be")),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_back_however_silent_the_watch_is_and_when_that_fails_its_verification_grows_old() {
    let keeping = Keeping::start();
    sleep(SECOND).await;
    let good = keeping.world.stands.lock().unwrap().clone().unwrap();
    keeping.world.stands.lock().unwrap().as_mut().unwrap()[1].clear();
    sleep(LOOK_EVERY + SECOND).await;
    assert_eq!(keeping.written(), 2, "its key was gone");
    assert_ne!(keeping.world.stands.lock().unwrap().clone().unwrap(), good);

    keeping.world.is_read.store(false, Ordering::Relaxed);
    let (serial, verified_at) = keeping.held();
    sleep(3 * LOOK_EVERY).await;
    assert_eq!(keeping.held(), (serial, verified_at));
    keeping.world.is_read.store(true, Ordering::Relaxed);
    sleep(LOOK_EVERY).await;
    assert!(keeping.held().1 > verified_at);
}
