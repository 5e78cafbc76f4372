//! Where other replicas answer, as far as it is known without asking the API server: from the lease as it was last seen, from
//! the name of a headless Service, and from replicas that were heard of before.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::lookup_host,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::service::ports::{BoxFuture, Candidate, LeaseHolder, PairDirectory, PairEndpoint};

/// The directory of a pair whose replicas have nothing in common but the network.
pub struct KnownPeers {
    lease: watch::Receiver<Option<LeaseHolder>>,
    /// Where this replica answers: nobody asks itself.
    own: SocketAddr,
    /// What the Service's name stood for when it last could be resolved.
    resolved: Mutex<Vec<SocketAddr>>,
    /// Latest last.
    heard_of: Mutex<Vec<Heard>>,
    resolved_anew: Notify,
}

#[derive(Clone, Copy)]
struct Heard {
    address: SocketAddr,
    at: Instant,
}

/// Names are resolved this often; a new pod is found by it.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// A pair has two replicas, and a few more while it is replaced.
const MOST_RESOLVED: usize = 16;
const MOST_HEARD_OF: usize = 8;
/// Addresses of pods are given to others in time.
const FORGET_AFTER: Duration = Duration::from_secs(600);

impl KnownPeers {
    /// For the replica that answers at `own`, from what the lease says.
    pub fn new(lease: watch::Receiver<Option<LeaseHolder>>, own: SocketAddr) -> Self {
        Self { lease, own, resolved: Mutex::default(), heard_of: Mutex::default(), resolved_anew: Notify::new() }
    }

    /// Where this replica answers others.
    pub const fn own(&self) -> SocketAddr {
        self.own
    }

    /// A replica was heard of that answers at `address`.
    pub fn heard_of(&self, address: SocketAddr) {
        if address == self.own {
            return;
        }
        let mut heard_of = self.heard_of.lock().unwrap_or_else(PoisonError::into_inner);
        heard_of.retain(|heard| heard.address != address && heard.at.elapsed() < FORGET_AFTER);
        heard_of.push(Heard { address, at: Instant::now() });
        if heard_of.len() > MOST_HEARD_OF {
            heard_of.remove(0);
        }
    }

    /// Resolves the name of a headless Service again and again; every replica answers at `port`. What was resolved last is
    /// kept when it can't be resolved. Never returns.
    pub async fn resolve(&self, name: &str, port: u16) {
        let mut said = None;
        loop {
            let found = match timeout(RESOLVE_LIMIT, lookup_host((name, port))).await {
                Ok(Ok(found)) => Ok(found.collect::<Vec<_>>()),
                Ok(Err(error)) => Err(error),
                Err(_elapsed) => Err(io::Error::other(format!("no answer within {RESOLVE_LIMIT:?}"))),
            };
            let failure = found.map(|found| self.set_resolved(name, found)).err().map(|error| error.to_string());
            if let Some(reason) = failure.as_ref().filter(|_| failure != said) {
                warn!(event = "pair_service_unresolved", name, reason, "going on with the addresses known last");
            }
            said = failure;
            sleep(RESOLVE_EVERY).await;
        }
    }

    fn set_resolved(&self, name: &str, mut found: Vec<SocketAddr>) {
        found.sort_unstable();
        found.dedup();
        found.truncate(MOST_RESOLVED);
        // a name that stands for nobody is what an API server in trouble leaves behind
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.is_empty() && *resolved != found {
            info!(event = "pair_service_resolved", name, addresses = ?found);
            *resolved = found;
            self.resolved_anew.notify_one();
        }
    }

    fn known(&self) -> Vec<Candidate> {
        let tcp = |address| Candidate { replica: None, term: None, endpoint: PairEndpoint::Tcp(address) };
        let holder = self.lease.borrow().clone();
        let by_lease = holder.and_then(|LeaseHolder { replica, term, pair_address }| {
            let endpoint = PairEndpoint::Tcp(pair_address.filter(|address| *address != self.own)?);
            Some(Candidate { replica: Some(replica), term: Some(term), endpoint })
        });
        if let Some(Candidate { endpoint: PairEndpoint::Tcp(address), .. }) = &by_lease {
            // it is still worth asking when the lease names another one
            self.heard_of(*address);
        }
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let heard_of = self.heard_of.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let heard_of = heard_of.into_iter().filter(|heard| heard.at.elapsed() < FORGET_AFTER);
        let mut known: Vec<Candidate> = by_lease.into_iter().collect();
        for address in resolved.into_iter().chain(heard_of.map(|heard| heard.address)) {
            let candidate = tcp(address);
            if address != self.own && !known.iter().any(|known| known.endpoint == candidate.endpoint) {
                known.push(candidate);
            }
        }
        known
    }
}

