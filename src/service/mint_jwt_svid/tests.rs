use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    domain::{
        attestation::{AttestationError, Denial, DeniedSubject},
        identity::TrustDomain,
        jwt::{AudiencesError, JwtAuthorities, JwtAuthority, JwtSvid},
    },
    service::create_certificate::tests::{ID, Replica, TestClock, TestLog, TestPair},
};

const LIFETIME: Duration = Duration::from_secs(300);

/// A replica that mints.
struct Minting {
    replica: Replica,
    mint: Arc<MintJwtSvid>,
    clock: Arc<TestClock>,
}

/// The keys of one signer, whatever the trust domain.
struct Keys(JwtAuthority);

impl JwtAuthorities for Keys {
    fn of(&self, _trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
        Some(std::slice::from_ref(&self.0))
    }
}

impl Minting {
    fn new() -> Self {
        Self::with(TestPair::default())
    }

    fn with(pair: TestPair) -> Self {
        let replica = Replica::over(TestLog::default(), pair);
        let clock = Arc::new(TestClock(Instant::now()));
        let create = Arc::clone(&replica.create);
        let mint = MintJwtSvid::new(create, LIFETIME);
        Self { replica, mint: Arc::new(mint), clock }
    }

    async fn answer(&self, request: &JwtSvidRequest) -> Result<MintedJwtSvid, CreateError> {
        self.mint.answer(request, &self.replica.by_token(), &Semaphore::new(1)).await
    }
}

fn audiences(named: &[&str]) -> Audiences {
    Audiences::new(named.iter().map(|&audience| audience.to_owned()).collect()).unwrap()
}

fn request(named: &[&str]) -> JwtSvidRequest {
    JwtSvidRequest { audiences: audiences(named), id: None, lifetime: None }
}

#[tokio::test(start_paused = true)]
async fn the_active_mints_for_the_identity_of_the_proof_and_these_audiences() {
    let minting = Minting::new();
    let session = minting.replica.begin();
    let minted = minting.answer(&request(&["b", "a"])).await.unwrap();
    assert_eq!(minted.id.as_str(), ID);
    let keys = Keys(session.jwt_signer().unwrap().authority().clone());
    let svid = JwtSvid::validate(&minted.token, "a", &keys, minting.clock.now()).unwrap();
    assert_eq!((svid.spiffe_id.as_str(), svid.audiences), (ID, vec!["b".to_owned(), "a".to_owned()]));
    assert_eq!(svid.expires.seconds(), minting.clock.now().plus(LIFETIME).seconds());
    assert!(!format!("{minted:?}").contains(minted.token.as_str()));
}

