//! Endpoints that are asked: when, and what their answers, or the lack of them, come to.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_flaps_for_an_hour_costs_no_bundle() {
    let (root, foreign) = (authority_of("other"), authority_of("third"));
    let began = Instant::now();
    let served = root.clone();
    let script: Script = Box::new(move |call| match call % 6 {
        0 => Some(Err("connection refused".into())),
        1 => None,
        2 => Some(Ok(b"<html>".to_vec())),
        3 => Some(Ok(bundle(1_000_000, &foreign).to_json().into_bytes())),
        4 => Some(Ok(bundle(0, &served).to_json().into_bytes())),
        // another sequence in each ten minutes
        _ => Some(Ok(bundle(2 + began.elapsed().as_secs() / 600, &served).to_json().into_bytes())),
    });
    let world = World::new(script, vec![configured(Some(bundle(1, &root)))]);
    let running = world.run();
    while world.kept().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    let mut newest = 0;
    while began.elapsed() < Duration::from_secs(3600) {
        sleep(Duration::from_secs(1)).await;
        let [published] = world.published().try_into().expect("one bundle, all the time");
        assert_eq!(published.x509_authorities, std::slice::from_ref(&root));
        let [kept] = world.kept().try_into().expect("one bundle, all the time");
        assert!(kept.sequence.unwrap() >= newest, "{kept:?} after {newest}");
        newest = kept.sequence.unwrap();
    }
    assert!(newest >= 6, "what good answers brought was taken: {newest}");
    let calls = world.fetcher.calls.load(Ordering::Relaxed);
    assert!((60..400).contains(&calls), "{calls} fetches in an hour");
    for outcome in ["unreachable", "invalid", "outdated", "updated"] {
        assert!(world.fetches(outcome) > 0, "{outcome}");
    }
    // nothing is fetched by who is not active
    world.sessions.send_replace(None);
    sleep(Duration::from_secs(1)).await;
    let calls = world.fetcher.calls.load(Ordering::Relaxed);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.fetcher.calls.load(Ordering::Relaxed), calls);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_holds_no_other_up() {
    let served = authority_of("other");
    let script: Script = Box::new(move |call| {
        Some(if call == 0 { Err("no route".into()) } else { Ok(bundle(3, &served).to_json().into_bytes()) })
    });
    let hanging = Relationship {
        trust_domain: "hangs".parse().unwrap(),
        source: BundleSource::Endpoint(BundleEndpoint {
            url: format!("https://{HANGS}/").parse().unwrap(),
            profile: EndpointProfile::HttpsWeb,
        }),
    };
    let world =
        World::new(script, vec![ConfiguredPartner { relationship: hanging, bootstrap: None }, configured(None)]);
    let running = world.run();
    // it is tried again 5 s after its failure, while the other one is still waited for
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.published().len(), 1);
    assert_eq!(world.fetches("unreachable"), 1);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.fetches("unreachable"), 2);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn that_a_bundle_was_fetched_again_unchanged_is_on_record_to_within_an_hour_and_written_no_oftener() {
    let (store, root) = (Arc::<Memory>::default(), authority_of("other"));
    let served = root.clone();
    let script: Script = Box::new(move |_| Some(Ok(bundle(5, &served).to_json().into_bytes())));
    let world = World::over(&store, script, vec![configured(None)]);
    let version = || store.load(StateObject::Trust).unwrap().unwrap().version;
    let (running, before) = (world.run(), version());
    const HOUR: Duration = Duration::from_secs(3600);
    sleep(HOUR * 3).await;
    assert!(world.fetches("unchanged") > 100);
    let writes = version() - before;
    assert!((3..=5).contains(&writes), "{writes} writes");
    let sequence = world.session.trust().borrow().as_ref().unwrap().sequence();
    running.abort();

    let next = World::over(&store, Box::new(|_| None), vec![configured(None)]);
    let [shown] = next.order(FederationOrder::List).await.unwrap().try_into().unwrap();
    let fetched_at = shown.fetched_at.expect("it was fetched");
    assert!(fetched_at > NOW.plus(HOUR * 2 - Duration::from_secs(120)), "{fetched_at}");
    let published = next.session.trust().borrow().as_ref().unwrap().sequence();
    assert_eq!(published, sequence, "nobody has anything to hear of it");
}

#[tokio::test(start_paused = true)]
async fn an_older_configuration_at_the_other_replica_undoes_nothing_that_was_fetched() {
    let (store, root) = (Arc::<Memory>::default(), authority_of("other"));
    let last = || store.load(StateObject::Trust).unwrap().unwrap().version;
    let kept_by = async |handed_over: u64, fetched: Option<u64>| {
        let root = root.clone();
        let served = root.clone();
        let script: Script =
            Box::new(move |_| fetched.map(|sequence| Ok(bundle(sequence, &served).to_json().into_bytes())));
        let world = World::over(&store, script, vec![configured(Some(bundle(handed_over, &root)))]);
        let running = world.run();
        sleep(Duration::from_secs(5)).await;
        running.abort();
        world.kept().iter().filter_map(|bundle| bundle.sequence).collect::<Vec<_>>()
    };
    assert_eq!(kept_by(1, None).await, [1]);
    assert_eq!(kept_by(2, None).await, [2], "another one");
    assert_eq!(kept_by(1, None).await, [1], "taken back: nothing better is known");
    assert_eq!(kept_by(2, Some(500)).await, [500]);
    let before = last();
    assert_eq!(kept_by(1, None).await, [500], "the replica that still has the older one");
    assert_eq!(kept_by(2, None).await, [500], "and the one that has the newer one");
    assert_eq!(last(), before, "nothing is written for it");
    for other in 3..20 {
        assert_eq!(kept_by(other, None).await, [other], "one that nobody has handed over before");
    }
}

#[tokio::test(start_paused = true)]
async fn another_endpoint_is_asked_soon_whatever_the_one_before_still_answers() {
    let served = authority_of("other");
    let world = World::new(Box::new(move |_| Some(Ok(bundle(5, &served).to_json().into_bytes()))), Vec::new());
    let running = world.run();
    let at = |host: &str| {
        let endpoint =
            BundleEndpoint { url: format!("https://{host}/").parse().unwrap(), profile: EndpointProfile::HttpsWeb };
        let trust_domain = "other".parse().unwrap();
        FederationOrder::Create(Box::new(NewPartner { trust_domain, endpoint, bundle: None, reason: None }))
    };
    let calls = || world.fetcher.calls.load(Ordering::Relaxed);
    world.order(at(SLOW)).await.unwrap();
    while calls() < 2 {
        sleep(Duration::from_millis(100)).await;
    }
    // the second answer, which is no news, is under way
    world.order(at("other.example")).await.unwrap();
    sleep(TIME_OF_SLOW + Duration::from_secs(6)).await;
    assert_eq!(calls(), 3, "the new endpoint is not asked");
    let [shown] = world.order(FederationOrder::List).await.unwrap().try_into().unwrap();
    assert_eq!(shown.trouble, None);
    running.abort();
}
