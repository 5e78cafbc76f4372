//! Over the wire: two real replicas, what each answers, what they write down, and who else may not forward.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use countersign::{
    domain::{
        authority::{SigningAuthority, TtlBounds, issue},
        clock::Clock as _,
        x509::{Certificate as Parsed, CertificateChain, PrivateKey, VerifiedCsr},
    },
    proto::{
        countersign::v1::{AskRequest, pair_service_client::PairServiceClient},
        istio::v1::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    },
    runtime::seams::{RingRandom, SystemClock},
};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::{Api, api::DeleteParams};
use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    forged::{Forger, turned},
    stranger::{self, Held},
};
use crate::{
    cluster::{Account, Cluster, PodPhase, TokenFor, block_on},
    network::in_own_network,
    pair::{Pair, TRUST_DOMAIN, replica::PAIR_PORT, shipped},
    support::{certificate::Certificate as Read, wait::wait_until},
};

const UNKNOWN: &str = "request authenticate failure";
const IMPERSONATION: &str = "request impersonation authentication failure";
const SEEN: Duration = Duration::from_secs(10);

/// What a caller brings.
#[derive(Clone, Default)]
struct Call {
    token: Option<String>,
    clusters: Vec<&'static str>,
    held: Option<Held>,
    impersonated: &'static str,
}

struct Row {
    name: &'static str,
    call: Call,
    /// The account, or the public text and what the log says.
    expected: Result<&'static str, (&'static str, &'static str)>,
}

impl Call {
    fn token(token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::default() }
    }

    /// The chain, root last.
    async fn ask(&self, address: &str, roots: &str) -> Result<Vec<String>, Status> {
        let message = IstioCertificateRequest {
            csr: request().1,
            validity_duration: 600,
            metadata: (!self.impersonated.is_empty()).then(|| {
                let value = Value { kind: Some(Kind::StringValue(self.impersonated.to_owned())) };
                Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
            }),
        };
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        for cluster in &self.clusters {
            request.metadata_mut().append("clusterid", cluster.parse().unwrap());
        }
        let channel = connect(address, roots, self.held.as_ref()).await.unwrap();
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }
}

fn request() -> (PrivateKey, String) {
    let key = PrivateKey::generate_p256().unwrap();
    let csr = key.certificate_request(&format!("spiffe://{TRUST_DOMAIN}/ns/any/sa/body").parse().unwrap()).unwrap();
    (key, csr)
}

async fn connect(address: &str, roots: &str, held: Option<&Held>) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name("localhost");
    let tls = match held {
        None => tls,
        Some(Held { chain, key }) => tls.identity(Identity::from_pem(chain.to_pem(), key.to_pem().as_str())),
    };
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

/// An account in `default`, a pod of it in this phase, and a token that is bound to the pod.
async fn caller(cluster: &Cluster, name: &str, phase: PodPhase) -> (Account, String) {
    let account = cluster.account("default", name).await;
    cluster.pod(&account, name).await;
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some(name), ..TokenFor::default() };
    let token = cluster.token(&account, &asked).await;
    cluster.set_phase("default", name, phase).await;
    (account, token)
}

/// A certificate of the pair for the bearer of `token`, with its key.
async fn certified(address: &str, roots: &str, token: &str) -> Held {
    let (key, csr) = request();
    let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 600, metadata: None });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let channel = connect(address, roots, None).await.unwrap();
    let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await.unwrap();
    let leaf = Parsed::all_from_pem(answer.into_inner().cert_chain[0].as_bytes()).unwrap();
    Held { chain: CertificateChain::new(leaf).unwrap(), key: Arc::new(key) }
}

/// What a stranger makes for itself: a root of the same trust domain, and of it a replica's name.
fn forged_replica() -> Held {
    let (now, hour) = (SystemClock.now(), Duration::from_secs(3600));
    let (root, _key) =
        SigningAuthority::self_signed(&TRUST_DOMAIN.parse().unwrap(), hour, now, &RingRandom::new()).unwrap();
    let id = format!("spiffe://{TRUST_DOMAIN}/countersign/replica/forged").parse().unwrap();
    let key = PrivateKey::generate_p256().unwrap();
    let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
    let bounds = TtlBounds::new(hour, hour).unwrap();
    let leaf = issue(&root, &csr, &id, 0, &bounds, now, &RingRandom::new()).unwrap().leaf;
    Held { chain: CertificateChain::new(vec![leaf]).unwrap(), key: Arc::new(key) }
}

