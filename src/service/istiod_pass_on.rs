//! `CreateCertificate` where istiod signs: each request is passed on as it came, with the caller's own token, and the answer is
//! checked before the caller gets it. Nothing is signed here, and no answer is kept.

mod detection;
mod error;
mod route;
mod turns;

use std::{convert::Infallible, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use ring::digest::{Context, SHA256};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};
use zeroize::Zeroizing;

pub use self::error::PassOnError;
use self::{
    route::{Next, Route},
    turns::Turns,
};
use super::{
    flights::{Flights, Joined, Key, landed},
    metrics::{IstiodOutcome, Metrics, RequestOutcome},
    ports::{AskError, IstiodAddresses, PassedRequest, SigningRequest, WayToIstiod},
    room::{Place, Room},
    under_way::UnderWay,
};
use crate::domain::{
    clock::Clock,
    identity::{SpiffeId, TrustDomain},
    jwt::unverified_subject,
    upstream::{ExpectedAnswer, check_answer},
    x509::{TrustBundle, VerifiedCsr},
};

/// From a request to its answer at the most.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an address may keep a request from the next one.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(4);
/// Requests that may wait for istiod in all.
const WAITING_IN_ALL: usize = 16_384;
/// What requests that are under way take up together.
const BYTES_IN_ALL: usize = 64 << 20;

/// What istiod's certificate, and the certificates in its answers, are verified to.
#[derive(Clone, Debug, Default)]
pub struct KnownRoots {
    /// The newest that were good.
    pub bundle: Option<Arc<TrustBundle>>,
    /// What is wrong with where they come from.
    pub trouble: Option<Arc<str>>,
}

/// A caller's request.
pub struct PassOnRequest {
    /// What is passed on; its `authorization` is empty if there is no token.
    pub passed: PassedRequest,
    /// The token alone.
    pub token: Option<Zeroizing<String>>,
    /// Whether there is a client certificate.
    pub has_certificate: bool,
    /// Where it came from, unless from this replica itself.
    pub source: Option<IpAddr>,
    /// What the message asks for.
    pub asked: SigningRequest,
}

/// What [`PassOn`] works with.
pub struct Parts {
    /// Where those who sign are.
    pub istiods: watch::Receiver<IstiodAddresses>,
    /// How they are asked.
    pub way: WayToIstiod,
    /// Their roots.
    pub roots: watch::Receiver<KnownRoots>,
    /// Of the mesh.
    pub trust_domain: TrustDomain,
    /// How often istiod is asked at the most, in the long run.
    pub per_second: NonZeroU32,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where outcomes are counted.
    pub metrics: Arc<Metrics>,
}

/// The use case.
pub struct PassOn {
    roots: watch::Receiver<KnownRoots>,
    trust_domain: TrustDomain,
    route: Route,
    turns: Turns,
    flights: Flights<Result<Vec<String>, PassOnError>>,
    waiting: Semaphore,
    room: Room,
    under_way: UnderWay,
    signer: watch::Sender<Option<Vec<u8>>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// What an answer is checked against.
struct Expected {
    id: SpiffeId,
    csr: VerifiedCsr,
}

impl PassOn {
    /// The use case over its ports.
    pub fn new(parts: Parts) -> Self {
        let Parts { istiods, way, roots, trust_domain, per_second, clock, metrics } = parts;
        Self {
            route: Route::new(istiods, way),
            roots,
            trust_domain,
            turns: Turns::new(per_second),
            flights: Flights::new(),
            waiting: Semaphore::new(WAITING_IN_ALL),
            room: Room::new(BYTES_IN_ALL),
            under_way: UnderWay::default(),
            signer: watch::Sender::new(None),
            clock,
            metrics,
        }
    }

    /// Answers a caller: the PEM elements of istiod's chain, the roots last. `held_here` bounds what one connection may have
    /// waiting. Requests that are equal in all, the token too, are passed on once while they are under way.
    ///
    /// # Errors
    ///
    /// When the request can't be passed on, istiod refuses it, is not reached within 10 s, or its answer is wrong.
    pub async fn answer(
        self: &Arc<Self>,
        request: PassOnRequest,
        held_here: &Semaphore,
    ) -> Result<Vec<String>, PassOnError> {
        let _counted = self.under_way.begin();
        let begun = Instant::now();
        let answer = self.answered(request, held_here).await;
        self.metrics.request_took(begun.elapsed());
        self.metrics.request_ended(answer.as_ref().map_or_else(PassOnError::outcome, |_| RequestOutcome::Issued));
        answer
    }

    /// Requests that are being answered.
    pub const fn under_way(&self) -> &UnderWay {
        &self.under_way
    }

    /// By which key istiod signed last: the identifier of its authority.
    pub fn signer(&self) -> watch::Receiver<Option<Vec<u8>>> {
        self.signer.subscribe()
    }

    async fn answered(
        self: &Arc<Self>,
        request: PassOnRequest,
        held_here: &Semaphore,
    ) -> Result<Vec<String>, PassOnError> {
        let room = self.room_for(&request)?;
        let expected = self.expected(&request)?;
        let _waiting = self.waiting.try_acquire().map_err(|_full| PassOnError::Overloaded)?;
        let _waiting_here = held_here.try_acquire().map_err(|_full| PassOnError::Overloaded)?;
        let (own, key) = (Arc::clone(self), key_of(&request.passed));
        let ask = async move {
            let _room = room;
            own.ask(&request, &expected).await
        };
        let Ok(joined) = self.flights.join(key, || Ok::<_, Infallible>(ask));
        let flight = match joined {
            Joined::First(flight) => flight,
            Joined::Other(flight) => {
                self.metrics.istiod_asked(IstiodOutcome::Coalesced);
                flight
            }
        };
        landed(flight).await.unwrap_or(Err(PassOnError::Failed))
    }

