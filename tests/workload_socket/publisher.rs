//! When the publisher renews, and what it does when it can't. Time is paused: it jumps to the next thing that is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use countersign::{
    domain::x509::{TrustBundle, X509Svid},
    service::{ca_roots::followed_roots, ports::SelfCheck, svid_publisher::Expectation},
};
use tokio::time::{Instant, sleep};

use crate::support::{Behaviour, Running, TRUST_DOMAIN, TestAuthority, TestClock, id};

fn good() -> Behaviour {
    Behaviour::SignFor(id())
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn svid(running: &Running) -> Arc<X509Svid> {
    running.published().expect("something is published").svid.clone().expect("an SVID is published")
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_of_the_remaining_life_with_a_new_key() {
    let mut running = Running::start(good(), 3600);
    let first = running.next().await;
    assert_eq!(first.revision, 1);
    assert_eq!(first.id, id());
    assert_eq!(first.bundle.to_pem(), running.authority.root_pem());
    let first = svid(&running);
    sleep(seconds(1780)).await;
    assert_eq!(running.revision(), 1, "not due before 49.5 %");
    sleep(seconds(40)).await;
    assert_eq!(running.revision(), 2, "due before 50.5 %");
    let second = svid(&running);
    assert_ne!(first.leaf().serial(), second.leaf().serial());
    assert_ne!(first.key().pkcs8(), second.key().pkcs8());
    assert_eq!(running.stats.renewals(), 2);
    assert_eq!(running.stats.not_after_seconds(), second.leaf().not_after().seconds());
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_comes_late_is_noticed_within_a_second() {
    let mut running = Running::start(Behaviour::Down, 3600);
    sleep(seconds(600)).await;
    assert!(running.published().is_none());
    assert!((600..1000).contains(&running.authority.calls()), "{} calls", running.authority.calls());
    assert!(running.stats.failures() >= 600);
    running.authority.behave(good());
    let up = Instant::now();
    running.next().await;
    assert!(up.elapsed() <= seconds(1));
}

#[tokio::test(start_paused = true)]
async fn keeps_the_last_svid_until_it_expires_withdraws_it_once_and_recovers() {
    let mut running = Running::start(good(), 60);
    let bundle = Arc::clone(&running.next().await.bundle);
    running.authority.behave(Behaviour::Down);
    sleep(Duration::from_millis(59_000)).await;
    assert_eq!(running.revision(), 1);
    assert!(running.stats.failures() > 10);
    sleep(seconds(2)).await;
    let withdrawn = running.published().unwrap();
    assert!(withdrawn.svid.is_none());
    assert_eq!((withdrawn.revision, &withdrawn.id), (2, &id()));
    assert_eq!(withdrawn.bundle, bundle);
    assert_eq!(running.stats.not_after_seconds(), 0);
    sleep(seconds(600)).await;
    assert_eq!(running.revision(), 2);
    running.authority.behave(good());
    assert_eq!(running.next().await.revision, 3);
}

#[tokio::test(start_paused = true)]
async fn a_hung_authority_neither_stops_the_withdrawal_nor_the_recovery() {
    let mut running = Running::start(good(), 60);
    running.next().await;
    running.authority.behave(Behaviour::Hung);
    sleep(seconds(61)).await;
    assert!(running.published().unwrap().svid.is_none());
    running.authority.behave(good());
    assert_eq!(running.next().await.revision, 3);
    assert!(running.stats.failures() >= 1);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_for_us_are_never_published() {
    let foreign = TestAuthority::new(&TestClock::new()).root_pem();
    let running = Running::start(good(), 3600);
    sleep(seconds(1)).await;
    for (bad, why) in [
        (Behaviour::SignFor("spiffe://cluster.local/ns/default/sa/other".parse().unwrap()), "another account"),
        (Behaviour::SignFor("spiffe://elsewhere/ns/default/sa/gateway".parse().unwrap()), "another trust domain"),
        (Behaviour::OtherKey, "another key"),
        (Behaviour::Roots(foreign), "roots that the chain does not lead to"),
        (Behaviour::Roots(String::new()), "no roots"),
        (Behaviour::Roots("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()), "no certificate"),
    ] {
        let before = (running.revision(), running.stats.failures());
        running.authority.behave(bad);
        running.renew_now.notify_one();
        sleep(seconds(1)).await;
        assert_eq!(running.revision(), before.0, "{why}");
        assert!(running.stats.failures() > before.1, "{why}");
        assert_eq!(running.authority.unusable(), running.stats.failures(), "{why}: the authority is told");
    }
    running.authority.behave(good());
    sleep(seconds(6)).await;
    assert_eq!(running.revision(), 2);
    running.authority.behave(Behaviour::Down);
    let told = running.authority.unusable();
    running.renew_now.notify_one();
    sleep(seconds(1)).await;
    assert_eq!(running.authority.unusable(), told, "without an answer there is nothing to tell");
}

#[tokio::test(start_paused = true)]
async fn the_first_identity_of_the_trust_domain_is_the_only_one_from_then_on() {
    let any = || Expectation::AnyIn(TRUST_DOMAIN.parse().unwrap());
    let elsewhere = Behaviour::SignFor("spiffe://elsewhere/ns/default/sa/gateway".parse().unwrap());
    let mut running = Running::start_expecting(any(), elsewhere, 3600);
    sleep(seconds(5)).await;
    assert!(running.published().is_none(), "another trust domain");
    running.authority.behave(good());
    assert_eq!(running.next().await.id, id());
    running.authority.behave(Behaviour::SignFor("spiffe://cluster.local/ns/default/sa/other".parse().unwrap()));
    running.renew_now.notify_one();
    sleep(seconds(5)).await;
    assert_eq!(running.revision(), 1, "another account");
}

#[tokio::test(start_paused = true)]
async fn an_svid_from_the_future_waits_for_its_time() {
    // NotBefore lies two minutes before the authority's clock.
    let mut running = Running::start(Behaviour::Ahead(seconds(150)), 3600);
    let start = Instant::now();
    sleep(seconds(29)).await;
    assert!(running.published().is_none());
    running.next().await;
    assert!((seconds(29)..seconds(32)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((running.authority.calls(), running.stats.failures()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_far_off_is_a_failure() {
    let mut running = Running::start(Behaviour::Ahead(seconds(3600)), 3600);
    sleep(seconds(60)).await;
    assert!(running.published().is_none());
    assert!(running.stats.failures() > 50);
    running.authority.behave(good());
    running.next().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_said_while_it_is() {
    let running = Running::start(Behaviour::Ahead(seconds(150)), 3600);
    let trouble = running.stats.trouble();
    let said = || trouble.borrow().clone().unwrap_or_default();
    sleep(seconds(5)).await;
    assert!(said().starts_with("ClockSkew: "), "{}", said());
    assert!((20..=30).contains(&running.stats.skew_seconds()), "{}", running.stats.skew_seconds());
    sleep(seconds(30)).await;
    assert_eq!((running.revision(), &*said(), running.stats.skew_seconds()), (1, "", 0));
    running.authority.behave(Behaviour::Down);
    running.renew_now.notify_one();
    sleep(seconds(5)).await;
    assert!(said().contains("the test has switched it off"), "{}", said());
    running.authority.behave(Behaviour::Ahead(seconds(7200)));
    sleep(seconds(5)).await;
    assert!(said().starts_with("ClockSkew: ") && running.stats.skew_seconds() > 7000, "{}", said());
    running.authority.behave(good());
    sleep(seconds(5)).await;
    assert_eq!((&*said(), running.stats.skew_seconds()), ("", 0));
}

/// The authority's NotAfter is meant by its clock, which is right.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_makes_nothing_live_longer() {
    let running = Running::start(Behaviour::Ahead(seconds(300)), 3600);
    let start = Instant::now();
    sleep(seconds(179)).await;
    assert_eq!(running.revision(), 0, "not valid yet by the own clock");
    sleep(seconds(3)).await;
    assert_eq!(running.revision(), 1);
    running.authority.behave(Behaviour::Down);
    sleep(seconds(3599) - start.elapsed()).await;
    assert!(running.published().unwrap().svid.is_some());
    sleep(seconds(2)).await;
    assert!(running.published().unwrap().svid.is_none(), "expired by the authority's clock");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_renews_early_and_serves_nothing_expired() {
    let mut running = Running::start(Behaviour::Behind(seconds(300)), 3600);
    running.next().await;
    sleep(seconds(1620)).await;
    assert_eq!(running.revision(), 1);
    sleep(seconds(60)).await;
    assert_eq!(running.revision(), 2, "half of 55 minutes");
    running.authority.behave(Behaviour::Down);
    sleep(seconds(3300)).await;
    assert!(running.published().unwrap().svid.is_none());
    // one that has expired when it comes is never published
    running.authority.behave(Behaviour::Behind(seconds(4000)));
    sleep(seconds(60)).await;
    assert!(running.published().unwrap().svid.is_none());
    assert!(running.stats.rejections() > 10, "{}", running.stats.rejections());
}

/// Says what it is told to.
struct Verdict(AtomicBool);

impl SelfCheck for Verdict {
    fn check(&self, _: &X509Svid, _: &TrustBundle) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Ok(()) } else { Err("as a client: no".into()) }
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_a_handshake_with_itself_never_replaces_a_good_one() {
    let verdict = Arc::new(Verdict(AtomicBool::new(true)));
    let check = Arc::clone(&verdict);
    let mut running =
        Running::start_as(Expectation::Exactly(id()), good(), 60, |publisher| publisher.checked_by(check));
    running.next().await;
    let first = svid(&running);
    verdict.0.store(false, Ordering::Relaxed);
    sleep(seconds(50)).await;
    assert_eq!(svid(&running).leaf().serial(), first.leaf().serial());
    let (rejected, failed) = (running.stats.rejections(), running.stats.failures());
    assert!(rejected > 5 && rejected == failed, "{rejected} of {failed}");
    sleep(seconds(15)).await;
    assert!(running.published().unwrap().svid.is_none(), "nor does it outlive its time");
    verdict.0.store(true, Ordering::Relaxed);
    running.next().await;
    assert_ne!(svid(&running).leaf().serial(), first.leaf().serial());
}

#[tokio::test(start_paused = true)]
async fn a_named_source_of_the_trust_bundle_is_followed_exactly_and_at_once() {
    let (follower, roots) = followed_roots("a place");
    let mut running =
        Running::start_as(Expectation::Exactly(id()), good(), 3600, |publisher| publisher.with_bundle_of(roots));
    let first = running.next().await;
    assert_eq!(first.bundle.to_pem(), running.authority.root_pem(), "the authority's until it answers");
    let (own, other) = (running.authority.root_pem(), TestAuthority::new(&TestClock::new()).root_pem());
    let both = format!("{own}{other}");
    for (revision, set) in (2..).zip([&both, &other, &own]) {
        follower.found(set.as_bytes()).unwrap();
        let told = Instant::now();
        let now = running.next().await;
        assert_eq!((now.revision, &now.bundle.to_pem()), (revision, set));
        assert_eq!(now.svid.as_ref().unwrap().leaf(), first.svid.as_ref().unwrap().leaf());
        assert!(told.elapsed() < seconds(1));
    }
    follower.found(both.as_bytes()).unwrap();
    running.next().await;
    running.renew_now.notify_one();
    let renewed = running.next().await;
    assert_ne!(renewed.svid.as_ref().unwrap().leaf(), first.svid.as_ref().unwrap().leaf());
    assert_eq!(renewed.bundle.to_pem(), both, "and not the roots of the answer");
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_the_named_source_does_not_verify_is_not_published_and_asked_for_again_when_it_changes() {
    let (follower, roots) = followed_roots("a place");
    let mut running =
        Running::start_as(Expectation::Exactly(id()), good(), 3600, |publisher| publisher.with_bundle_of(roots));
    let first = running.next().await;
    let (own, other) = (running.authority.root_pem(), TestAuthority::new(&TestClock::new()).root_pem());
    follower.found(other.as_bytes()).unwrap();
    running.next().await;
    running.renew_now.notify_one();
    sleep(seconds(60)).await;
    let kept = running.published().unwrap();
    assert_eq!((kept.revision, kept.bundle.to_pem()), (2, other.clone()));
    assert_eq!(kept.svid.as_ref().unwrap().leaf(), first.svid.as_ref().unwrap().leaf(), "the old one stays");
    let trouble = running.stats.trouble().borrow().clone().unwrap();
    assert!(trouble.contains("handshake with itself by the trust bundle of now"), "{trouble}");
    assert!(running.stats.rejections() > 10);

    follower.found(format!("{other}{own}").as_bytes()).unwrap();
    sleep(Duration::from_millis(50)).await;
    let renewed = running.published().unwrap();
    assert_eq!(renewed.revision, 4, "the roots and a new SVID, both at once");
    assert_ne!(renewed.svid.as_ref().unwrap().leaf(), first.svid.as_ref().unwrap().leaf());
    assert!(running.stats.trouble().borrow().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_first_svid_that_the_named_source_does_not_verify_waits_for_it() {
    let (follower, roots) = followed_roots("a place");
    let other = TestAuthority::new(&TestClock::new()).root_pem();
    follower.found(other.as_bytes()).unwrap();
    let mut running =
        Running::start_as(Expectation::Exactly(id()), good(), 3600, |publisher| publisher.with_bundle_of(roots));
    sleep(seconds(60)).await;
    assert!(running.published().is_none() && running.stats.rejections() > 10);
    let own = running.authority.root_pem();
    follower.found(own.as_bytes()).unwrap();
    assert_eq!(running.next().await.bundle.to_pem(), own);
}

#[tokio::test(start_paused = true)]
async fn renews_at_once_when_told() {
    let mut running = Running::start(good(), 3600);
    running.next().await;
    let told = Instant::now();
    running.renew_now.notify_one();
    assert_eq!(running.next().await.revision, 2);
    assert!(told.elapsed() < seconds(1));
    sleep(seconds(60)).await;
    assert_eq!(running.revision(), 2, "once");
}
