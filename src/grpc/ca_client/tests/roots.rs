use super::*;

#[tokio::test]
async fn roots_that_were_read_last_go_on_while_the_file_is_no_good() {
    let world = World::new();
    let client = world.client(&[&world.good_ca().await]);
    assert_eq!(sign(&client).await.err(), None);
    for broken in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        world.write_roots(broken);
        assert_eq!(sign(&client).await.err(), None, "{broken:?}");
    }
    fs::remove_file(world.files.path().join("roots")).unwrap();
    assert_eq!(sign(&client).await.err(), None);

    // a good file counts again at once
    world.write_roots(&World::new().authority.bundle().to_pem());
    assert!(matches!(sign(&client).await, Err(SignError::Unavailable(_))));
}

#[tokio::test]
async fn without_any_good_roots_nobody_is_asked() {
    let world = World::new();
    world.write_roots("no PEM");
    let error = sign(&world.client(&[&world.good_ca().await])).await.unwrap_err();
    assert!(matches!(&error, SignError::NotDetected(said) if said.contains("root file ")), "{error}");
}

#[tokio::test]
async fn a_ca_may_be_known_by_its_identity_whatever_its_names() {
    let (world, ours, other) = (World::new(), ID.parse().unwrap(), "spiffe://cluster.local/ns/a/sa/b".parse().unwrap());
    let nameless = serve(Fixed(Ok(world.issued().1), Duration::ZERO), &world.issued_with(&[]).0).await;
    for (accepted, is_good) in
        [(vec![], false), (vec![SpiffeId::clone(&other)], false), (vec![other, SpiffeId::clone(&ours)], true)]
    {
        let said = sign(&world.client(&[&nameless]).accepting(accepted.clone())).await;
        assert_eq!(said.is_ok(), is_good, "{accepted:?}: {:?}", said.err());
    }
    // it is no way around the roots
    let foreign = World::new();
    let impostor = serve(Fixed(Ok(world.issued().1), Duration::ZERO), &foreign.issued_with(&[]).0).await;
    assert!(sign(&world.client(&[&impostor]).accepting(vec![ours.clone()])).await.is_err());
    // and a DNS name is still good
    assert_eq!(sign(&world.client(&[&world.good_ca().await]).accepting(vec![ours])).await.err(), None);
}

fn client_of(address: &str, world: &World, roots: CaRoots) -> CaClient {
    let endpoints = vec![CaEndpoint { address: address.to_owned(), server_name: "localhost".into() }];
    CaClient::new(endpoints, world.files.path().join("token"), roots, Arc::new(SystemNow))
}

#[tokio::test]
async fn either_source_of_roots_is_good_enough_and_they_are_looked_at_again_when_none_is() {
    let (world, other) = (World::new(), World::new());
    let (good, stale) = (world.authority.bundle().to_pem(), other.authority.bundle().to_pem());
    let ca = world.good_ca().await;
    let file = || Some(world.files.path().join("roots"));

    let (follower, roots) = followed_roots("ConfigMap a/b");
    let client = client_of(&ca, &world, CaRoots::new(Some(roots), file()));
    assert_eq!(sign(&client).await.err(), None, "not read yet");
    follower.found(stale.as_bytes()).unwrap();
    assert_eq!(sign(&client).await.err(), None, "stale, but the file is new");
    follower.found(good.as_bytes()).unwrap();
    world.write_roots(&stale);
    assert_eq!(sign(&client).await.err(), None, "new, but the file is stale");
    assert!(
        timeout(Duration::from_millis(50), follower.wanted().notified()).await.is_err(),
        "nobody had to look again"
    );

    follower.found(stale.as_bytes()).unwrap();
    let refused = sign(&client).await.err();
    assert!(matches!(&refused, Some(SignError::Unavailable(said)) if said.contains("UnknownIssuer")), "{refused:?}");
    timeout(Duration::from_secs(1), follower.wanted().notified()).await.expect("somebody wants newer roots");
    follower.found(good.as_bytes()).unwrap();
    assert_eq!(sign(&client).await.err(), None, "and the connection is made anew with them");
}

#[tokio::test]
async fn a_change_of_either_source_is_told() {
    let world = World::new();
    let (follower, roots) = followed_roots("ConfigMap a/b");
    let roots = CaRoots::new(Some(roots), Some(world.files.path().join("roots")));
    let mut known = RootSets::new();
    roots.changed(&mut known).await;
    assert_eq!(known.len(), 1);
    assert!(timeout(Duration::from_millis(50), roots.changed(&mut known)).await.is_err(), "nothing changed");
    let same = world.authority.bundle().to_pem();
    follower.found(same.as_bytes()).unwrap();
    assert!(timeout(Duration::from_millis(50), roots.changed(&mut known)).await.is_err(), "the same again");
    follower.found(World::new().authority.bundle().to_pem().as_bytes()).unwrap();
    timeout(Duration::from_secs(1), roots.changed(&mut known)).await.unwrap();
    assert_eq!(known.len(), 2);
    world.write_roots(&World::new().authority.bundle().to_pem());
    timeout(Duration::from_secs(10), roots.changed(&mut known)).await.unwrap();
}
