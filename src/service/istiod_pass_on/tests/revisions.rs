//! Istiods that come and go.

use super::*;
use crate::service::readiness::Readiness;

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_change_asks_those_of_now_and_who_asked_before_has_the_answer() {
    let stage = Stage::set(&[Manner::Signs, Manner::Gone, Manner::Signs]);
    stage.addresses.send_replace(addresses([0]));
    let (pass_on, early) = (Arc::clone(&stage.pass_on), stage.good());
    let under_way = tokio::spawn(async move { pass_on.answer(early, &Semaphore::new(1)).await });
    sleep(Duration::from_millis(10)).await;
    stage.addresses.send_replace(addresses([1, 2]));
    stage.istiod.set(0, Manner::Gone);
    assert!(under_way.await.unwrap().is_ok(), "it was asked before it left");
    for _ in 0..20 {
        assert!(stage.ask(request(&token("gateway", 2), &stage.csr)).await.is_ok());
    }
    assert_eq!(stage.pass_on.route.reachable().as_deref(), Some("istiod-2:15012"));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_istiod_leaves_goes_on_at_one_that_came_meanwhile() {
    let stage = Stage::set(&[Manner::Gone, Manner::Signs]);
    stage.addresses.send_replace(addresses([0]));
    let (pass_on, early) = (Arc::clone(&stage.pass_on), stage.good());
    let under_way = tokio::spawn(async move { pass_on.answer(early, &Semaphore::new(1)).await });
    sleep(Duration::from_millis(10)).await;
    stage.addresses.send_replace(addresses([1]));
    assert!(under_way.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_address_lasts_while_it_is_there_and_no_longer() {
    let stage = Stage::set(&[Manner::Gone, Manner::Signs]);
    for _ in 0..6 {
        assert!(stage.ask(stage.good()).await.is_ok());
    }
    let asked = stage.istiod.asked();
    assert!(stage.ask(stage.good()).await.is_ok());
    assert_eq!(stage.istiod.asked(), asked + 1, "the first one is left alone");
    stage.addresses.send_replace(addresses([1, 0]));
    stage.addresses.send_replace(addresses([0, 1]));
    assert!(stage.ask(stage.good()).await.is_ok());
    assert_eq!(stage.istiod.asked(), asked + 2, "and still is");
    stage.addresses.send_replace(addresses([1]));
    assert!(stage.ask(stage.good()).await.is_ok());
    stage.addresses.send_replace(addresses([0, 1]));
    assert!(stage.ask(stage.good()).await.is_ok());
    assert_eq!(stage.istiod.asked(), asked + 5, "a new one is tried");
}

#[tokio::test(start_paused = true)]
async fn readiness_hears_of_a_new_one_at_once() {
    let stage = Stage::set(&[Manner::Gone, Manner::Signs]);
    stage.addresses.send_replace(addresses([0]));
    let readiness = Readiness::default();
    let (pass_on, latch) = (Arc::clone(&stage.pass_on), readiness.latch("istiod", ""));
    let detecting = tokio::spawn(async move { pass_on.detect(latch).await });
    sleep(Duration::from_millis(100)).await;
    assert!(readiness.report().to_string().contains("not ready (IstioNotDetected: istiod-0:15012"));
    stage.addresses.send_replace(addresses([0, 1]));
    sleep(Duration::from_millis(100)).await;
    assert!(readiness.report().to_string().contains("ready (it answers at istiod-1:15012)"), "{readiness:?}");
    detecting.abort();
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_istiod_without_any_caller() {
    let stage = Stage::set(&[Manner::Gone, Manner::Gone]);
    let readiness = Readiness::default();
    let (pass_on, latch) = (Arc::clone(&stage.pass_on), readiness.latch("istiod", ""));
    let detecting = tokio::spawn(async move { pass_on.detect(latch).await });
    let says = |text: &str| readiness.report().to_string().contains(text);
    sleep(Duration::from_millis(100)).await;
    assert!(says(
        "not ready (IstioNotDetected: istiod-0:15012: connection refused; istiod-1:15012: connection refused)"
    ));
    stage.istiod.set(1, Manner::Signs);
    sleep(Duration::from_millis(1100)).await;
    assert!(says("istiod: ready (it answers at istiod-1:15012)"), "{}", readiness.report());
    stage.istiod.set(1, Manner::Gone);
    sleep(Duration::from_millis(11_100)).await;
    assert!(says("istiod: not ready (istiod-0:15012"), "{}", readiness.report());
    stage.istiod.set(0, Manner::Signs);
    sleep(Duration::from_millis(1100)).await;
    assert!(says("istiod: ready (it answers at istiod-0:15012)"), "{}", readiness.report());
    detecting.abort();
}
