//! The JWT-SVIDs of a socket's workload: minted when one is asked for, then kept until half of its life is over. While none can be
//! minted, the one that is kept is served until it expires; if the identity has been denied, none is any more.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ring::digest::{Context, SHA256};
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

use super::{
    flights::{Flight, Flights, Joined, Key, landed},
    ports::{JwtMinter, MintedJwtSvid, NotMinted, SignError},
    published_trust::TrustReceiver,
};
use crate::domain::{
    clock::{BootInstant, Clock, Timestamp},
    identity::{SpiffeId, TrustDomain},
    jwt::{Audiences, JwtSvid, JwtSvidError},
};

/// How many are kept.
const KEPT: usize = 256;
/// And how many bytes of tokens.
const KEPT_BYTES: usize = 1 << 20;
/// How many are minted at the same time.
const UNDER_WAY: usize = 64;
/// For one to be minted, whatever who mints allows itself.
const MINT_LIMIT: Duration = Duration::from_secs(30);
/// How long a caller waits for a new one while the old one is still good.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon it is tried again after a failure, while the old one is still good.
const RETRY: Duration = Duration::from_secs(5);

/// The JWT-SVIDs of one workload.
pub struct JwtSvids(Arc<Shared>);

struct Shared {
    minter: Arc<dyn JwtMinter>,
    trust_domain: TrustDomain,
    /// Says which keys are tainted or gone.
    trust: Option<TrustReceiver>,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<Audiences, Kept>>,
    /// How often it was heard, with `kept` locked, that there are to be none.
    denials: AtomicU64,
    flights: Flights<Result<Arc<HeldJwtSvid>, FetchError>>,
    places: Arc<Semaphore>,
}

struct Kept {
    svid: Arc<HeldJwtSvid>,
    /// No other one is asked for before that.
    next_try: BootInstant,
}

/// A JWT-SVID as it is served.
pub struct HeldJwtSvid {
    /// Its `sub`.
    pub id: SpiffeId,
    /// Compact JWS.
    pub token: Zeroizing<String>,
    key_id: String,
    expires: Timestamp,
    /// The same, and the half of it, however the clock is set meanwhile.
    ends: BootInstant,
    half: BootInstant,
}

impl fmt::Debug for HeldJwtSvid {
    /// Says whose it is, never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldJwtSvid").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// None was minted.
    #[error(transparent)]
    Mint(#[from] NotMinted),
    /// What came is no JWT-SVID.
    #[error("the pair's answer can't be used: {0}")]
    Unreadable(#[from] JwtSvidError),
    /// What came is not what was asked for.
    #[error("the pair's answer can't be used: it is for {id} and audiences {audiences:?}")]
    Other {
        /// Its `sub`.
        id: SpiffeId,
        /// Its `aud`.
        audiences: Vec<String>,
    },
    /// Too many are being minted already.
    #[error("too many JWT-SVIDs are being minted: try again")]
    Busy,
    /// Whoever was to mint has ended, or takes too long.
    #[error("no JWT-SVID was minted within {MINT_LIMIT:?}")]
    NoAnswer,
}

impl FetchError {
    /// Whether it is the request's fault, so that to try again is of no use.
    pub const fn is_of_request(&self) -> bool {
        matches!(self, Self::Mint(NotMinted::Failed(SignError::Refused(_))))
    }

    /// Whether the workload is known, and may have none.
    pub const fn is_denial(&self) -> bool {
        matches!(self, Self::Mint(NotMinted::Denied(_)))
    }
}

impl JwtSvids {
    /// Minted by `minter` for an identity in `trust_domain`. Nothing happens before the first is asked for.
    pub fn new(
        minter: Arc<dyn JwtMinter>,
        trust_domain: TrustDomain,
        trust: Option<TrustReceiver>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Shared {
            minter,
            trust_domain,
            trust,
            clock,
            kept: Mutex::default(),
            denials: AtomicU64::default(),
            flights: Flights::new(),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
        }))
    }

    /// One for exactly these audiences, which has not expired.
    ///
    /// # Errors
    ///
    /// When none is kept and none is minted.
    pub async fn fetch(&self, audiences: &Audiences) -> Result<Arc<HeldJwtSvid>, FetchError> {
        let kept = self.0.unexpired(audiences);
        if let Some((svid, is_due)) = &kept
            && !is_due
        {
            return Ok(Arc::clone(svid));
        }
        let flight = self.0.minted(audiences);
        if kept.is_none() {
            return landed(flight?).await.unwrap_or(Err(FetchError::NoAnswer));
        }
        let new = match flight {
            Ok(flight) => timeout(PATIENCE, landed(flight)).await.ok().flatten().unwrap_or(Err(FetchError::NoAnswer)),
            Err(busy) => Err(busy),
        };
        // the old one may have expired while a new one was waited for
        new.or_else(|error| self.0.unexpired(audiences).map(|(old, _)| old).ok_or(error))
    }
}

