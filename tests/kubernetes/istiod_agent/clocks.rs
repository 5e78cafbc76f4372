//! An agent whose clock is wrong, at a real istiod whose clock is right. In this process, whose library can be given a clock.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use countersign::{
    domain::{
        clock::{BootInstant, Clock, Timestamp},
        random::{RandomUnavailable, SecureRandom},
    },
    grpc::{
        ca_client::{CaClient, CaEndpoint},
        self_handshake::SelfHandshake,
    },
    service::svid_publisher::{Expectation, IdentityReceiver, RenewalStats, SvidPublisher},
};
use ring::rand::SecureRandom as _;
use tokio::time::{Instant, timeout};

use super::gateway::{Pod, SERVER_NAME};
use crate::{
    cluster::{Cluster, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::{MESH_ROOTS, roots_of},
    },
    support::{authority::Authority, wait::wait_until},
};

const SOON: Duration = Duration::from_secs(10);

/// Off by so many seconds.
struct Off {
    by: i64,
    started: Instant,
}

impl Clock for Off {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(now.as_micros()).unwrap() + self.by * 1_000_000)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.started.elapsed())
    }
}

struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        ring::rand::SystemRandom::new().fill(bytes).or(Err(RandomUnavailable))
    }
}

/// What an agent does, by a clock that is off.
struct Publishing {
    clock: Arc<Off>,
    identity: IdentityReceiver,
    stats: Arc<RenewalStats>,
    /// Its tasks end with it.
    runtime: tokio::runtime::Runtime,
}

impl Publishing {
    fn start(off_by: i64, ttl: Duration, client: impl FnOnce(Arc<dyn Clock>) -> CaClient) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let clock = Arc::new(Off { by: off_by, started: Instant::now() });
        let (publisher, identity) = SvidPublisher::new(
            Arc::new(client(Arc::clone(&clock) as _)),
            Expectation::AnyIn("cluster.local".parse().unwrap()),
            i64::try_from(ttl.as_secs()).unwrap(),
            Arc::clone(&clock) as _,
            Arc::new(Random),
        );
        let publisher = publisher.checked_by(Arc::new(SelfHandshake::new(Arc::clone(&clock) as _)));
        let stats = publisher.stats();
        runtime.spawn(publisher.run());
        Self { clock, identity, stats, runtime }
    }

    /// Waits for the next SVID: none is ever published outside of its time by the own clock. How long that took.
    fn next(&mut self, within: Duration) -> Duration {
        let began = std::time::Instant::now();
        let changed = self.runtime.block_on(async { timeout(within, self.identity.changed()).await });
        changed.unwrap_or_else(|_| panic!("no SVID: {:?}", self.trouble())).unwrap();
        let published = self.identity.borrow_and_update().clone().unwrap();
        let leaf = published.svid.as_ref().expect("an SVID").leaf().clone();
        assert_eq!(leaf.check_time(self.clock.now()), Ok(()));
        began.elapsed()
    }

    fn trouble(&self) -> String {
        self.stats.trouble().borrow().as_deref().unwrap_or_default().to_owned()
    }
}

#[test]
fn a_clock_that_is_ahead_renews_early_and_one_that_is_behind_waits() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let root = Authority::root("mesh");
    let istiod = Istiod::start(&cluster, &account, Ca::Own(&root.cacerts(&root.certificate)), &Default::default());
    let root_file = cluster.folder().join("roots.pem");
    std::fs::write(&root_file, roots_of(&cluster, "default", MESH_ROOTS)).unwrap();
    let client = |clock| {
        let endpoint = CaEndpoint { address: istiod.address(), server_name: SERVER_NAME.to_owned() };
        CaClient::new(vec![endpoint], pod.token_file.clone(), root_file.clone(), clock)
    };

    // five minutes ahead: of 312 s there are 12 left, and it renews after 6
    let mut ahead = Publishing::start(300, Duration::from_secs(312), client);
    ahead.next(SOON);
    let renewed = ahead.next(SOON);
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&renewed), "{renewed:?}");
    assert_eq!((ahead.stats.failures(), ahead.stats.skew_seconds()), (0, 0));
    // one that is over by the own clock is never published
    let over = Publishing::start(300, Duration::from_secs(120), client);
    wait_until(SOON, "a refusal", || if over.stats.rejections() > 1 { Ok(()) } else { Err(over.trouble()) });
    assert!(over.identity.borrow().is_none() && over.trouble().contains("expired"), "{}", over.trouble());

    // istiod dates its certificates back by two minutes, its own as well: five minutes behind is three too many
    let behind = Publishing::start(-300, Duration::from_secs(3600), client);
    wait_until(SOON, "ClockSkew", || {
        let trouble = behind.trouble();
        if trouble.contains("ClockSkew: the certificate of the server is valid only from") {
            Ok(())
        } else {
            Err(trouble)
        }
    });
    assert!(behind.identity.borrow().is_none());
    // and five seconds are waited for
    let mut nearly = Publishing::start(-125, Duration::from_secs(3600), client);
    let waited = nearly.next(SOON);
    assert!((Duration::from_secs(3)..Duration::from_secs(7)).contains(&waited), "{waited:?}");
    assert_eq!((nearly.trouble().as_str(), nearly.stats.skew_seconds()), ("", 0));
}
