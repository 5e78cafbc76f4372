//! Ten thousand requests of a fleet that restarts.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, task::JoinSet};
use tonic::transport::Channel;

use super::{
    client::{Answer, Asked, ask, csr, to_pair},
    stage::Stage,
};
use crate::support::{certificate::Certificate, observe::metric, wait::wait_until};

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