impl Shared {
    /// The one that is kept, and whether it is time to ask for another one.
    fn unexpired(&self, audiences: &Audiences) -> Option<(Arc<HeldJwtSvid>, bool)> {
        let (now, boot) = (self.clock.now(), self.clock.boot());
        let kept = self.kept();
        let Kept { svid, next_try } = kept.get(audiences)?;
        let is_good = svid.expires > now && boot < svid.ends;
        let is_due = (boot >= svid.half || self.is_doubtful(&svid.key_id)) && boot >= *next_try;
        is_good.then(|| (Arc::clone(svid), is_due))
    }

    /// Whether the key is tainted, or not among those that others verify by.
    fn is_doubtful(&self, key_id: &str) -> bool {
        let trust = self.trust.as_ref().and_then(|trust| trust.borrow().clone());
        trust.is_some_and(|trust| {
            trust.tainted.iter().any(|tainted| tainted == key_id)
                || !trust.own.jwt_authorities.iter().any(|authority| authority.key_id() == key_id)
        })
    }

    /// Has one minted; the same for all who ask for it meanwhile.
    fn minted(
        self: &Arc<Self>,
        audiences: &Audiences,
    ) -> Result<Flight<Result<Arc<HeldJwtSvid>, FetchError>>, FetchError> {
        let begin = || {
            let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_full| FetchError::Busy)?;
            let (shared, audiences) = (Arc::clone(self), audiences.clone());
            Ok::<_, FetchError>(async move {
                let _place = place;
                shared.mint(audiences).await
            })
        };
        let (Joined::First(flight) | Joined::Other(flight)) = self.flights.join(key_of(audiences), begin)?;
        Ok(flight)
    }

    async fn mint(&self, audiences: Audiences) -> Result<Arc<HeldJwtSvid>, FetchError> {
        let denials = self.denials.load(Ordering::Relaxed);
        let minted = timeout(MINT_LIMIT, self.minter.mint(&audiences)).await;
        let minted =
            minted.unwrap_or_else(|_elapsed| Err(SignError::Unavailable(FetchError::NoAnswer.to_string()).into()));
        let svid = minted.map_err(FetchError::from).and_then(|minted| self.checked(minted, &audiences).map(Arc::new));
        match &svid {
            Ok(svid) => self.keep(audiences, Arc::clone(svid), denials),
            // whoever minted has decided, and does not only fail: what is kept is not served on
            Err(error) if error.is_denial() => {
                let mut kept = self.kept();
                self.denials.fetch_add(1, Ordering::Relaxed);
                kept.clear();
            }
            Err(_) => {
                let next_try = self.clock.boot().plus(RETRY);
                if let Some(kept) = self.kept().get_mut(&audiences) {
                    kept.next_try = next_try;
                }
            }
        }
        svid
    }

    /// Whoever it is shown to verifies it; here it must be what was asked for.
    fn checked(&self, minted: MintedJwtSvid, audiences: &Audiences) -> Result<HeldJwtSvid, FetchError> {
        let svid = JwtSvid::unverified(&minted.token)?;
        let is_for_all = audiences.as_slice().iter().all(|audience| svid.audiences.contains(audience));
        let has_others = svid.audiences.len() != audiences.as_slice().len();
        if !is_for_all || has_others || svid.spiffe_id != minted.id || *minted.id.trust_domain() != self.trust_domain {
            return Err(FetchError::Other { id: svid.spiffe_id, audiences: svid.audiences });
        }
        let (life, boot) = (svid.expires.since(self.clock.now()), self.clock.boot());
        Ok(HeldJwtSvid {
            id: svid.spiffe_id,
            token: minted.token,
            key_id: svid.key_id,
            expires: svid.expires,
            ends: boot.plus(life),
            half: boot.plus(life / 2),
        })
    }

    /// In the place of others that end sooner, if there is none left. One that was asked for before a denial was heard is not kept: it
    /// may have been minted before that too, and come late.
    fn keep(&self, audiences: Audiences, svid: Arc<HeldJwtSvid>, denials: u64) {
        let boot = self.clock.boot();
        // one that is doubtful from the beginning, as while the trust lags behind, is not replaced at each call
        let next_try = if self.is_doubtful(&svid.key_id) { boot.plus(RETRY) } else { boot };
        let mut kept = self.kept();
        if self.denials.load(Ordering::Relaxed) != denials {
            return;
        }
        kept.insert(audiences.clone(), Kept { svid, next_try });
        kept.retain(|_, kept| boot < kept.svid.ends);
        while kept.len() > KEPT || kept.values().map(|kept| kept.svid.token.len()).sum::<usize>() > KEPT_BYTES {
            let others = kept.iter().filter(|(other, _)| **other != audiences);
            let Some(soonest) = others.min_by_key(|(_, kept)| kept.svid.ends).map(|(other, _)| other.clone()) else {
                return;
            };
            kept.remove(&soonest);
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Audiences, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each with its length before it, so that no two lists give the same bytes.
fn key_of(audiences: &Audiences) -> Key {
    let mut context = Context::new(&SHA256);
    for audience in audiences.as_slice() {
        context.update(&audience.len().to_be_bytes());
        context.update(audience.as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests;
