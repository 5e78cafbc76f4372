use std::time::Duration;

use tokio::sync::watch;
use tonic::Code;

use super::*;
use crate::{
    domain::{authority::testing::authority, bundle::SpiffeBundle, clock::Timestamp, jwt::JwtSigner},
    grpc::testing::{At, ID},
    service::{
        ports::{BoxFuture, JwtMinter, MintedJwtSvid, NotMinted, SignError},
        published_trust::PublishedTrust,
        svid_publisher::WorkloadIdentity,
    },
};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const FOREIGN: &str = "spiffe://partner.example/ns/a/sa/b";

const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";

/// Mints for one identity, or says the same to everybody.
struct TestMinter(JwtSigner, Option<NotMinted>, &'static str);

impl JwtMinter for TestMinter {
    fn mint<'a>(&'a self, audiences: &'a Audiences) -> BoxFuture<'a, Result<MintedJwtSvid, NotMinted>> {
        Box::pin(async move {
            if let Some(said) = &self.1 {
                return Err(said.clone());
            }
            let id: SpiffeId = self.2.parse().unwrap();
            Ok(MintedJwtSvid { token: self.0.mint(&id, audiences.as_slice(), NOW, MINUTE).unwrap(), id })
        })
    }
}

fn signer() -> JwtSigner {
    JwtSigner::generate(NOW.plus(MINUTE * 60)).unwrap()
}

fn served(minter: impl IntoIterator<Item = TestMinter>, trust: Option<TrustReceiver>) -> ServedJwt {
    let clock: Arc<dyn Clock> = Arc::new(At(NOW));
    let svids = minter
        .into_iter()
        .map(|minter| JwtSvids::new(Arc::new(minter), "cluster.local".parse().unwrap(), None, Arc::clone(&clock)));
    let (svids, trust) = (svids.collect(), trust.unwrap_or_else(|| watch::channel(None).1));
    ServedJwt { svids, trust, has_nothing: None, clock }
}

fn asking(audience: &[&str], spiffe_id: &str) -> JwtsvidRequest {
    let audience = audience.iter().map(|&audience| audience.to_owned()).collect();
    JwtsvidRequest { audience, spiffe_id: spiffe_id.to_owned() }
}

fn nobody_yet() -> ServedIdentities {
    watch::channel(None).1.into()
}

fn identity(id: &str, hint: &str) -> ServedIdentity {
    let bundle = Arc::new(authority().bundle().clone());
    let identity = WorkloadIdentity { id: id.parse().unwrap(), svid: None, bundle, revision: 1 };
    ServedIdentity { hint: hint.parse().unwrap(), identity: watch::channel(Some(Arc::new(identity))).1 }
}

/// What two trust domains verify by.
fn trust(own: &JwtSigner, partner: &JwtSigner) -> TrustReceiver {
    let bundle = |trust_domain: &str, signer: &JwtSigner| SpiffeBundle {
        trust_domain: trust_domain.parse().unwrap(),
        x509_authorities: Vec::new(),
        jwt_authorities: vec![signer.authority().clone()],
        sequence: Some(1),
        refresh_hint: None,
    };
    let (own, federated) = (bundle("cluster.local", own), vec![bundle("partner.example", partner)]);
    watch::channel(Some(Arc::new(PublishedTrust { own, tainted: Vec::new(), federated }))).1
}

fn validating(audience: &str, svid: &str) -> ValidateJwtsvidRequest {
    ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() }
}

#[tokio::test]
async fn a_token_is_fetched_for_several_audiences_with_and_without_naming_the_identity() {
    let jwt = served(Some(TestMinter(signer(), None, ID)), None);
    for spiffe_id in ["", ID] {
        let answer = jwt.fetch(asking(&["a", "b"], spiffe_id), &nobody_yet()).await.unwrap();
        let [svid] = &answer.svids[..] else { panic!("{answer:?}") };
        assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), (ID, ""));
        assert_eq!(JwtSvid::unverified(&svid.svid).unwrap().audiences, ["a", "b"]);
    }
}