impl PairDirectory for KnownPeers {
    fn candidates(&self) -> BoxFuture<'_, Result<Vec<Candidate>, String>> {
        let known = self.known();
        let known = if known.is_empty() { Err("no other replica is known".to_owned()) } else { Ok(known) };
        Box::pin(async { known })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut lease = self.lease.clone();
        Box::pin(async move {
            let lease_changed = async {
                if lease.changed().await.is_err() {
                    // nobody looks at the lease any more
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = lease_changed => {}
                () = self.resolved_anew.notified() => {}
            }
        })
    }

    fn answered(&self, endpoint: &PairEndpoint) {
        if let PairEndpoint::Tcp(address) = endpoint {
            self.heard_of(*address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::leadership::Term;

    fn address(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 15_013).into()
    }

    fn holder(last: u8, term: u64) -> Option<LeaseHolder> {
        let replica = format!("replica-{last}");
        Some(LeaseHolder { replica, term: Term::new(term), pair_address: Some(address(last)) })
    }

    fn known(peers: &KnownPeers) -> Vec<u8> {
        let last = |candidate: &Candidate| match &candidate.endpoint {
            PairEndpoint::Tcp(SocketAddr::V4(address)) => address.ip().octets()[3],
            PairEndpoint::Tcp(_) | PairEndpoint::Unix(_) => panic!("{}", candidate.endpoint),
        };
        peers.known().iter().map(last).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_comes_first_and_each_address_once_and_the_own_one_never() {
        let (lease, seen) = watch::channel(None);
        let peers = KnownPeers::new(seen, address(1));
        assert!(peers.candidates().await.is_err());
        peers.set_resolved("pair", vec![address(3), address(1), address(2), address(3)]);
        peers.heard_of(address(2));
        peers.heard_of(address(4));
        peers.heard_of(address(1));
        assert_eq!(known(&peers), [2, 3, 4]);
        lease.send_replace(holder(3, 7));
        assert_eq!(known(&peers), [3, 2, 4]);
        assert_eq!(peers.known()[0].term, Some(Term::new(7)));
        // the holder before is remembered, and so is what could be resolved once
        lease.send_replace(holder(1, 8));
        peers.set_resolved("pair", Vec::new());
        assert_eq!(known(&peers), [2, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_were_only_heard_of_are_few_and_forgotten_in_time() {
        let (_lease, seen) = watch::channel(None);
        let peers = KnownPeers::new(seen, address(1));
        (2..20).for_each(|last| peers.heard_of(address(last)));
        assert_eq!(known(&peers), [12, 13, 14, 15, 16, 17, 18, 19]);
        sleep(FORGET_AFTER / 2).await;
        peers.answered(&PairEndpoint::Tcp(address(13)));
        sleep(FORGET_AFTER / 2).await;
        assert_eq!(known(&peers), [13]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_lease_and_of_the_name_is_told() {
        let (lease, seen) = watch::channel(None);
        let peers = KnownPeers::new(seen, address(1));
        timeout(FORGET_AFTER, peers.changed()).await.expect_err("nothing has changed");
        let mut changed = peers.changed();
        timeout(RESOLVE_LIMIT, &mut changed).await.expect_err("nothing has changed");
        lease.send_replace(holder(2, 1));
        changed.await;
        peers.set_resolved("pair", vec![address(3)]);
        peers.changed().await;
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let (_lease, seen) = watch::channel(None);
        let peers = KnownPeers::new(seen, "127.0.0.1:1".parse().unwrap());
        tokio::select! {
            () = peers.resolve("localhost", 15_013) => {}
            changed = timeout(Duration::from_secs(10), peers.changed()) => changed.expect("localhost has an address"),
        }
        let loopback = |candidate: &Candidate| match &candidate.endpoint {
            PairEndpoint::Tcp(address) => address.ip().is_loopback() && address.port() == 15_013,
            PairEndpoint::Unix(_) => false,
        };
        assert!(peers.known().iter().any(loopback), "{:?}", peers.known());
    }
}
