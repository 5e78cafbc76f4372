//! Ten thousand requests of a fleet that restarts.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    grpc::ca_client::{CaClient, CaEndpoint},
    runtime::seams::SystemClock,
    service::ports::CertificateAuthority as _,
};
use tokio::{runtime::Runtime, task::JoinSet};
use tonic::transport::Channel;

use super::{
    client::{Answer, Asked, PAIR, ask, csr, to_pair},
    stage::Stage,
};
use crate::{
    istio::istiod::SERVER_NAME,
    support::{
        certificate::Certificate,
        countersign::Serve,
        http::loopback,
        observe::metric,
        wait::{wait_for_time, wait_until},
    },
};

const ROUNDS: usize = 10;
/// Whoever asks has a token of its own, and all ask with the same keys, half of them at each replica.
const ACCOUNTS: usize = 25;
const KEYS: usize = 20;
/// How often each request is made at once.
const EQUAL: usize = 2;
const DISTINCT: usize = ACCOUNTS * KEYS;
/// To each replica. One has at most 64 requests under way.
const CONNECTIONS: usize = 12;
/// As many as istiod can sign: the pair's own limit is not what is tested.
const QPS: [&str; 2] = ["--istiod-qps", "2000"];
const LIMIT: Duration = Duration::from_secs(8);
const COALESCED: &str = "countersign_istiod_requests_total{outcome=\"coalesced\"}";

#[test]
fn istiod_sees_no_more_calls_than_distinct_requests_and_nobody_has_anothers_answer() {
    let stage = Stage::set_with(&QPS);
    let tokens: Vec<_> = (0..ACCOUNTS)
        .map(|number| {
            let name = format!("app-{number}");
            let (_, token) = stage.caller(&name);
            (name, token)
        })
        .collect();
    let runtime = Runtime::new().unwrap();
    let connections: [Vec<Channel>; 2] = runtime.block_on(async {
        let to = |replica: &Serve| (0..CONNECTIONS).map(|_| to_pair(replica.port, &stage.roots)).collect();
        stage.replicas.each_ref().map(to)
    });
    let coalesced = || stage.replicas.iter().map(|replica| metric(replica, COALESCED)).sum::<u64>();
    let (before, mut serials, mut calls, began) = (stage.istiod().requests(), HashSet::new(), 0, Instant::now());
    for round in 0..ROUNDS {
        let csrs: Vec<String> = (0..KEYS).map(|_| csr()).collect();
        let coalesced_before = coalesced();
        // nobody has an answer before all have asked
        stage.istiod().pause();
        let mut callers = JoinSet::new();
        runtime.block_on(async {
            for (number, (account, token)) in tokens.iter().enumerate() {
                for (key, csr) in csrs.iter().enumerate() {
                    let asked = Asked::by(token).with(|message| csr.clone_into(&mut message.csr));
                    for _ in 0..EQUAL {
                        let connections = &connections[number % 2];
                        let channel = connections[callers.len() % CONNECTIONS].clone();
                        let (account, asked) = (account.clone(), asked.clone());
                        callers.spawn(async move { (account, key, ask(&channel, &asked).await) });
                    }
                }
            }
        });
        let equal = u64::try_from(DISTINCT * (EQUAL - 1)).unwrap();
        wait_until(LIMIT, "all equal requests", || match coalesced() - coalesced_before {
            seen if seen == equal => Ok(()),
            seen => Err(format!("{seen} of {equal}")),
        });
        stage.istiod().resume();
        let answers = runtime.block_on(callers.join_all());
        calls += answers.len();
        serials.extend(check(round, answers).into_values());
    }
    let seen = usize::try_from(stage.istiod().requests() - before).unwrap();
    println!(
        "{calls} calls, {} distinct ones, {seen} of them at istiod, {} certificates, in {:?}",
        ROUNDS * DISTINCT,
        serials.len(),
        began.elapsed()
    );
    assert_eq!((seen, serials.len()), (ROUNDS * DISTINCT, ROUNDS * DISTINCT));
}

/// Of the agents.
const AGENT_ACCOUNTS: usize = 10;
/// Agents that start at once, and how often.
const AGENTS: usize = 120;
const STARTS: usize = 3;
/// An agent that hears nothing of a CA for 2 s turns to the next one as well.
const BUSY: Duration = Duration::from_secs(5);

/// As agents ask: at either replica first, and at the other one when there is a reason to.
#[test]
fn istiod_sees_each_request_of_agents_that_know_both_replicas_once_however_long_it_takes() {
    let stage = Stage::set();
    let folder = stage.cluster.folder();
    let roots = folder.join("agents.pem");
    fs::write(&roots, &stage.roots).unwrap();
    let accounts: Vec<_> = (0..AGENT_ACCOUNTS)
        .map(|number| {
            let (name, file) = (format!("app-{number}"), folder.join(format!("app-{number}.token")));
            fs::write(&file, stage.caller(&name).1).unwrap();
            (name, file)
        })
        .collect();
    let agent = |number: usize| {
        let mut replicas = stage.replicas.each_ref().map(|replica| CaEndpoint {
            address: loopback(replica.port).to_string(),
            server_name: SERVER_NAME.to_owned(),
        });
        replicas.rotate_left(number % 2);
        let (account, token) = accounts[number % AGENT_ACCOUNTS].clone();
        let client = CaClient::new(replicas.into(), token, roots.clone(), Arc::new(SystemClock));
        (account, client.accepting(vec![PAIR.parse().unwrap()]))
    };
    let runtime = Runtime::new().unwrap();
    let (before, mut serials) = (stage.istiod().requests(), HashSet::new());
    for start in 0..STARTS {
        stage.istiod().pause();
        let mut agents = JoinSet::new();
        runtime.block_on(async {
            for (account, client) in (0..AGENTS).map(agent) {
                agents.spawn(async move { (account, client.sign(&csr(), 3600).await) });
            }
        });
        let paused = Instant::now();
        wait_for_time(paused, BUSY, "agents that have waited for long");
        stage.istiod().resume();
        for (account, answer) in runtime.block_on(agents.join_all()) {
            let leaf =
                answer.unwrap_or_else(|error| panic!("{account} at start {start}: {error}")).chain.leaf().clone();
            let id = leaf.spiffe_id().unwrap().to_string();
            assert_eq!(id, format!("spiffe://cluster.local/ns/default/sa/{account}"));
            serials.insert(leaf.serial().to_string());
        }
    }
    let seen = usize::try_from(stage.istiod().requests() - before).unwrap();
    println!("{} certificates, {seen} requests at istiod", serials.len());
    assert_eq!((serials.len(), seen), (STARTS * AGENTS, STARTS * AGENTS));
}

/// Each has the identity of its own token, and all equal ones the same certificate, whose serials these are.
fn check(round: usize, answers: Vec<(String, usize, Answer)>) -> HashMap<(String, usize), String> {
    let mut serials: HashMap<(String, usize), String> = HashMap::new();
    for (account, key, answer) in answers {
        let elements = answer.unwrap_or_else(|error| panic!("{account} in round {round}: {error:?}"));
        let leaf = Certificate::from_pem(&elements[0]).remove(0);
        assert_eq!(leaf.uris, [format!("spiffe://cluster.local/ns/default/sa/{account}")]);
        let first = serials.entry((account, key)).or_insert_with(|| leaf.serial.clone());
        assert_eq!(*first, leaf.serial);
    }
    serials
}
