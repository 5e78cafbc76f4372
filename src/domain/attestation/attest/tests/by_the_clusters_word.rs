use super::*;
use crate::domain::attestation::{ClusterWord, Pod, ReviewError, ReviewRules, ReviewedAccount, UnfinishedPods};

type Outcome = Result<ReviewedAccount, ReviewError>;

const CLUSTER_ISSUER: &str = "https://kubernetes.default.svc";

fn rules() -> ReviewRules {
    ReviewRules { cluster: "Kubernetes".into(), audiences: vec!["istio-ca".into()] }
}

fn accepted() -> Outcome {
    let pod = Some(Pod { name: "gateway-0".into(), uid: "5a1c".into() });
    Ok(ReviewedAccount { account: "default/reviewed".parse().unwrap(), pod })
}

fn refused() -> Outcome {
    Err(ReviewError::NotAuthenticated)
}

fn away() -> Outcome {
    Err(ReviewError::Unavailable("it is away".into()))
}

fn attested(
    world: &World,
    evidence: &Evidence,
    reviewed: Option<&Outcome>,
    pods: UnfinishedPods,
) -> Result<Caller, AttestationError> {
    let rules = rules();
    let cluster = Some(ClusterWord { rules: &rules, reviewed, pods });
    attest(evidence, "replica-1", Verifiers { cluster, ..world.verifiers() }, NOW)
}

fn by_cluster_token(world: &World, cluster: &str) -> Evidence {
    Evidence { token: world.token(CLUSTER_ISSUER), cluster: cluster.into(), ..Evidence::NONE }
}

#[test]
fn a_token_of_no_configured_issuer_is_what_the_review_says() {
    let world = World::new();
    for stated in ["", "Kubernetes"] {
        let evidence = by_cluster_token(&world, stated);
        let caller = attested(&world, &evidence, Some(&accepted()), UnfinishedPods::NotAsked).unwrap();
        assert_eq!(caller.id.as_str(), "spiffe://cluster.local/ns/default/sa/reviewed");
        let pod = Some(Pod { name: "gateway-0".into(), uid: "5a1c".into() });
        assert_eq!(caller.proof, Proof::ReviewedToken { cluster: "Kubernetes".into(), pod });
        let answer = attested(&world, &evidence, Some(&refused()), UnfinishedPods::NotAsked);
        assert_eq!(answer, Err(AttestationError::Review(ReviewError::NotAuthenticated)));
    }
}

#[test]
fn a_token_that_nobody_has_reviewed_yet_is_undecided_and_one_that_nobody_could_review_too() {
    let world = World::new();
    let evidence = by_cluster_token(&world, "");
    for outcome in [None, Some(away())] {
        let undecided = attested(&world, &evidence, outcome.as_ref(), UnfinishedPods::NotAsked).unwrap_err();
        assert!(undecided.is_undecided(), "{undecided}");
    }
    assert!(!AttestationError::Review(ReviewError::NotAuthenticated).is_undecided());
}

#[test]
fn what_no_review_could_accept_needs_none() {
    let world = World::new();
    let answer =
        |evidence: &Evidence| attested(&world, evidence, Some(&accepted()), UnfinishedPods::NotAsked).unwrap_err();
    let account = "default/token".parse().unwrap();
    let minted = |audience, now| Evidence {
        token: Some(world.key.mint(CLUSTER_ISSUER, &account, audience, now, HOUR).unwrap()),
        ..Evidence::NONE
    };
    assert_eq!(answer(&minted("istio", NOW)), AttestationError::Token(TokenError::Audience));
    let expired = minted("istio-ca", NOW.minus(HOUR + HOUR));
    assert_eq!(answer(&expired), AttestationError::Token(TokenError::Expired));
    let garbage = Evidence { token: Some("x".to_owned().into()), ..Evidence::NONE };
    assert!(matches!(answer(&garbage), AttestationError::Token(TokenError::Malformed(_))));
    let other = answer(&by_cluster_token(&world, &"remote".repeat(100)));
    let AttestationError::OtherCluster { claimed, own } = other else { panic!("{other:?}") };
    assert_eq!((claimed.len(), own.as_str()), (64, "Kubernetes"));
}

#[test]
fn a_configured_issuer_answers_for_its_tokens_itself_whatever_cluster_is_stated() {
    let world = World::new();
    let evidence = Evidence { cluster: "remote".into(), ..evidence_by_token(&world) };
    let caller = attested(&world, &evidence, None, UnfinishedPods::None).unwrap();
    assert_eq!(caller.proof, Proof::Token { issuer: ISSUER.into() });
}

#[test]
fn without_a_cluster_a_token_of_no_configured_issuer_proves_nobody() {
    let world = World::new();
    assert_eq!(world.attest(&by_cluster_token(&world, "")), Err(AttestationError::UnknownIssuer));
}

#[test]
fn a_certificate_counts_only_while_its_account_has_an_unfinished_pod() {
    let world = World::new();
    let chain = chain(&world.authority, BY_CERTIFICATE, NOW);
    for evidence in [presented(chain.clone()), Evidence { asserted: Some(chain), ..Evidence::NONE }] {
        for pods in [UnfinishedPods::NotAsked, UnfinishedPods::Some] {
            assert_eq!(attested(&world, &evidence, None, pods).unwrap().id.as_str(), BY_CERTIFICATE);
        }
        let no_pod = AttestationError::NoPod("default/certificate".parse().unwrap());
        assert_eq!(attested(&world, &evidence, None, UnfinishedPods::None), Err(no_pod));
        let unknown = attested(&world, &evidence, None, UnfinishedPods::Unknown).unwrap_err();
        assert_eq!(unknown, AttestationError::PodsUnknown);
        assert!(unknown.is_undecided());
    }
}

#[test]
fn a_certificate_without_a_pod_does_not_spoil_a_token() {
    let world = World::new();
    let chain = chain(&world.authority, BY_CERTIFICATE, NOW);
    let both = Evidence { token: world.token(CLUSTER_ISSUER), ..presented(chain) };
    for pods in [UnfinishedPods::None, UnfinishedPods::Unknown] {
        let caller = attested(&world, &both, Some(&accepted()), pods).unwrap();
        assert_eq!(caller.id.as_str(), "spiffe://cluster.local/ns/default/sa/reviewed");
    }
}

#[test]
fn what_one_proof_leaves_undecided_no_other_one_refuses() {
    let world = World::new();
    let chain = chain(&world.authority, BY_CERTIFICATE, NOW);
    let both = Evidence { token: world.token(CLUSTER_ISSUER), ..presented(chain) };
    let answer = attested(&world, &both, Some(&refused()), UnfinishedPods::Unknown);
    assert_eq!(answer, Err(AttestationError::PodsUnknown));
    assert!(attested(&world, &both, Some(&away()), UnfinishedPods::None).unwrap_err().is_undecided());
}

#[test]
fn own_identities_need_no_pod() {
    let world = World::new();
    let own = Evidence { own: Some(OwnIdentity::Serving), ..Evidence::NONE };
    assert!(attested(&world, &own, None, UnfinishedPods::None).is_ok());
}
