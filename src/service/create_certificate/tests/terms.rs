use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_not_on_record_is_not_sent() {
    let replica = Replica::over(TestLog { full: true, ..TestLog::default() }, TestPair::default());
    replica.begin();
    let refused = replica.answer().await;
    assert_eq!(refused, Err(CreateError::Log(LogError("the disk is full".into()))));
    assert_eq!(replica.forwarded(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_term_signed_that_ended_meanwhile_is_withheld_and_signed_by_the_next() {
    let signed = vec!["leaf".to_owned(), "root".to_owned()];
    let answers = VecDeque::from([Ok(signed.clone())]);
    let replica = Replica::over(TestLog::default(), TestPair { answers: answers.into(), ..TestPair::default() });
    let session = replica.begin();
    *replica.log.ends_meanwhile.lock().unwrap() = Some(session);
    assert_eq!(replica.answer().await, Ok(signed));
    let recorded = replica.recorded();
    let [(issued, false), (withheld, true)] = recorded.as_slice() else { panic!("{recorded:?}") };
    assert_eq!(issued, withheld);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_is_over_by_its_deadline_signs_nothing() {
    let replica = Replica::new();
    let until = BootInstant::from_nanos(0).plus(Duration::from_secs(5));
    let session = SigningSession::new(TERM, claimed(&replica.authority), Some(until));
    replica.session.send_replace(Some(Arc::new(session)));
    assert_eq!(replica.create.active_term(), Some(TERM));
    assert!(replica.answer().await.is_ok());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(replica.create.active_term(), None);
    assert!(matches!(replica.answer().await, Err(CreateError::Unavailable { .. })));
    assert_eq!(replica.recorded().len(), 1);
}
