//! Files that are followed: what of them is taken, and when.

use super::*;

/// As long as a change takes at the most until it is published.
const TAKEN: Duration = Duration::from_secs(6);
/// As long as a mount may be behind.
const DELIVERED: Duration = Duration::from_secs(96);

fn in_a_file() -> Vec<ConfiguredPartner> {
    let source = BundleSource::File("/roots.pem".into());
    let relationship = Relationship { trust_domain: "other".parse().unwrap(), source };
    vec![ConfiguredPartner { relationship, bootstrap: None }]
}

fn pem(roots: &[&Certificate]) -> Vec<u8> {
    roots.iter().map(|root| root.to_pem()).collect::<String>().into_bytes()
}

fn nobody() -> Script {
    Box::new(|_| panic!("an endpoint is asked"))
}

impl World {
    /// Of `other`; empty while nothing is known of it.
    fn roots(&self) -> Vec<Certificate> {
        self.published().into_iter().flat_map(|bundle| bundle.x509_authorities).collect()
    }

    async fn trouble(&self) -> Option<String> {
        let [listed] = self.order(FederationOrder::List).await.unwrap().try_into().unwrap();
        listed.trouble
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_a_file_is_published_exactly_and_stays_while_there_is_nothing_good() {
    let (old, new) = (authority_of("other"), authority_of("other"));
    let world = World::new(nobody(), in_a_file());
    let running = world.run();
    sleep(TAKEN).await;
    assert_eq!((world.roots(), world.trouble().await), (Vec::new(), Some("entity not found".into())));

    let both = pem(&[&old, &new]);
    let document = bundle(7, &old).to_json().into_bytes();
    let damaged = pem(&[&old]).into_iter().take(200).collect::<Vec<_>>();
    let none = b"{\"keys\": []}".to_vec();
    for (what, content, roots, trouble) in [
        ("it comes", Some(&pem(&[&old])), vec![&old], None),
        ("a root more", Some(&both), vec![&old, &new], None),
        ("it goes", None, vec![&old, &new], Some("entity not found")),
        ("it is empty", Some(&Vec::new()), vec![&old, &new], Some("certificate")),
        ("it is damaged", Some(&damaged), vec![&old, &new], Some("PEM")),
        ("it has no root", Some(&none), vec![&old, &new], Some("no X.509 authority")),
        ("a root less", Some(&pem(&[&new])), vec![&new], None),
        ("back", Some(&both), vec![&old, &new], None),
        ("a document", Some(&document), vec![&old], None),
        ("an old document", Some(&bundle(6, &new).to_json().into_bytes()), vec![&old], Some("sequence is 6")),
    ] {
        world.file.set(content.map(Vec::as_slice));
        sleep(TAKEN).await;
        assert_eq!(world.roots().iter().collect::<Vec<_>>(), roots, "{what}");
        let said = world.trouble().await;
        match trouble {
            None => assert_eq!(said, None, "{what}"),
            Some(trouble) => assert!(said.as_ref().is_some_and(|said| said.contains(trouble)), "{what}: {said:?}"),
        }
    }
    for outcome in ["unreachable", "invalid", "outdated", "updated"] {
        assert!(world.fetches(outcome) > 0, "{outcome}");
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_stays_the_same_is_written_once_an_hour_and_shows_when_it_was_read() {
    let (store, root) = (Arc::<Memory>::default(), authority_of("other"));
    let world = World::over(&store, nobody(), in_a_file());
    let version = || store.load(StateObject::Trust).unwrap().unwrap().version;
    let (running, before) = (world.run(), version());
    world.file.set(Some(&pem(&[&root])));
    sleep(Duration::from_secs(3 * 3600)).await;
    let writes = version() - before;
    assert!((3..=5).contains(&writes), "{writes} writes");
    let shown = |family: &str| -> i64 {
        let start = format!("countersign_federated_bundle_{family}_seconds{{trust_domain=\"other\"}} ");
        world.metrics.encode().lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    let (read, now) = (shown("fetched_timestamp"), NOW.plus(Duration::from_secs(3 * 3600)).seconds());
    assert!((now - 6..=now).contains(&read), "{}", now - read);
    assert_eq!(shown("interval"), 60);
    world.file.set(None);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(shown("fetched_timestamp"), read, "it grows old when it can't be read");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_new_active_whose_mount_is_behind_takes_nothing_back() {
    let (old, new, newer) = (authority_of("other"), authority_of("other"), authority_of("other"));
    let store = Arc::<Memory>::default();
    let before = World::over(&store, nobody(), in_a_file());
    let running = before.run();
    before.file.set(Some(&pem(&[&old])));
    sleep(TAKEN).await;
    before.file.set(Some(&pem(&[&new])));
    sleep(TAKEN).await;
    assert_eq!(before.roots(), std::slice::from_ref(&new));
    running.abort();

    // it has what the other one has replaced, until it is delivered
    let behind = World::over(&store, nobody(), in_a_file());
    behind.file.set(Some(&pem(&[&old])));
    let running = behind.run();
    for _ in 0..14 {
        sleep(TAKEN).await;
        assert_eq!(behind.roots(), std::slice::from_ref(&new));
    }
    assert!(behind.trouble().await.is_some_and(|said| said.contains("was replaced")));
    behind.file.set(Some(&pem(&[&new])));
    sleep(TAKEN).await;
    assert_eq!((behind.roots(), behind.trouble().await), (vec![new.clone()], None));
    // from now on it is known to be followed, and whoever goes back may
    behind.file.set(Some(&pem(&[&old])));
    sleep(TAKEN).await;
    assert_eq!(behind.roots(), std::slice::from_ref(&old));
    running.abort();

    // what nobody has replaced is news at once
    let ahead = World::over(&store, nobody(), in_a_file());
    ahead.file.set(Some(&pem(&[&newer])));
    let running = ahead.run();
    sleep(TAKEN).await;
    assert_eq!(ahead.roots(), std::slice::from_ref(&newer));
    running.abort();

    // what stays for longer than a mount can be behind is what there is
    let back = World::over(&store, nobody(), in_a_file());
    back.file.set(Some(&pem(&[&old])));
    let running = back.run();
    sleep(TAKEN).await;
    assert_eq!(back.roots(), std::slice::from_ref(&newer));
    sleep(DELIVERED).await;
    assert_eq!((back.roots(), back.trouble().await), (vec![old], None));
    running.abort();
}