async fn rows(cluster: &Cluster, address: &str, roots: &str) -> Vec<Row> {
    let (gateway, token) = caller(cluster, "gateway", PodPhase::Running).await;
    let (_, ended) = caller(cluster, "ended", PodPhase::Succeeded).await;
    let (_, deleted) = caller(cluster, "deleted", PodPhase::Running).await;
    cluster.delete_pod("default", "deleted").await;
    let vault = cluster.token(&gateway, &TokenFor { audiences: &["vault"], ..TokenFor::default() }).await;
    let forger = Forger::with_the_clusters_key(cluster.folder());
    let expired = forger.changed(&token, &json!({ "exp": 1_700_000_000 }));
    let own = certified(address, roots, &token).await;
    let of_ended = certified(address, roots, &ended).await;
    let call = Call::token(&token);
    let with = |held: &Held, token: Option<&str>| Call {
        held: Some(held.clone()),
        token: token.map(str::to_owned),
        ..Call::default()
    };
    let good = |name, call| Row { name, call, expected: Ok("default/gateway") };
    let bad = |name, call, reason| Row { name, call, expected: Err((UNKNOWN, reason)) };
    vec![
        good("token", call.clone()),
        good("this cluster", Call { clusters: vec!["Kubernetes"], ..call.clone() }),
        good("two clusters, which say nothing", Call { clusters: vec!["remote", "Kubernetes"], ..call.clone() }),
        bad("another cluster", Call { clusters: vec!["remote"], ..call.clone() }, "said to be of cluster"),
        bad("another audience", Call::token(&vault), "audience"),
        bad("expired", Call::token(&expired), "expired"),
        bad("garbage", Call::token("garbage"), "malformed"),
        bad("a bit turned", Call::token(&turned(&token)), "does not accept the token"),
        bad("pod deleted", Call::token(&deleted), "has been invalidated"),
        bad("nothing", Call::default(), "neither a bearer token"),
        Row {
            name: "for another's identity",
            call: Call { impersonated: "spiffe://gateways.test/ns/a/sa/b", ..call },
            expected: Err((IMPERSONATION, "may not impersonate")),
        },
        good("certificate, pod running", with(&own, None)),
        good("certificate, and garbage", with(&own, Some("garbage"))),
        bad("certificate, pod succeeded", with(&of_ended, None), "has no pod that has not finished"),
        good("certificate, pod succeeded, and a token", with(&of_ended, Some(&token))),
    ]
}

#[test]
fn what_each_replica_answers_and_writes_down() {
    in_own_network("tokens::wire::what_each_replica_answers_and_writes_down", |network| {
        let pair = Pair::start(network);
        let (active, _) = pair.active();
        let roots = fs::read_to_string(pair.root_file()).unwrap();
        let addresses = pair.addresses();
        let rows = block_on(rows(&pair.cluster, &addresses[active], &roots));
        let said = |replica: usize| pair.replicas[replica].process.output() + &pair.replicas[replica].process.errors();
        let mut failures = Vec::new();
        for (replica, address) in addresses.iter().enumerate() {
            let role = if replica == active { "active" } else { "standby" };
            for row in &rows {
                let before = [said(0).len(), said(1).len()];
                let answer = block_on(row.call.ask(address, &roots));
                let logged = || said(0)[before[0]..].to_owned() + &said(1)[before[1]..];
                if let Err(failure) = check(&row.expected, &answer, logged) {
                    failures.push(format!("{} at the {role}: {failure}", row.name));
                }
                println!(
                    "{:44} {role:8} {}",
                    row.name,
                    answer.err().map_or("issued".into(), |error| error.to_string())
                );
            }
        }
        assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), rows.len() * 2, failures.join("\n"));
        for row in &rows {
            let signature = row.call.token.as_deref().and_then(|token| token.rsplit_once('.'));
            assert!(signature.is_none_or(|(_, signature)| !(said(0) + &said(1)).contains(signature)), "{}", row.name);
        }
        strangers_may_not_forward(&pair, &rows);
        without_rights(&pair, active, &roots);
    });
}

