use tokio::time::advance;

use super::{
    lost::{LOST_FOR, NAMED_AT_MOST, NAMED_OF_ONE},
    streams::{KNOWN_FOR, OF_ONE_IDENTITY},
    *,
};

fn follower(name: &str) -> Follower {
    follower_of("gateway", name)
}

fn follower_of(identity: &str, name: &str) -> Follower {
    Follower { identity: format!("spiffe://td/{identity}").parse().unwrap(), instance: name.into() }
}

fn reached(followers: &TrustFollowers) -> Vec<(String, u64)> {
    followers.reached().into_iter().map(|Reached { who, sequence }| (who, sequence)).collect()
}

fn one(name: &str, sequence: u64) -> (String, u64) {
    (format!("agent {name} of spiffe://td/gateway"), sequence)
}

#[tokio::test(start_paused = true)]
async fn a_follower_stays_known_for_a_while_and_what_it_said_last_counts() {
    let followers = Arc::new(TrustFollowers::default());
    let first = followers.open(follower("a")).unwrap();
    assert_eq!(reached(&followers), [one("a", 0)]);
    first.says(3);
    let second = followers.open(follower("a")).unwrap();
    assert_eq!(reached(&followers), [one("a", 0)], "the new stream has said nothing yet");
    second.says(4);
    drop(first);
    assert_eq!(reached(&followers), [one("a", 4)]);
    drop(second);
    advance(KNOWN_FOR - Duration::from_millis(1)).await;
    assert_eq!(reached(&followers), [one("a", 4)]);
    advance(Duration::from_millis(1)).await;
    assert_eq!(reached(&followers), []);
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_passes_on_is_known_here_and_not_passed_on_again() {
    let followers = Arc::new(TrustFollowers::default());
    let (_own, mut passed) = (followers.open(follower("own")).unwrap(), followers.passed());
    passed.are(vec![(follower("a"), Standing::Follows(1)), (follower("b"), Standing::Follows(2))]).unwrap();
    assert_eq!(reached(&followers), [one("a", 1), one("b", 2), one("own", 0)]);
    assert_eq!(followers.here(), [(follower("own"), Standing::Follows(0))]);
    passed.are(vec![(follower("a"), Standing::Follows(2))]).unwrap();
    assert_eq!(reached(&followers), [one("a", 2), one("b", 2), one("own", 0)], "b may be on its way here");
    advance(KNOWN_FOR).await;
    assert_eq!(reached(&followers), [one("a", 2), one("own", 0)]);
    drop(passed);
    advance(KNOWN_FOR).await;
    assert_eq!(reached(&followers), [one("own", 0)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_the_active_nobody_counts_as_reached_for_a_while() {
    let followers = TrustFollowers::default();
    followers.take_over(Term::new(1), None);
    let [(who, 0)] = &reached(&followers)[..] else { panic!("nothing is waited for") };
    assert!(who.contains("15 s left") || who.contains("16 s left"), "{who}");
    advance(GATHERING).await;
    assert_eq!(reached(&followers), []);
}

#[tokio::test]
async fn changes_of_those_here_are_told() {
    let followers = Arc::new(TrustFollowers::default());
    let mut changes = followers.changes();
    let mut passed = followers.passed();
    passed.are(vec![(follower("a"), Standing::Follows(1))]).unwrap();
    assert!(!changes.has_changed().unwrap(), "it is told of elsewhere");
    let stream = followers.open(follower("b")).unwrap();
    stream.says(1);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    drop(stream);
    assert!(changes.has_changed().unwrap());
}

fn lost(followers: &TrustFollowers) -> Vec<(String, u64)> {
    followers.lost_agents().into_iter().map(|Reached { who, sequence }| (who, sequence)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_lost_without_a_word_is_remembered_for_a_day_and_one_that_ends_is_not() {
    let followers = Arc::new(TrustFollowers::default());
    let [cut_off, back, ends] = ["cut-off", "back", "ends"].map(|name| followers.open(follower(name)).unwrap());
    for stream in [&cut_off, &back, &ends] {
        stream.says(3);
    }
    ends.leaves();
    assert!(followers.here().contains(&(follower("ends"), Standing::Left)), "other replicas are told");
    drop((cut_off, back));
    advance(KNOWN_FOR).await;
    assert_eq!((reached(&followers), lost(&followers).len()), (Vec::new(), 2));
    let _again = followers.open(follower("back")).unwrap();
    advance(LOST_FOR - KNOWN_FOR - Duration::from_secs(1)).await;
    let [(who, 3)] = &lost(&followers)[..] else { panic!("{:?}", lost(&followers)) };
    assert!(who.starts_with("agent cut-off of spiffe://td/gateway, lost sight of 1440 min ago"), "{who}");
    advance(Duration::from_secs(1)).await;
    assert_eq!(lost(&followers), []);
}

#[tokio::test(start_paused = true)]
async fn who_has_said_at_another_replica_that_it_ends_is_lost_nowhere() {
    let followers = Arc::new(TrustFollowers::default());
    let (here, mut passed) = (followers.open(follower("a")).unwrap(), followers.passed());
    here.says(1);
    drop(here);
    let follows = Standing::Follows(1);
    passed.are(vec![(follower("a"), follows), (follower("b"), follows), (follower("c"), follows)]).unwrap();
    passed.are(vec![(follower("a"), Standing::Left), (follower("b"), Standing::Left)]).unwrap();
    assert_eq!(reached(&followers), [one("c", 1)]);
    advance(KNOWN_FOR).await;
    assert_eq!(lost(&followers).len(), 1, "c was lost there");
    passed.are(vec![(follower("c"), Standing::Left)]).unwrap();
    assert_eq!(lost(&followers), []);
}

#[tokio::test(start_paused = true)]
async fn a_replica_counts_while_it_follows_and_for_a_day_after_it_was_lost_unless_another_process_takes_its_place() {
    let followers = Arc::new(TrustFollowers::default());
    let replica = followers.open_process("pod-b-11").unwrap();
    replica.says(4);
    assert_eq!((reached(&followers), followers.here()), (vec![("replica pod-b".into(), 4)], Vec::new()));
    drop(replica);
    advance(KNOWN_FOR).await;
    let [(who, 4)] = &reached(&followers)[..] else { panic!("{:?}", reached(&followers)) };
    assert!(who.starts_with("replica pod-b, lost sight of 1 min ago and waited for 1440 min longer"), "{who}");
    assert_eq!(lost(&followers), [], "it is no agent");
    let anew = followers.open_pod("pod-b").unwrap();
    assert_eq!(reached(&followers), [("replica pod-b".into(), 0)]);
    anew.leaves();
    assert_eq!(reached(&followers), []);

    followers.take_over(Term::new(2), Some(("pod-c-33", 2)));
    advance(GATHERING).await;
    assert_eq!(reached(&followers).len(), 1);
    let back = followers.open_pod("pod-c").unwrap();
    assert_eq!(reached(&followers), [("replica pod-c".into(), 0)]);
    back.leaves();
    followers.take_over(Term::new(4), Some(("pod-c-44", 2)));
    advance(GATHERING).await;
    assert_eq!(reached(&followers).len(), 1);
    followers.take_over(Term::new(5), None);
    advance(GATHERING).await;
    assert_eq!(reached(&followers).len(), 1, "nobody else was active since it was lost");
    followers.take_over(Term::new(7), None);
    advance(GATHERING).await;
    assert_eq!(reached(&followers), [], "another one was, and knows better");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_lost_is_remembered_by_name_in_the_own_next_term_alone() {
    for (next, remembered) in [(4, 1), (5, 0)] {
        let followers = Arc::new(TrustFollowers::default());
        followers.take_over(Term::new(3), None);
        followers.open(follower("cut-off")).unwrap().says(1);
        advance(KNOWN_FOR).await;
        assert_eq!(lost(&followers).len(), 1);
        followers.take_over(Term::new(next), None);
        assert_eq!(lost(&followers).len(), remembered, "term {next} after 3");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_not_active_before_waits_a_day_for_agents_that_others_may_have_lost() {
    let followers = Arc::new(TrustFollowers::default());
    followers.take_over(Term::new(7), None);
    advance(LOST_FOR - Duration::from_secs(60)).await;
    let Some(Reached { who, sequence: 0 }) = followers.lost_by_others() else { panic!("nobody is waited for") };
    assert!(who.contains("became active 1439 min ago, which is waited for 1 min longer"), "{who}");
    followers.take_over(Term::new(8), None);
    advance(Duration::from_secs(60)).await;
    assert_eq!(followers.lost_by_others(), None, "nobody else was active in between");
}

#[tokio::test(start_paused = true)]
async fn a_term_begins_once_whoever_says_so() {
    let followers = TrustFollowers::default();
    Followers::begin_term(&followers, Term::new(1));
    assert_eq!(reached(&followers).len(), 1, "whoever asks first hears of it");
    advance(GATHERING / 2).await;
    followers.take_over(Term::new(1), Some(("pod-c-33", 2)));
    advance(GATHERING / 2).await;
    let [(who, 2)] = &reached(&followers)[..] else { panic!("{:?}", reached(&followers)) };
    assert!(who.starts_with("replica pod-c"), "{who}");
}

#[tokio::test(start_paused = true)]
async fn an_old_stream_of_a_replica_that_is_over_says_nothing_of_its_newer_one() {
    let followers = Arc::new(TrustFollowers::default());
    let old = followers.open_process("serve-1-11").unwrap();
    old.says(4);
    let new = followers.open_process("serve-1-22").unwrap();
    new.says(5);
    old.leaves();
    assert_eq!(reached(&followers), [("replica serve-1".into(), 5)]);
    new.leaves();
    assert_eq!(reached(&followers), []);
}

#[tokio::test(start_paused = true)]
async fn beyond_those_that_have_room_by_name_the_furthest_behind_counts() {
    let followers = Arc::new(TrustFollowers::default());
    // of four identities, each of which may have a quarter
    for number in 0..NAMED_AT_MOST + 2 {
        let stream = followers.open(follower_of(&(number % 4).to_string(), &number.to_string())).unwrap();
        stream.says(if number == 1 { 5 } else { 6 });
        drop(stream);
        advance(Duration::from_millis(1)).await;
    }
    advance(KNOWN_FOR).await;
    let lost = lost(&followers);
    assert_eq!(lost.len(), NAMED_AT_MOST + 1);
    assert_eq!(lost.iter().map(|(_, sequence)| *sequence).min(), Some(5));
    assert!(lost.last().is_some_and(|(who, sequence)| who.contains("before others") && *sequence == 5), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_opens_and_closes_takes_no_place_from_others_and_those_it_loses_count_without_a_name() {
    let followers = Arc::new(TrustFollowers::default());
    let cut_off = followers.open(follower_of("other", "cut-off")).unwrap();
    cut_off.says(9);
    drop(cut_off);
    let opened = OF_ONE_IDENTITY + 100;
    for number in 0..opened {
        let stream = followers.open(follower(&number.to_string())).unwrap();
        stream.says(if number == 3 { 7 } else { 8 });
        drop(stream);
        advance(Duration::from_micros(100)).await;
    }
    let mut passed = followers.passed();
    passed.are(vec![(follower_of("other", "a"), Standing::Follows(9))]).unwrap();
    let _standby = followers.open_pod("pod-b").unwrap();
    let reached = reached(&followers);
    assert_eq!(reached.len(), OF_ONE_IDENTITY + 4, "by name, the one without, and three others");
    let made_room = "one of the agents that have made room for others of their identity";
    assert!(reached.contains(&(made_room.to_owned(), 7)), "{:?}", reached.last());
    assert!(lost(&followers).iter().any(|(who, sequence)| who.contains("before others") && *sequence == 7));

    advance(KNOWN_FOR).await;
    assert_eq!(followers.reached().len(), 2, "whoever is there");
    let lost = lost(&followers);
    assert_eq!(lost.len(), NAMED_OF_ONE + 2);
    assert!(
        lost.iter().any(|(who, _)| who.starts_with("agent cut-off of spiffe://td/other")),
        "the other one has its name"
    );
    assert!(lost.iter().any(|(who, _)| who.starts_with(&format!("agent {} of", opened - 1))), "the newest have theirs");
    advance(LOST_FOR).await;
    assert_eq!(followers.lost_agents(), []);
}

#[tokio::test(start_paused = true)]
async fn who_makes_room_and_has_come_back_or_has_left_is_not_waited_for() {
    let followers = Arc::new(TrustFollowers::default());
    let back = followers.open(follower("back")).unwrap();
    let _back = followers.open(follower("back")).unwrap();
    drop(back);
    followers.open(follower("leaves")).unwrap().leaves();
    let _open: Vec<_> =
        (0..OF_ONE_IDENTITY - 1).map(|number| followers.open(follower(&number.to_string())).unwrap()).collect();
    let _further = followers.open(follower("beyond, and none is gone any more")).unwrap();
    assert!(reached(&followers).iter().all(|(who, _)| who.starts_with("agent ")), "nobody counts without a name");
    assert_eq!(lost(&followers), []);
}