#[tokio::test]
async fn what_can_not_be_fetched_has_spires_codes_and_texts() {
    let failed = |said: NotMinted| served(Some(TestMinter(signer(), Some(said), ID)), None);
    let sign = |error: SignError| failed(error.into());
    let rows = [
        (served(None, None), asking(&[], ""), Code::InvalidArgument, "audience must be specified"),
        (served(None, None), asking(&["a"], "x"), Code::InvalidArgument, "invalid requested SPIFFE ID: "),
        (served(None, None), asking(&[], "x"), Code::InvalidArgument, "audience must be specified"),
        (served(None, None), asking(&["a"], ID), Code::Unimplemented, "JWT-SVIDs are not offered"),
        (
            failed(NotMinted::NotOffered("x".into())),
            asking(&["a"], ID),
            Code::Unimplemented,
            "JWT-SVIDs are not offered: x",
        ),
        (
            served(Some(TestMinter(signer(), None, ID)), None),
            asking(&["a"], FOREIGN),
            Code::PermissionDenied,
            "no identity issued",
        ),
        (sign(SignError::Unavailable("x".into())), asking(&["a"], ""), Code::Unavailable, "could not fetch JWT-SVID: "),
        (sign(SignError::NoProof("x".into())), asking(&["a"], ""), Code::Unavailable, "workload attestation failed: "),
        (
            sign(SignError::Unauthenticated("x".into())),
            asking(&["a"], ""),
            Code::Unavailable,
            "workload attestation failed: ",
        ),
        (failed(NotMinted::Denied("x".into())), asking(&["a"], ""), Code::PermissionDenied, "no identity issued"),
        (sign(SignError::NotDetected("x".into())), asking(&["a"], ""), Code::Unavailable, "could not fetch JWT-SVID: "),
        (sign(SignError::Answer("x".into())), asking(&["a"], ""), Code::Unavailable, "could not fetch JWT-SVID: "),
        (sign(SignError::Refused("x".into())), asking(&["a"], ""), Code::InvalidArgument, "could not fetch JWT-SVID: "),
    ];
    for (jwt, request, code, text) in rows {
        let status = jwt.fetch(request.clone(), &nobody_yet()).await.unwrap_err();
        assert!(status.code() == code && status.message().starts_with(text), "{request:?}: {status}");
    }
}

#[tokio::test]
async fn each_identity_has_its_token_and_hint_and_one_that_is_denied_has_none() {
    let mints = |id| TestMinter(signer(), None, id);
    let says = |said| TestMinter(signer(), Some(said), OTHER);
    let (first, other) = (identity(ID, "first"), identity(OTHER, "other"));
    let known = ServedIdentities { first: first.clone(), others: vec![other] };
    let unknown = ServedIdentity { hint: "other".parse().unwrap(), identity: watch::channel(None).1 };
    let half = ServedIdentities { first, others: vec![unknown] };
    let fetched = async |minters: Vec<TestMinter>, identities: &ServedIdentities, spiffe_id: &str| {
        let answer = served(minters, None).fetch(asking(&["a"], spiffe_id), identities).await;
        answer.map(|answer| answer.svids.into_iter().map(|svid| (svid.spiffe_id, svid.hint)).collect::<Vec<_>>())
    };
    let (of_first, of_other) = ((ID.to_owned(), "first".to_owned()), (OTHER.to_owned(), "other".to_owned()));
    for identities in [&known, &half] {
        for (spiffe_id, expected) in [
            ("", vec![of_first.clone(), of_other.clone()]),
            (ID, vec![of_first.clone()]),
            (OTHER, vec![of_other.clone()]),
        ] {
            assert_eq!(fetched(vec![mints(ID), mints(OTHER)], identities, spiffe_id).await.unwrap(), expected);
        }
        let third = fetched(vec![mints(ID), mints(OTHER)], identities, "spiffe://cluster.local/x").await.unwrap_err();
        assert_eq!((third.code(), third.message()), (Code::PermissionDenied, "no identity issued"));
    }
    let denied = || says(NotMinted::Denied("no".into()));
    assert_eq!(fetched(vec![mints(ID), denied()], &known, "").await.unwrap(), std::slice::from_ref(&of_first));
    let away = || says(SignError::Unavailable("away".into()).into());
    assert_eq!(fetched(vec![mints(ID), away()], &half, ID).await.unwrap(), std::slice::from_ref(&of_first));
    let lost = fetched(vec![mints(ID), away()], &known, "").await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable, "none is left out because it failed");
    assert_eq!(fetched(vec![mints(ID), away()], &known, ID).await.unwrap(), [of_first]);
}

