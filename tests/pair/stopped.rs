//! SIGSTOP of the active: it keeps its term, and nobody signs in its place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use tonic::Code;

use crate::{
    pair::{Pair, role},
    support::{
        countersign::countersign,
        http::{self, loopback},
        issuance::Issued,
        wait::wait_until,
    },
    turn,
};

const HELD_AT_LEAST: Duration = Duration::from_secs(10);
const HELD_AT_MOST: Duration = Duration::from_secs(14);
const NOTICED: Duration = Duration::from_secs(5);
const HELD_CALLS: usize = 8;

#[test]
fn a_stopped_active_keeps_its_term_and_everybody_is_told() {
    let _turn = turn::beside_others();
    let pair = Pair::start();
    let (active, term) = pair.active();
    let standby = 1 - active;
    let caller = pair.caller("default/client");
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let connection = caller.connection(pair.port(standby));
    let before = runtime.block_on(caller.sign(&connection)).unwrap();

    pair.replicas[active].process.pause();
    let calls: Vec<_> = (0..HELD_CALLS)
        .map(|_| {
            let (caller, connection) = (Arc::clone(&caller), connection.clone());
            runtime.spawn(async move {
                let begun = Instant::now();
                (caller.sign(&connection).await, begun.elapsed())
            })
        })
        .collect();
    let admin = loopback(pair.replicas[standby].admin_port);
    let why = wait_until(NOTICED, "the standby not ready", || match http::get(admin, "/readyz") {
        Err(said) if said.contains("does not answer") => Ok(said),
        other => Err(format!("{other:?}")),
    });
    assert!(why.contains("status 503") && why.contains("its process may be stopped"), "{why}");
    wait_until(NOTICED, "the standby's log says so", || {
        let log = pair.replicas[standby].process.errors();
        let said = log.lines().any(|line| line.contains("not_ready") && line.contains("does not answer"));
        if said { Ok(()) } else { Err(log) }
    });
    http::get(admin, "/livez").expect("alive all the same");
    for call in calls {
        let (answer, took) = runtime.block_on(call).unwrap();
        let status = answer.expect_err("nobody may sign");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!((HELD_AT_LEAST..HELD_AT_MOST).contains(&took), "held for {took:?}: {status:?}");
    }

    pair.replicas[active].process.resume();
    wait_until(NOTICED, "the standby ready", || http::get(admin, "/readyz"));
    let after = runtime.block_on(caller.sign(&connection)).unwrap();
    assert_eq!(role(&pair.replicas[active]), Ok(Some(term)), "the term has changed");
    assert_eq!(role(&pair.replicas[standby]), Ok(None), "the standby has a term");
    let issued = Issued::list(&pair.data());
    assert_eq!(issued.holders().keys().collect::<Vec<_>>(), [&term]);
    let by_serial = issued.by_serial();
    assert!(by_serial.contains_key(before.as_str()) && by_serial.contains_key(after.as_str()));
}

#[test]
fn a_stopped_standby_keeps_nobody_from_the_log_of_the_active() {
    let _turn = turn::beside_others();
    let pair = Pair::start();
    let (active, _) = pair.active();
    let stopped = &pair.replicas[1 - active].process;
    stopped.pause();
    let begun = Instant::now();
    let listed =
        countersign().args(["issuance", "list", "-o", "json", "--data-dir"]).arg(pair.data()).output().unwrap();
    let took = begun.elapsed();
    stopped.resume();
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(listed.status.success(), "{said}");
    assert!(took < NOTICED, "{took:?}: {said}");
    assert!(said.contains("the log of replica-") && said.contains("its process may be stopped"), "{said}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("\"serial\""), "the active's own log is not listed");
}