fn check(
    expected: &Result<&'static str, (&'static str, &'static str)>,
    answer: &Result<Vec<String>, Status>,
    logged: impl Fn() -> String,
) -> Result<(), String> {
    match (expected, answer) {
        (Ok(account), Ok(chain)) => {
            let (namespace, name) = account.split_once('/').unwrap();
            let uris = Read::from_pem(&chain[0]).remove(0).uris;
            let id = format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{name}");
            if uris == [id] { Ok(()) } else { Err(format!("issued to {uris:?}")) }
        }
        (Err((text, reason)), Err(status)) => {
            if (status.code(), status.message()) != (Code::Unauthenticated, *text) {
                return Err(format!("{status:?}"));
            }
            wait_until(SEEN, &format!("{reason:?} in a log"), || {
                let logged = logged();
                if logged.contains(reason) { Ok(()) } else { Err(logged) }
            });
            Ok(())
        }
        (_, Ok(_)) => Err("it was issued".to_owned()),
        (_, Err(status)) => Err(format!("{status:?}")),
    }
}

/// Neither nobody, nor a workload of this pair, nor who names itself a replica gets through to the pair port.
fn strangers_may_not_forward(pair: &Pair, rows: &[Row]) {
    let workload = rows.iter().find_map(|row| row.call.held.clone()).expect("a row with a certificate");
    let forged = forged_replica();
    for replica in &pair.replicas {
        for (who, held) in [("nobody", None), ("a workload", Some(&workload)), ("a forged replica", Some(&forged))] {
            let address = SocketAddr::from((replica.host().address(), PAIR_PORT));
            let let_in = block_on(async {
                let channel = stranger::connect(address, held).await.map_err(|error| error.to_string())?;
                let asked = PairServiceClient::new(channel).ask(AskRequest::default()).await;
                asked.map_err(|status| status.to_string())
            });
            println!("{who} at the pair port: {let_in:?}");
            assert!(let_in.is_err(), "{who}: {let_in:?}");
        }
        // the same client is let in where anybody may ask
        let address: SocketAddr = replica.address().parse().unwrap();
        let answer = block_on(async {
            let channel = stranger::connect(address, Some(&workload)).await.unwrap();
            let message = IstioCertificateRequest { csr: request().1, validity_duration: 600, metadata: None };
            IstioCertificateServiceClient::new(channel).create_certificate(message).await
        });
        answer.expect("its certificate is a proof");
    }
}

/// The right to have tokens reviewed taken away: unavailable with the reason, by either replica.
fn without_rights(pair: &Pair, active: usize, roots: &str) {
    let bindings = || Api::<ClusterRoleBinding>::all(pair.cluster.admin());
    block_on(async { bindings().delete("countersign-replica.countersign", &DeleteParams::default()).await }).unwrap();
    let (_, token) = block_on(caller(&pair.cluster, "late", PodPhase::Running));
    let call = Call::token(&token);
    let both = block_on(async {
        let [one, other] = pair.addresses();
        tokio::join!(call.ask(&one, roots), call.ask(&other, roots))
    });
    for (replica, answer) in <[_; 2]>::from(both).into_iter().enumerate() {
        let status = answer.expect_err("nobody can say");
        let role = if replica == active { "active" } else { "standby" };
        println!("without rights {role:8} {status}");
        assert_eq!(status.code(), Code::Unavailable, "{role}: {status:?}");
        assert!(status.message().contains("lacks the right to create tokenreviews"), "{role}: {status:?}");
    }
    block_on(pair.cluster.apply_file(&shipped("rbac.yaml")));
    wait_until(SEEN, "issued again", || {
        block_on(call.ask(&pair.addresses()[active], roots)).map_err(|s| s.to_string())
    });
}