#[tokio::test(start_paused = true)]
async fn no_token_is_minted_that_would_be_a_proof_here() {
    let minting = Minting::new();
    let refused = |answer| matches!(answer, Err(CreateError::Audiences(AudiencesError::OfProofs(_))));
    let begun = Instant::now();
    assert!(refused(minting.answer(&request(&["a", "istio-ca"])).await), "on a standby too, at once");
    minting.replica.begin();
    assert!(refused(minting.answer(&request(&["istio-ca"])).await));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let forwarded = minting.mint.answer_forwarded(&request(&["istio-ca"]), &minting.replica.by_token(), "other").await;
    assert!(refused(forwarded));
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_is_what_was_asked_for_and_never_over_the_longest() {
    let minting = Minting::new();
    let session = minting.replica.begin();
    let keys = Keys(session.jwt_signer().unwrap().authority().clone());
    let asking = |seconds| JwtSvidRequest { lifetime: Some(Duration::from_secs(seconds)), ..request(&["a"]) };
    let minted = minting.answer(&asking(60)).await.unwrap();
    let svid = JwtSvid::validate(&minted.token, "a", &keys, minting.clock.now()).unwrap();
    assert_eq!(svid.expires.seconds(), minting.clock.now().plus(Duration::from_secs(60)).seconds());
    assert!(minting.answer(&asking(300)).await.is_ok());
    let refused = minting.answer(&asking(301)).await.unwrap_err();
    assert!(matches!(refused, CreateError::Lifetime { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_another_ones_identity_nor_one_that_is_denied() {
    let minting = Minting::new();
    let session = minting.replica.begin();
    let asking = |id: &str| JwtSvidRequest { id: Some(id.parse().unwrap()), ..request(&["a"]) };
    assert_eq!(minting.answer(&asking(ID)).await.unwrap().id.as_str(), ID);
    let refused = minting.answer(&asking("spiffe://cluster.local/ns/default/sa/other")).await.unwrap_err();
    assert!(matches!(refused, CreateError::NotEntitled(EntitlementError::Impersonation { .. })), "{refused}");
    let unproven = minting.mint.answer(&request(&["a"]), &Evidence::NONE, &Semaphore::new(1)).await.unwrap_err();
    assert_eq!(unproven, CreateError::Unattested(AttestationError::NoProof));

    let denial = Denial { reason: "lost".parse().unwrap(), since: minting.clock.now(), actor_uid: 0 };
    session.set_denied(Denied::from_iter([(DeniedSubject::Identity(ID.parse().unwrap()), denial)]));
    let denied = minting.answer(&request(&["a"])).await.unwrap_err();
    assert!(matches!(denied, CreateError::NotEntitled(EntitlementError::Denied { .. })), "{denied}");
}

#[tokio::test(start_paused = true)]
async fn replicas_themselves_get_no_tokens_but_those_of_their_sockets_workload() {
    let minting = Minting::new();
    minting.replica.begin();
    let account = "default/gateway".parse::<crate::domain::identity::ServiceAccount>().unwrap();
    for (own, may) in [
        (OwnIdentity::Workload(account.clone()), true),
        (OwnIdentity::Serving, false),
        (OwnIdentity::Gateway(account.clone()), false),
        (OwnIdentity::Istiod(account), false),
    ] {
        let evidence = Evidence { own: Some(own.clone()), ..Evidence::NONE };
        let answer = minting.mint.answer(&request(&["a"]), &evidence, &Semaphore::new(1)).await;
        assert_eq!(answer.is_ok(), may, "{own:?}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_socket_hears_of_a_denial_by_whichever_replica() {
    let minting = Minting::new();
    let account = "default/gateway".parse().unwrap();
    let own = OwnMinter::new(Arc::clone(&minting.mint), OwnIdentity::Workload(account));
    let ask = async || own.mint(&audiences(&["a"])).await.unwrap_err();
    let by_active = |code| Err(ForwardError::Refused { code, message: "no".into() });
    minting.replica.pair.minted.lock().unwrap().extend([by_active(7), by_active(16)]);
    assert!(matches!(ask().await, NotMinted::Denied(_)));
    assert!(matches!(ask().await, NotMinted::Failed(SignError::Unavailable(_))));

    let session = minting.replica.begin();
    let denial = Denial { reason: "lost".parse().unwrap(), since: minting.clock.now(), actor_uid: 0 };
    session.set_denied(Denied::from_iter([(DeniedSubject::Identity(ID.parse().unwrap()), denial)]));
    assert!(matches!(ask().await, NotMinted::Denied(_)));
}

#[tokio::test(start_paused = true)]
async fn a_standby_has_the_active_mint_and_passes_its_answer_on() {
    let minting = Minting::new();
    let minted = MintedJwtSvid { token: "a.b.c".to_owned().into(), id: ID.parse().unwrap() };
    let refused = ForwardError::Refused { code: 3, message: "no".into() };
    minting.replica.pair.minted.lock().unwrap().extend([Ok(minted.clone()), Err(refused)]);
    assert_eq!(minting.answer(&request(&["a"])).await, Ok(minted));
    let by_active = CreateError::ByActive { code: 3, message: "no".into() };
    assert_eq!(minting.answer(&request(&["a"])).await, Err(by_active));
    let forwarded = minting.mint.answer_forwarded(&request(&["a"]), &minting.replica.by_token(), "other").await;
    assert_eq!(forwarded, Err(CreateError::NotActive), "it is never passed on again");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_until_somebody_is_active_and_at_most_ten_seconds() {
    let minting = Minting::new();
    let (begun, lost) = (Instant::now(), minting.answer(&request(&["a"])).await.unwrap_err());
    assert!(matches!(lost, CreateError::Unavailable { .. }), "{lost}");
    assert_eq!(begun.elapsed(), crate::service::create_certificate::HOLD_LIMIT);
    let (mint, evidence) = (Arc::clone(&minting.mint), minting.replica.by_token());
    let answer = tokio::spawn(async move { mint.answer(&request(&["a"]), &evidence, &Semaphore::new(1)).await });
    sleep(Duration::from_secs(3)).await;
    assert!(!answer.is_finished());
    minting.replica.begin();
    assert!(answer.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_minted_by_a_term_that_has_ended() {
    let minting = Minting::new();
    minting.replica.begin().end();
    let forwarded = minting.mint.answer_forwarded(&request(&["a"]), &minting.replica.by_token(), "other").await;
    assert_eq!(forwarded, Err(CreateError::NotActive));
}
