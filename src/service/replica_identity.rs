//! The certificate that a replica shows the others of its pair. Each makes its own, with the pair authority that it reads
//! from the state.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{ports::StateStore, signing_state::pair_authority};
use crate::domain::{
    authority::{PairAuthority, renewal::due_after_receipt},
    clock::{BootInstant, Clock},
    identity::ReplicaId,
    random::SecureRandom,
    x509::{TrustBundle, X509Svid},
};

/// What a replica shows, and what it believes of others.
#[derive(Debug)]
pub struct ReplicaIdentity {
    /// Its certificate and key.
    pub svid: X509Svid,
    /// The pair authority.
    pub bundle: TrustBundle,
}

/// The latest identity; `None` as long as there is no pair authority.
pub type ReplicaIdentityReceiver = watch::Receiver<Option<Arc<ReplicaIdentity>>>;

/// Keeps the identity of this replica.
pub struct ReplicaIdentityKeeper {
    store: Arc<dyn StateStore>,
    id: ReplicaId,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    identity: watch::Sender<Option<Arc<ReplicaIdentity>>>,
    /// As it was read last: renewal needs no store.
    authority: Option<PairAuthority>,
    /// When the one that is held is to be replaced.
    due: BootInstant,
    /// What was wrong last, so that it is said once.
    said: Option<String>,
}

/// Until there is a pair authority; doubled from one look to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Afterwards: in case that it was replaced.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl ReplicaIdentityKeeper {
    /// Reads the pair authority from `store`, without a claim, and makes certificates that say `id`.
    pub fn new(
        store: Arc<dyn StateStore>,
        id: ReplicaId,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> (Self, ReplicaIdentityReceiver) {
        let (identity, receiver) = watch::channel(None);
        let due = clock.boot();
        (Self { store, id, clock, random, identity, authority: None, due, said: None }, receiver)
    }

    /// Makes one as soon as there is a pair authority, another one at half of its life, and another one when the pair authority
    /// is not the same any more. Whatever fails, what is held stays. Never returns.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let failure = match self.look().await {
                Ok(()) => self.renew().err(),
                Err(reason) => self.renew().err().or(Some(reason)),
            };
            if let Some(reason) = failure.as_ref().filter(|reason| self.said.as_ref() != Some(*reason)) {
                warn!(event = "pair_authority_unreadable", reason);
            }
            self.said = failure;
            let held = self.identity.borrow().is_some();
            // a failing store may have taken its time: that counts
            let next = begun + if held { LOOK_AGAIN } else { pause };
            pause = if held { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            sleep(next.saturating_duration_since(Instant::now()).max(FIRST_PAUSE)).await;
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let (store, trust_domain) = (Arc::clone(&self.store), self.id.spiffe_id().trust_domain().clone());
        let now = self.clock.now();
        let read = spawn_blocking(move || pair_authority(store.as_ref(), &trust_domain, now)).await;
        let authority = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        self.authority =
            Some(authority.ok_or("the state holds no pair authority yet: the first active replica makes one")?);
        Ok(())
    }

    /// Makes a certificate if the one that is held is due, or of another authority.
    fn renew(&mut self) -> Result<(), String> {
        let Some(authority) = &self.authority else { return Ok(()) };
        let (now, boot) = (self.clock.now(), self.clock.boot());
        let is_good = self.identity.borrow().as_ref().is_some_and(|identity| {
            identity.bundle == *authority.bundle() && identity.svid.leaf().check_time(now).is_ok()
        });
        if is_good && boot < self.due {
            return Ok(());
        }
        let svid = authority.replica_svid(&self.id, now, self.random.as_ref()).map_err(|error| error.to_string())?;
        let mut jitter = [0; 2];
        self.random.fill(&mut jitter).map_err(|error| error.to_string())?;
        self.due = boot.plus(due_after_receipt(svid.leaf().not_after().since(now), u16::from_be_bytes(jitter)));
        let serial = svid.leaf().serial().to_string();
        info!(event = "replica_certificate", id = %svid.id(), serial, expires = %svid.leaf().not_after());
        let identity = ReplicaIdentity { svid, bundle: authority.bundle().clone() };
        self.identity.send_replace(Some(Arc::new(identity)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
