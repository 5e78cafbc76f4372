//! The authority that replicas know each other by, when ten years are nearly over.

use std::{sync::Arc, time::Duration};

use countersign::{
    domain::{
        clock::{Clock, Timestamp},
        leadership::Term,
    },
    k8s::state_store::SecretStateStore,
    runtime::seams::{RingRandom, SystemClock},
    service::{
        ports::StateStore,
        signing_state::{Claim, Origin, SigningState, root_of},
        state_manifest::StateManifest,
    },
};
use tokio::{runtime::Handle, task::block_in_place};

use crate::{
    cluster::{Cluster, client_of},
    istio::replicas::Replicas,
    pair::{NAMESPACE, TRUST_DOMAIN, install},
    support::{
        ago::Ago,
        http::{self, loopback},
        observe::leave_for_alerts,
        wait::wait_until,
    },
};

const SHOWN: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a pair authority, but for the hour that it is valid before it is made.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 3600 - 3600);
/// What a claim leaves as it is, and a few minutes more.
const LEFT: Duration = Duration::from_secs(30 * 24 * 3600 + 600);
const SERIES: &str = "countersign_certificate_expiry_timestamp_seconds{certificate=\"pair_authority\"} ";

/// Claims a term as a replica did then.
fn claim(cluster: &Cluster, term: u64, ago: Duration) {
    let client = client_of(&cluster.admin_kubeconfig());
    let manifest = Arc::new(StateManifest::default());
    let store = SecretStateStore::new(client, Handle::current(), NAMESPACE, MINUTE, manifest, root_of);
    let opened: Arc<dyn StateStore> = Arc::new(store);
    let open = Box::new(move || Ok(Arc::clone(&opened)));
    let (clock, random) = (Arc::new(Ago(ago)), Arc::new(RingRandom::new()));
    let state = SigningState::new(open, Origin::SelfSigned, TRUST_DOMAIN.parse().unwrap(), clock, random);
    let claimed = block_in_place(|| state.claim(Term::new(term)));
    assert!(matches!(claimed, Ok(Claim::Claimed(_))), "{claimed:?}");
}

/// The metrics of a replica, once they say when the pair authority ends, and how long that is from now.
fn shown(replicas: &Replicas, replica: usize) -> (String, Duration) {
    let port = replicas.serves[replica].admin_port;
    wait_until(SHOWN, "the end of the pair authority", || {
        let page = http::get(loopback(port), "/metrics").map_err(|error| error.to_string())?;
        let end = page.lines().find_map(|line| line.strip_prefix(SERIES)).and_then(|end| end.parse().ok());
        match end {
            Some(end) => Ok((page, Timestamp::from_seconds(end).since(SystemClock.now()))),
            None => Err(page),
        }
    })
}

/// Also leaves what it shows for the test of the alert, which comes as time goes by.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_pair_authority_is_shown_by_each_replica() {
    let cluster = Cluster::start();
    let account = install(&cluster).await;
    claim(&cluster, 1, LIFE - LEFT);
    let replicas = block_in_place(|| Replicas::start(&cluster, &account, [&["--trust-domain", TRUST_DOMAIN]; 2]));
    for replica in [0, 1] {
        let (page, left) = block_in_place(|| shown(&replicas, replica));
        assert!(left > 30 * DAY && left <= LEFT, "{left:?}");
        if replica == replicas.active() {
            leave_for_alerts("pair_authority_at_its_end", &page, &page);
        }
    }
}