#[test]
fn a_token_of_the_own_trust_domain_is_told_with_all_its_claims_and_a_foreign_one_with_three() {
    let (own, partner) = (signer(), signer());
    let jwt = served(None, Some(trust(&own, &partner)));
    for (signer, id, claims) in
        [(&own, ID, &["aud", "exp", "iat", "sub"][..]), (&partner, FOREIGN, &["aud", "exp", "sub"])]
    {
        let token = signer.mint(&id.parse().unwrap(), &["a".into()], NOW, MINUTE).unwrap();
        let answer = jwt.validate(&validating("a", &token)).unwrap();
        assert_eq!(answer.spiffe_id, id);
        let found = answer.claims.unwrap().fields;
        let mut names: Vec<_> = found.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, claims);
        let value = |name: &str| found[name].kind.clone().unwrap();
        assert_eq!(value("sub"), Kind::StringValue(id.to_owned()));
        assert_eq!(value("exp"), Kind::NumberValue(1_800_000_060.0));
        let a = Value { kind: Some(Kind::StringValue("a".into())) };
        assert_eq!(value("aud"), Kind::ListValue(ListValue { values: vec![a] }));
    }
}

#[test]
fn what_is_no_good_has_spires_code_and_texts() {
    let (own, partner) = (signer(), signer());
    let by = |signer: &JwtSigner, id: &str, now| signer.mint(&id.parse().unwrap(), &["a".into()], now, MINUTE).unwrap();
    let good = by(&own, ID, NOW);
    let forged = format!("{}AAAA{}", &good[..good.len() - 8], &good[good.len() - 4..]);
    let jwt = served(None, Some(trust(&own, &partner)));
    for (audience, token, text) in [
        ("", good.as_str(), "audience must be specified"),
        ("a", "", "svid must be specified"),
        ("a", "x", "unable to parse JWT token: "),
        ("b", &good, "expected audience in [\"b\"] (audience=[\"a\"])"),
        ("a", &by(&own, ID, NOW.minus(MINUTE)), "token has expired"),
        ("a", &by(&own, FOREIGN, NOW), "no JWT authority "),
        ("a", &by(&partner, ID, NOW), "no JWT authority "),
        ("a", &by(&own, "spiffe://third.example/x", NOW), "no JWT bundle found for trust domain \"third.example\""),
        ("a", &forged, "unable to get claims from token"),
    ] {
        let status = jwt.validate(&validating(audience, token)).unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().starts_with(text), "{text}: {status}");
    }
}

#[test]
fn before_any_key_is_known_no_token_is_called_bad() {
    let (says, has_nothing) = watch::channel(false);
    let jwt = served(None, None).unless(has_nothing.clone());
    let code = |jwt: &ServedJwt, audience| jwt.validate(&validating(audience, "x")).unwrap_err().code();
    assert_eq!(code(&jwt, "a"), Code::Unavailable);
    says.send_replace(true);
    assert_eq!(code(&jwt, "a"), Code::Unimplemented, "there will be none");
    assert_eq!(code(&jwt, ""), Code::InvalidArgument);
    says.send_replace(false);
    assert_eq!(code(&jwt, "a"), Code::Unavailable);
    says.send_replace(true);
    let known = served(None, Some(trust(&signer(), &signer()))).unless(has_nothing);
    assert_eq!(code(&known, "a"), Code::InvalidArgument, "by keys that are known from before");
}