    /// Taken before anything is looked at, and kept as long as the request is: also when its caller has left.
    fn room_for(&self, request: &PassOnRequest) -> Result<Place, PassOnError> {
        let PassedRequest { authorization, clusters, message } = &request.passed;
        let clusters = clusters.iter().map(Vec::len);
        let bytes = clusters.chain([authorization.len(), message.len()]).fold(0, usize::saturating_add);
        self.room.place(bytes, request.source).ok_or(PassOnError::Overloaded)
    }

    /// What can be judged without asking istiod.
    fn expected(&self, request: &PassOnRequest) -> Result<Expected, PassOnError> {
        let Some(token) = &request.token else {
            return Err(if request.has_certificate { PassOnError::CertificateOnly } else { PassOnError::NoProof });
        };
        let account = unverified_subject(token).ok_or(PassOnError::NoAccount)?;
        if !request.asked.impersonated.is_empty() {
            return Err(PassOnError::Impersonation(request.asked.impersonated.chars().take(256).collect()));
        }
        let csr = VerifiedCsr::from_pem(request.asked.csr.as_bytes())?;
        let id = account.spiffe_id(&self.trust_domain).map_err(|_too_long| PassOnError::NoAccount)?;
        Ok(Expected { id, csr })
    }

    fn known_roots(&self) -> Result<Arc<TrustBundle>, PassOnError> {
        let known = self.roots.borrow();
        let trouble = || known.trouble.as_deref().unwrap_or("they have not been looked for yet").to_owned();
        known.bundle.clone().ok_or_else(|| PassOnError::NoRoots(trouble()))
    }

    /// Asks one address after the other, each at most once.
    async fn ask(&self, request: &PassOnRequest, expected: &Expected) -> Result<Vec<String>, PassOnError> {
        let deadline = Instant::now() + LIMIT;
        self.known_roots()?;
        self.wait_for_turn(request.source).await?;
        let roots = self.known_roots()?;
        let mut asked = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = if left.is_zero() { None } else { self.route.next(&asked, self.clock.boot()) };
            let Some(Next { istiod, has_next }) = next else {
                return Err(PassOnError::Unreachable(self.route.troubles()));
            };
            let limit = if has_next { left.min(ATTEMPT_LIMIT) } else { left };
            let answer = timeout(limit, istiod.way().ask(&roots, &request.passed)).await;
            match answer.unwrap_or_else(|_elapsed| Err(AskError::NoCa(format!("no answer within {limit:.1?}")))) {
                Ok(elements) => {
                    istiod.answered(self.clock.boot());
                    return self.checked(elements, expected, istiod.name());
                }
                Err(AskError::Refused { code, message }) => {
                    istiod.answered(self.clock.boot());
                    self.metrics.istiod_asked(IstiodOutcome::Refused);
                    return Err(PassOnError::ByIstiod { code, message });
                }
                Err(AskError::NoCa(reason)) => {
                    self.metrics.istiod_asked(IstiodOutcome::Unreachable);
                    istiod.call_failed(self.clock.boot(), reason);
                }
                Err(AskError::Unreachable(reason)) => {
                    self.metrics.istiod_asked(IstiodOutcome::Unreachable);
                    istiod.failed(self.clock.boot(), reason);
                }
            }
            asked.push(istiod);
        }
    }

    /// Nobody asks without one, and nobody takes one who could not ask.
    async fn wait_for_turn(&self, source: Option<IpAddr>) -> Result<(), PassOnError> {
        if !self.route.admits(self.clock.boot()) {
            return Err(PassOnError::Unreachable(self.route.troubles()));
        }
        let Some(turn) = self.turns.take(source, self.clock.boot()) else {
            self.metrics.istiod_asked(IstiodOutcome::Limited);
            return Err(PassOnError::Limited);
        };
        turn.come().await;
        Ok(())
    }

    fn checked(&self, elements: Vec<String>, expected: &Expected, istiod: &str) -> Result<Vec<String>, PassOnError> {
        // they may have changed since the question
        let trusted = self.known_roots()?;
        let Expected { id, csr } = expected;
        let public_key_info = csr.public_key_info();
        let expected = ExpectedAnswer { id, public_key_info, trusted: &trusted, now: self.clock.now() };
        match check_answer(&elements, &expected) {
            Ok(leaf) => {
                self.metrics.istiod_asked(IstiodOutcome::Answered);
                let (serial, not_after) = (leaf.serial(), leaf.not_after());
                info!(event = "certificate_passed_on", %id, %serial, %not_after, proof = "token passed on", istiod);
                let signer = leaf.authority_key_id().map(<[u8]>::to_vec);
                self.signer.send_if_modified(|known| {
                    *known != signer && {
                        *known = signer;
                        true
                    }
                });
                Ok(elements)
            }
            Err(error) => {
                self.metrics.istiod_asked(IstiodOutcome::BadAnswer);
                warn!(event = "istiod_answer_refused", %id, istiod, reason = %error);
                Err(error.into())
            }
        }
    }
}

/// Over all that is passed on, each part with its length.
fn key_of(request: &PassedRequest) -> Key {
    let mut hash = Context::new(&SHA256);
    let parts = [request.authorization.as_slice(), request.message.as_slice()];
    for part in parts.into_iter().chain(request.clusters.iter().map(Vec::as_slice)) {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    }
    let mut key = Key::default();
    key.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    key
}

#[cfg(test)]
mod tests;
