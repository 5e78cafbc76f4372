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
    support::{certificate::Certificate, http::loopback, observe::metric, wait::wait_until},
};

const ROUNDS: usize = 10;
/// Whoever asks has a token of its own, and all ask with the same keys.
const ACCOUNTS: usize = 10;
const KEYS: usize = 5;
/// How often each request is made at once.
const EQUAL: usize = 20;
/// One has at most 64 requests under way.
const CONNECTIONS: usize = 25;
const LIMIT: Duration = Duration::from_secs(8);
const COALESCED: &str = "countersign_istiod_requests_total{outcome=\"coalesced\"}";

#[test]
fn istiod_sees_no_more_calls_than_distinct_requests_and_nobody_has_anothers_answer() {
    let stage = Stage::set();
    let replica = &stage.replicas[0];
    let tokens: Vec<_> = (0..ACCOUNTS)
        .map(|number| {
            let name = format!("app-{number}");
            let (_, token) = stage.caller(&name);
            (name, token)
        })
        .collect();
    let runtime = Runtime::new().unwrap();
    let connections: Vec<Channel> =
        runtime.block_on(async { (0..CONNECTIONS).map(|_| to_pair(replica.port, &stage.roots)).collect() });
    let (before, mut calls, began) = (stage.istiod().requests(), 0, Instant::now());
    for round in 0..ROUNDS {
        let csrs: Vec<String> = (0..KEYS).map(|_| csr()).collect();
        let coalesced = metric(replica, COALESCED);
        // nobody has an answer before all have asked
        stage.istiod().pause();
        let mut callers = JoinSet::new();
        runtime.block_on(async {
            for (index, (account, key)) in tokens.iter().flat_map(|of| (0..KEYS).map(move |key| (of, key))).enumerate()
            {
                let asked = Asked::by(&account.1).with(|message| csrs[key].clone_into(&mut message.csr));
                for equal in 0..EQUAL {
                    let (channel, asked) = (connections[(index * EQUAL + equal) % CONNECTIONS].clone(), asked.clone());
                    let account = account.0.clone();
                    callers.spawn(async move { (account, key, ask(&channel, &asked).await) });
                }
            }
        });
        let equal = u64::try_from(ACCOUNTS * KEYS * (EQUAL - 1)).unwrap();
        wait_until(LIMIT, "all equal requests", || match metric(replica, COALESCED) - coalesced {
            seen if seen == equal => Ok(()),
            seen => Err(format!("{seen} of {equal}")),
        });
        stage.istiod().resume();
        let answers = runtime.block_on(callers.join_all());
        calls += answers.len();
        check(round, answers);
    }
    let seen = stage.istiod().requests() - before;
    println!("{calls} calls, {seen} of them at istiod, in {:?}", began.elapsed());
    assert_eq!(usize::try_from(seen).unwrap(), ROUNDS * ACCOUNTS * KEYS);
}

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
    let accounts: Vec<_> = (0..ACCOUNTS)
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
        let (account, token) = accounts[number % ACCOUNTS].clone();
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
        wait_until(BUSY * 2, "agents that have waited for long", || match paused.elapsed() {
            so_far if so_far >= BUSY => Ok(()),
            so_far => Err(format!("{so_far:?}")),
        });
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

/// Each has the identity of its own token, and all equal ones the same certificate.
fn check(round: usize, answers: Vec<(String, usize, Answer)>) {
    let mut serials: HashMap<(String, usize), String> = HashMap::new();
    for (account, key, answer) in answers {
        let elements = answer.unwrap_or_else(|error| panic!("{account} in round {round}: {error:?}"));
        let leaf = Certificate::from_pem(&elements[0]).remove(0);
        assert_eq!(leaf.uris, [format!("spiffe://cluster.local/ns/default/sa/{account}")]);
        let first = serials.entry((account, key)).or_insert_with(|| leaf.serial.clone());
        assert_eq!(*first, leaf.serial);
    }
    assert_eq!(serials.len(), ACCOUNTS * KEYS);
}
