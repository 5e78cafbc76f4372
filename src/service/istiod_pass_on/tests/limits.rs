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
    assert_eq!((stage.istiod.asked(), limited), (1 + 19 + 80, 101));
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

/// While one is given up and the next one was never asked, nobody is known to be well; that is no reason to hurry.
#[tokio::test(start_paused = true)]
async fn the_next_one_is_asked_no_more_often_than_it_may_when_the_first_one_is_given_up() {
    const RATE: usize = 10;
    let stage = Stage::with(&[Manner::Gone, Manner::Signs], 10);
    let mut callers = JoinSet::new();
    for number in 0..200 {
        let (pass_on, request) = (Arc::clone(&stage.pass_on), request(&token("gateway", number), &stage.csr));
        callers.spawn(async move {
            let answer = pass_on.answer(request, &Semaphore::new(1)).await;
            (Instant::now(), answer.is_ok())
        });
    }
    let mut answered: Vec<_> = callers.join_all().await.into_iter().filter(|(_, is_ok)| *is_ok).collect();
    answered.sort();
    assert_eq!(answered.len(), 2 * RATE + 8 * RATE, "a burst, and turns for 8 s");
    for (index, (from, _)) in answered.iter().enumerate() {
        let in_a_second =
            answered.iter().skip(index).take_while(|(at, _)| *at - *from < Duration::from_secs(1)).count();
        assert!(in_a_second <= 3 * RATE, "{in_a_second} in the second after {:?}", *from - answered[0].0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_could_ask_nobody_takes_no_turn() {
    let stage = Stage::with(&[Manner::Gone], 10);
    for number in 0..1000 {
        assert!(stage.ask(request(&token("gateway", number), &stage.csr)).await.is_err());
    }
    stage.istiod.set(0, Manner::Signs);
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    for number in 0..10 {
        assert!(stage.ask(request(&token("gateway", number), &stage.csr)).await.is_ok());
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
