//! A replica that leaves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    replica::{ACCOUNT, DEADLINE, Pair, Settings, request},
    store::Log,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_term_is_released_still_answers_others_and_forwards_for_its_callers() {
    let pair = Pair::new();
    let (leaving, next) = (pair.start("uid-a").await, pair.start("uid-b").await);
    leaving.take_over(1);
    pair.introduce(&[&leaving, &next], &leaving, 1);
    next.knows(&leaving, 1).await;
    leaving.step_down();
    let why = next.knows_nobody().await;
    assert!(why.contains(&format!("{} is not active", leaving.name)), "it still answers: {why}");
    let (evidence, create) = (pair.by_token(ACCOUNT), Arc::clone(&leaving.create));
    let waiting = tokio::spawn(async move { create.answer(&request(), &evidence, &Semaphore::new(1)).await });
    sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    next.take_over(2);
    waiting.await.unwrap().unwrap();
    println!("a held request was answered {:?} after the take-over", begun.elapsed());
    // it asks again after pauses of up to half a second, and is held for ten
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    leaving.sign(&pair.by_token(ACCOUNT)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_asked_is_answered_before_the_pair_port_closes() {
    let pair = Pair::new();
    let log = Log::slow(Duration::from_millis(400));
    let mut leaving = pair.start_with("uid-a", Settings { log, ..Settings::default() }).await;
    let other = pair.start("uid-b").await;
    leaving.take_over(1);
    pair.introduce(&[&leaving, &other], &leaving, 1);
    other.knows(&leaving, 1).await;
    let evidence = pair.by_token(ACCOUNT);
    let (signed, ()) = tokio::join!(other.sign(&evidence), async {
        sleep(Duration::from_millis(200)).await;
        leaving.leave();
    });
    signed.unwrap();
    timeout(DEADLINE, &mut leaving.server).await.expect("though others are still connected").unwrap();
    let why = other.knows_nobody().await;
    assert!(why.contains("can't be reached"), "{why}");
}
