//! What istiod refuses, by way of the pair and without it: the same code and the same text.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign::domain::x509::PrivateKey;
use prost_types::{Struct, Value, value::Kind as ValueKind};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tonic::{Code, transport::Identity};

use super::{
    client::{Answer, Asked, ask, csr, to_istiod, to_pair, to_pair_as},
    stage::Stage,
};
use crate::{
    cluster::block_on,
    support::{
        certificate::Certificate,
        observe::{metric, said},
    },
    tokens::forged::{Forger, turned, unsigned},
};

/// A name, what is asked, and the code that istiod gives.
type Row = (&'static str, Asked, Code);

#[test]
fn istiods_refusals_and_certificates_come_as_they_are() {
    let stage = Stage::set();
    let (account, token) = stage.caller("gateway");
    let rows = rows(&stage, &account, &token);
    let (answers, refusals) = block_on(async {
        let istiod = to_istiod(stage.istiod().port, &stage.roots);
        let pair = stage.replicas.each_ref().map(|replica| to_pair(replica.port, &stage.roots));
        let mut all: Vec<(Row, [Answer; 3])> = Vec::new();
        for row in rows {
            let answers = [ask(&istiod, &row.1).await, ask(&pair[0], &row.1).await, ask(&pair[1], &row.1).await];
            all.push((row, answers));
        }
        all.into_iter().partition::<Vec<_>, _>(|(row, _)| row.2 == Code::Ok)
    });
    for ((name, _, code), [at_istiod, one, other]) in &refusals {
        println!("{name}: {at_istiod:?}");
        assert_eq!(at_istiod.as_ref().err().map(|(code, _)| *code), Some(*code), "{name}: {at_istiod:?}");
        assert_eq!([one, other], [at_istiod; 2], "{name}");
    }
    for ((name, ..), answers) in &answers {
        for answer in answers {
            let elements = answer.as_ref().unwrap_or_else(|error| panic!("{name}: {error:?}"));
            // leaf, intermediate, root, and the roots: as istiod's files have it
            let leaf = &Certificate::from_pem(&elements[0])[0];
            assert_eq!(leaf.uris, ["spiffe://cluster.local/ns/default/sa/gateway"], "{name}");
            assert_eq!(elements[1..], answers[0].as_ref().unwrap()[1..], "{name}");
        }
    }
    certificates_alone(&stage, &token);
    headers_of_gateways(&stage, &token);
    for replica in &stage.replicas {
        assert_eq!(said(replica, "certificate_passed_on"), answers.len() + 1, "and its own one");
        assert_eq!(metric(replica, "countersign_istiod_requests_total{outcome=\"bad_answer\"}"), 0);
        assert!(!replica.process.errors().contains(&token), "the token stands in the log");
    }
}

fn rows(stage: &Stage, account: &crate::cluster::Account, token: &str) -> Vec<Row> {
    let forger = Forger::with_the_clusters_key(stage.cluster.folder());
    let good = || Asked::by(token);
    let with_authorization =
        |values: &[&str]| Asked { authorization: values.iter().map(|value| (*value).to_owned()).collect(), ..good() };
    let bearer = |token: &str| Asked::by(token);
    let text = |text: &str| Value { kind: Some(ValueKind::StringValue(text.into())) };
    let metadata = |fields: &[(&str, Value)]| {
        let fields: BTreeMap<_, _> = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        good().with(|message| message.metadata = Some(Struct { fields }))
    };
    let gone = block_on(async {
        let gone = stage.cluster.account("default", "gone").await;
        let token = stage.token(&gone, &["istio-ca"]);
        let accounts =
            kube::Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(stage.cluster.admin(), "default");
        accounts.delete("gone", &Default::default()).await.unwrap();
        token
    });
    let (refused, invalid) = (Code::Unauthenticated, Code::InvalidArgument);
    vec![
        ("good", good(), Code::Ok),
        ("no clusterid", Asked { clusters: vec![], ..good() }, Code::Ok),
        ("two clusterids", Asked { clusters: vec!["Kubernetes", "other"], ..good() }, Code::Ok),
        ("default TTL", good().with(|message| message.validity_duration = 0), Code::Ok),
        ("negative TTL", good().with(|message| message.validity_duration = -5), Code::Ok),
        ("an unknown piece of metadata", metadata(&[("CertSigner", text("x")), ("unknown", text("y"))]), Code::Ok),
        (
            "impersonation that is no text",
            metadata(&[("ImpersonatedIdentity", Value { kind: Some(ValueKind::BoolValue(true)) })]),
            Code::Ok,
        ),
        ("the second of two", with_authorization(&["Basic x", &format!("Bearer {token}")]), Code::Ok),
        ("no token", with_authorization(&[]), refused),
        ("no bearer", with_authorization(&["Basic x"]), refused),
        ("lower case", with_authorization(&[&format!("bearer {token}")]), refused),
        ("empty token", with_authorization(&["Bearer "]), refused),
        ("garbage", bearer("garbage"), refused),
        ("other audience", bearer(&stage.token(account, &["other"])), refused),
        ("expired", bearer(&forger.changed(token, &json!({ "exp": 1_700_000_000 }))), refused),
        ("another key", bearer(&Forger::with_another_key().changed(token, &json!({}))), refused),
        ("turned", bearer(&turned(token)), refused),
        ("unsigned", bearer(&unsigned(token)), refused),
        ("deleted account", bearer(&gone), refused),
        ("another cluster", Asked { clusters: vec!["elsewhere"], ..good() }, refused),
        (
            "impersonation",
            metadata(&[("ImpersonatedIdentity", text("spiffe://cluster.local/ns/default/sa/x"))]),
            refused,
        ),
        ("TTL too long", good().with(|message| message.validity_duration = 91 * 86_400), invalid),
        ("no PEM", good().with(|message| message.csr = "CSR".into()), invalid),
        ("no DER", good().with(|message| message.csr = pem(b"garbage")), invalid),
        ("a signature that is wrong", good().with(|message| message.csr = broken(&csr())), invalid),
        ("an RSA signature that is wrong", good().with(|message| message.csr = broken(&rsa_csr())), invalid),
    ]
}

/// A certificate can't be passed on, and beside a good token it is in nobody's way.
fn certificates_alone(stage: &Stage, token: &str) {
    let key = PrivateKey::generate_p256().unwrap();
    let csr = key.certificate_request(&"spiffe://cluster.local/any".parse().unwrap()).unwrap();
    block_on(async {
        let asked = Asked::by(token).with(|message| message.csr = csr);
        let chain = ask(&to_istiod(stage.istiod().port, &stage.roots), &asked).await.unwrap();
        let identity = Identity::from_pem(chain[..2].concat(), key.to_pem().as_bytes());
        for replica in &stage.replicas {
            let channel = to_pair_as(replica.port, &stage.roots, Some(identity.clone()));
            let (code, text) = ask(&channel, &Asked { authorization: vec![], ..Asked::by("") }).await.unwrap_err();
            assert_eq!(code, Code::FailedPrecondition);
            assert!(text.contains("can't pass on a certificate: ask istiod itself"), "{text}");
        }
    });
}

/// istiod takes a client's identity from a header when a gateway of its own sends it. A pair that passed it on would vouch for
/// whatever its callers write there.
fn headers_of_gateways(stage: &Stage, token: &str) {
    const SOMEBODY: &str = "spiffe://cluster.local/ns/kube-system/sa/somebody";
    let forwarded = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/kube-system/sa/somebody");
    let asked = Asked { headers: vec![forwarded], ..Asked::by(&turned(token)) };
    block_on(async {
        let believed = ask(&to_istiod(stage.istiod().port, &stage.roots), &asked).await.unwrap();
        assert_eq!(Certificate::from_pem(&believed[0])[0].uris, [SOMEBODY], "istiod would believe the pair");
        for replica in &stage.replicas {
            let (code, text) = ask(&to_pair(replica.port, &stage.roots), &asked).await.unwrap_err();
            assert_eq!((code, &*text), (Code::Unauthenticated, "request authenticate failure"));
        }
    });
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

/// With one bit of its signature turned.
fn broken(csr: &str) -> String {
    let lines = csr.lines().filter(|line| !line.starts_with("--")).collect::<String>();
    let mut der = STANDARD.decode(lines).unwrap();
    *der.last_mut().unwrap() ^= 1;
    pem(&der)
}

fn rsa_csr() -> String {
    use rsa::pkcs8::EncodePrivateKey as _;
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let der = key.to_pkcs8_der().unwrap();
    let key = KeyPair::try_from(der.as_bytes()).unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}
