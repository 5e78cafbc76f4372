//! The API server away for two minutes: nobody may sign, and everybody is told why; nothing is lost, nobody restarts.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use countersign::{
    domain::x509::PrivateKey,
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    cluster::block_on,
    network::in_own_network,
    pair::{Pair, TRUST_DOMAIN, agents::Agent, load::Load, replica::Replica},
    support::{issuance::Issued, wait::wait_until},
};

const AWAY: Duration = Duration::from_secs(120);
/// Renewal is due after half of it, while the API server is away.
const TTL: Duration = Duration::from_secs(200);
const STEPPED_DOWN: Duration = Duration::from_secs(5);
const HELD_AT_LEAST: Duration = Duration::from_secs(10);
const HELD_AT_MOST: Duration = Duration::from_secs(14);
const BACK: Duration = Duration::from_secs(2);
const RENEWED: Duration = Duration::from_secs(60);

#[test]
fn without_the_api_server_nothing_is_signed_and_soon_after_its_return_all_is_as_before() {
    let name = "away::without_the_api_server_nothing_is_signed_and_soon_after_its_return_all_is_as_before";
    in_own_network(name, |network| {
        let mut pair = Pair::start(network);
        let (roots, token) = (pair.root_file(), pair.caller("caller"));
        let agents = ["agent-0", "agent-1"]
            .map(|name| Agent::start(name, pair.cluster.folder(), &pair.addresses(), &pair.caller(name), &roots, TTL));
        let (_, term) = pair.active();
        for address in pair.addresses() {
            ask(&address, &token, &roots).0.unwrap();
        }

        let begin = Instant::now();
        pair.api.lose();
        wait_until(STEPPED_DOWN, "nobody active", || {
            let roles = pair.replicas.each_ref().map(Replica::role);
            if roles.iter().any(|role| matches!(role, Ok(Some(_)))) { Err(format!("{roles:?}")) } else { Ok(()) }
        });
        let mut refused = 0;
        while begin.elapsed() < AWAY {
            for (address, replica) in pair.addresses().iter().zip(&mut pair.replicas) {
                let (answer, took) = ask(address, &token, &roots);
                let status = answer.expect_err("nobody may sign");
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                let said = status.message();
                assert!(said.starts_with("no replica could sign within 10s"), "no bound: {status:?}");
                let reason = said.split_once("; here: ").map(|(_, reason)| reason.to_lowercase());
                assert!(reason.is_some_and(|it| it.contains("api server")), "no reason: {status:?}");
                assert!((HELD_AT_LEAST..HELD_AT_MOST).contains(&took), "held for {took:?}: {status:?}");
                assert_eq!(replica.process.ended(), None, "it ended");
                refused += 1;
            }
            for agent in &agents {
                assert!(agent.serves(), "an agent let go of its SVID");
            }
        }

        let load = Load::start(&pair.addresses(), &token, &roots, 4);
        let back = Instant::now();
        pair.api.find();
        load.wait_for_more(1);
        let again = back.elapsed();
        println!(
            "API server away for {AWAY:?}: {refused} calls held and refused; signing again after {} ms",
            again.as_millis()
        );
        assert!(again < BACK, "signing again only after {again:?}");
        assert!(pair.active().1 > term, "in the term that had ended");
        for agent in &agents {
            wait_until(RENEWED, "the renewal that was due meanwhile", || match agent.rotations().len() {
                0 | 1 => Err(agent.complaints().join("\n")),
                _ => Ok(()),
            });
            let rotations = agent.rotations();
            assert!(rotations[1].at < rotations[0].not_after, "late: {rotations:?}");
        }
        for replica in &mut pair.replicas {
            assert_eq!((replica.starts, replica.process.ended()), (1, None), "it was restarted");
            replica.stop();
        }
        Issued::list_all(&pair.replicas.each_ref().map(Replica::data)).check_terms();
    });
}

/// One call as any client would make it, with no limit of its own: the answer, and how long it took.
fn ask(address: &str, token: &Path, roots: &Path) -> (Result<(), Status>, Duration) {
    let id = format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/caller").parse().unwrap();
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(roots).unwrap()));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let endpoint = endpoint.tls_config(tls.domain_name("localhost")).unwrap();
    let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 600, metadata: None });
    let bearer = format!("Bearer {}", fs::read_to_string(token).unwrap().trim());
    request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    block_on(async {
        let channel = endpoint.connect().await.expect("the replica takes connections");
        let begin = Instant::now();
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        (answer.map(drop), begin.elapsed())
    })
}
