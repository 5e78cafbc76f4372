use std::net::Ipv4Addr;

use super::*;
use crate::service::room::{BYTES_EACH, PARTS};

#[tokio::test(start_paused = true)]
async fn istiod_is_asked_no_more_often_than_it_may() {
    let stage = Stage::with(&[Manner::Signs], 10);
    assert!(stage.ask(stage.good()).await.is_ok());
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for number in 0..200 {
        let (pass_on, request) = (Arc::clone(&stage.pass_on), request(&token("gateway", number), &stage.csr));
        callers.spawn(async move { pass_on.answer(request, &Semaphore::new(1)).await });
    }
    let answers = callers.join_all().await;
    let limited = answers.iter().filter(|answer| **answer == Err(PassOnError::Limited)).count();
    assert!(began.elapsed() <= LIMIT, "{:?}", began.elapsed());
    // a burst of 20, less the first one, and 10 a second for 8 seconds
    assert_eq!((stage.istiod.asked(), limited), (1 + 19 + 80 + 1, 100));
}

#[tokio::test(start_paused = true)]
async fn no_connection_has_more_waiting_than_its_share() {
    let stage = Stage::set(&[Manner::Signs]);
    let full = Semaphore::new(0);
    assert_eq!(stage.pass_on.answer(stage.good(), &full).await, Err(PassOnError::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_takes_up_no_more_than_it_may() {
    let stage = Stage::set(&[Manner::Signs]);
    let mut large = stage.good();
    large.passed.clusters = vec![vec![b'x'; BYTES_IN_ALL - 4096]];
    let pass_on = Arc::clone(&stage.pass_on);
    let under_way = tokio::spawn(async move { pass_on.answer(large, &Semaphore::new(1)).await });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(stage.ask(request(&token("gateway", 2), &stage.csr)).await, Err(PassOnError::Overloaded));
    assert!(under_way.await.unwrap().is_ok());
    assert!(stage.ask(request(&token("gateway", 2), &stage.csr)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_address_has_its_part_and_the_others_are_answered_meanwhile() {
    let stage = Stage::set(&[Manner::Signs]);
    let from = |last, number| PassOnRequest {
        source: Some(Ipv4Addr::new(10, 0, 0, last).into()),
        ..request(&token("gateway", number), &stage.csr)
    };
    let flooding = (0..20_000).map(|number| {
        let (pass_on, request) = (Arc::clone(&stage.pass_on), from(1, number));
        tokio::spawn(async move { pass_on.answer(request, &Semaphore::new(1)).await })
    });
    let flooding: Vec<_> = flooding.collect();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(stage.ask(from(1, 20_001)).await, Err(PassOnError::Overloaded));
    assert!(stage.ask(from(2, 20_002)).await.is_ok(), "somebody else, in the midst of it");
    let (mut answered, mut refused) = (0, 0);
    for answer in flooding {
        match answer.await.unwrap() {
            Ok(_) => answered += 1,
            Err(PassOnError::Overloaded) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((1..=BYTES_IN_ALL / PARTS / BYTES_EACH).contains(&answered) && refused > 0, "{answered}, {refused}");
    assert!(stage.ask(from(1, 20_003)).await.is_ok(), "and all is free again");
    assert!(stage.pass_on.room.is_empty());
}

/// Turns are taken before istiod has judged a token, so whoever has none that is good can take them.
#[tokio::test(start_paused = true)]
async fn addresses_that_flood_for_long_keep_nobody_else_from_a_turn() {
    for flooding in [1, 7] {
        let stage = Stage::with(&[Manner::Refuses], 40);
        let ask = |address: u8, number: usize| {
            let source = Some(Ipv4Addr::new(10, 0, 0, address).into());
            let request = PassOnRequest { source, ..request(&token("gateway", number), &stage.csr) };
            let pass_on = Arc::clone(&stage.pass_on);
            async move { pass_on.answer(request, &Semaphore::new(1)).await }
        };
        let (mut floods, mut others) = (JoinSet::new(), JoinSet::new());
        for tenth in 0..200 {
            for number in 0..100 {
                floods.spawn(ask(1 + u8::try_from(number % flooding).unwrap(), tenth * 100 + number));
            }
            if tenth % 10 == 9 {
                others.spawn(ask(100, 100_000 + tenth));
            }
            sleep(Duration::from_millis(100)).await;
        }
        let refused = |answer: &Result<_, _>| matches!(answer, Err(PassOnError::ByIstiod { .. }));
        let answers = others.join_all().await;
        assert!(answers.iter().all(refused), "{flooding} flood, and others are not heard: {answers:?}");
        let answers = floods.join_all().await;
        let limited = answers.iter().filter(|answer| **answer == Err(PassOnError::Limited)).count();
        let heard = answers.iter().filter(|answer| refused(answer)).count();
        assert!(limited > 10_000 && heard > 700, "{limited} had to wait, {heard} were heard: no turn is lost");
        assert!(stage.pass_on.room.is_empty());
    }
}
