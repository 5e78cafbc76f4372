//! Istiods that come, go, restart and hang, on a clock that is turned by hand.

use std::sync::{Mutex, PoisonError};

use tokio::time::{advance, sleep};

use super::*;
use crate::domain::policy::{Change, ControlPlanePod, GatewayApiSafety, IstiodPod, PodFacts, PolicySnapshot, Sidecar};

/// What is said where, and how often that was asked for.
#[derive(Default)]
struct Said {
    answers: Mutex<BTreeMap<SocketAddr, (Option<&'static str>, usize)>>,
}

impl Said {
    fn set(&self, place: &str, answer: Option<&'static str>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.entry(place.parse().unwrap()).or_default().0 = answer;
    }

    fn asked(&self, place: &str) -> usize {
        self.answers.lock().unwrap().get(&place.parse().unwrap()).map_or(0, |(_, asked)| *asked)
    }
}

impl VersionSource for Said {
    fn version_at(&self, place: SocketAddr) -> BoxFuture<'_, Result<String, String>> {
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            let (answer, asked) = answers.entry(place).or_default();
            *asked += 1;
            *answer
        };
        Box::pin(async move {
            match answer {
                Some("hangs") => pending().await,
                Some(answer) => Ok(answer.to_owned()),
                None => Err("nobody is there".to_owned()),
            }
        })
    }
}

const ONE: &str = "10.0.0.1:15014";
const TWO: &str = "10.0.0.2:15014";

struct World {
    publisher: Arc<PolicyPublisher>,
    said: Arc<Said>,
}

impl World {
    fn start() -> Self {
        let publisher = Arc::new(PolicyPublisher::new("cluster.local".parse().unwrap(), "r"));
        publisher.apply(ClusterChange::Namespaces(Change::Reset(Vec::new())));
        publisher.apply(ClusterChange::Services(Change::Reset(Vec::new())));
        publisher.apply(ClusterChange::Pods(Change::Reset(Vec::new())));
        publisher.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        let said = Arc::new(Said::default());
        let source = Arc::clone(&said);
        tokio::spawn(Arc::clone(&publisher).run());
        tokio::spawn(IstioVersions::new(Arc::clone(&publisher), source).run());
        Self { publisher, said }
    }

    /// Pod `name` runs there as that instance; `None` while its container is down.
    fn put(&self, name: &str, place: Option<&str>, instance: &str) {
        self.put_of("default", name, place, instance);
    }

    fn put_of(&self, revision: &str, name: &str, place: Option<&str>, instance: &str) {
        let pod = IstiodPod {
            place: place.map(|place| place.parse().unwrap()),
            instance: instance.into(),
            ..IstiodPod::default()
        };
        self.publisher.apply(ClusterChange::Pods(Change::Put(PodFacts {
            object: ObjectName::new("istio-system", name),
            uid: name.into(),
            labels: Arc::new([("istio.io/rev", revision)].into_iter().collect()),
            account: "istio-system/istiod".parse().unwrap(),
            finished: false,
            sidecar: Sidecar::Excluded,
            ready_at: None,
            named_ports: None,
            control_plane: Some(Box::new(ControlPlanePod::Istiod(pod))),
        })));
    }

    fn gone(&self, name: &str) {
        self.publisher.apply(ClusterChange::Pods(Change::Gone(ObjectName::new("istio-system", name))));
    }

    async fn after(&self, time: Duration) -> String {
        // in steps, so that whoever waits for less wakes up
        let end = Instant::now() + time;
        while Instant::now() < end {
            advance(Duration::from_millis(50)).await;
            sleep(Duration::from_millis(1)).await;
        }
        let newest: Option<Arc<PolicySnapshot>> = self.publisher.follow().borrow().clone();
        match &newest.unwrap().control_planes.istio {
            GatewayApiSafety::Safe => "safe".to_owned(),
            GatewayApiSafety::Settling => "settling".to_owned(),
            GatewayApiSafety::Unsafe { pod, version } => format!("{} unsafe by {version}", pod.name),
            GatewayApiSafety::Unknown { pod, why, .. } => format!("{} unknown: {why}", pod.name),
            GatewayApiSafety::Elsewhere { pod } => format!("{} elsewhere", pod.name),
            GatewayApiSafety::Unseen { revision, .. } => format!("{revision} unseen"),
        }
    }

    async fn soon(&self) -> String {
        self.after(Duration::from_millis(200)).await
    }
}

#[tokio::test(start_paused = true)]
async fn each_istiod_is_asked_when_it_begins_to_run_and_the_lowest_decides() {
    let world = World::start();
    assert_eq!(world.soon().await, "safe", "there is none");
    world.said.set(ONE, Some("1.31.0-abc-Clean"));
    world.put("one", Some(ONE), "1");
    assert_eq!(world.soon().await, "safe");
    world.put("two", None, "");
    assert_eq!(world.soon().await, "safe", "the second one does not run yet");
    world.put("two", Some(TWO), "1");
    assert_eq!(world.soon().await, "settling");
    world.said.set(TWO, Some("1.29.1"));
    assert_eq!(world.after(Duration::from_secs(2)).await, "two unsafe by 1.29.1");
    world.put("two", None, "1");
    assert_eq!(world.after(Duration::from_secs(3600)).await, "two unsafe by 1.29.1", "its container will be back");
    world.gone("two");
    assert_eq!(world.soon().await, "safe");
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_is_asked_every_five_minutes_and_its_silence_then_means_nothing() {
    let world = World::start();
    world.said.set(ONE, Some("1.29.0"));
    world.put("one", Some(ONE), "1");
    assert_eq!(world.after(Duration::from_secs(290)).await, "one unsafe by 1.29.0");
    assert_eq!(world.said.asked(ONE), 1);
    world.said.set(ONE, Some("hangs"));
    assert_eq!(world.after(Duration::from_secs(700)).await, "one unsafe by 1.29.0");
    assert_eq!(world.said.asked(ONE), 4);
    world.said.set(ONE, Some("1.30.1"));
    assert_eq!(world.after(Duration::from_secs(310)).await, "safe");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_container_is_asked_again_and_counts_as_before_until_it_has_had_time_to_start() {
    let world = World::start();
    world.said.set(ONE, Some("1.31.0"));
    world.put("one", Some(ONE), "1");
    assert_eq!(world.soon().await, "safe");
    world.said.set(ONE, None);
    world.put("one", Some(ONE), "2");
    assert_eq!(world.after(Duration::from_secs(20)).await, "safe");
    assert!(world.said.asked(ONE) > 5);
    assert_eq!(world.after(Duration::from_secs(60)).await, "one unknown: nobody is there");
    let asked = world.said.asked(ONE);
    world.after(Duration::from_secs(600)).await;
    assert!((8..=12).contains(&(world.said.asked(ONE) - asked)), "once in a minute: {}", world.said.asked(ONE) - asked);
    world.said.set(ONE, Some("1.30.0"));
    assert_eq!(world.after(Duration::from_secs(61)).await, "one unsafe by 1.30.0");
    world.said.set(TWO, Some("1.30.1"));
    world.put("one", Some(TWO), "2");
    assert_eq!(world.soon().await, "safe", "it has another address");
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_or_says_nonsense_is_unknown_and_holds_nobody_up() {
    let world = World::start();
    world.said.set(ONE, Some("hangs"));
    world.put("one", Some(ONE), "1");
    assert_eq!(world.after(Duration::from_secs(25)).await, "settling");
    world.said.set(TWO, Some("1.29.0"));
    world.put("two", Some(TWO), "1");
    assert_eq!(world.after(Duration::from_secs(3)).await, "two unsafe by 1.29.0");
    world.said.set(TWO, Some("unknown-unknown-unknown"));
    world.put("two", Some(TWO), "2");
    let nonsense = "two unknown: it says that it is \"unknown-unknown-unknown\", which is no version";
    assert_eq!(world.after(Duration::from_secs(3)).await, nonsense);
    world.gone("two");
    assert_eq!(world.after(Duration::from_secs(10)).await, "one unknown: 10.0.0.1:15014 does not answer within 2s");
}

#[tokio::test(start_paused = true)]
async fn after_an_unsafe_one_the_next_must_have_spoken_or_not_have_come_for_long() {
    let world = World::start();
    world.said.set(ONE, Some("1.29.1"));
    world.put("one", Some(ONE), "1");
    assert_eq!(world.soon().await, "one unsafe by 1.29.1");
    world.gone("one");
    assert_eq!(world.soon().await, "settling", "none is there");
    world.put("two", None, "");
    assert_eq!(world.after(Duration::from_secs(3600)).await, "settling", "it does not run yet");
    world.said.set(TWO, Some("1.29.1"));
    world.put("two", Some(TWO), "1");
    assert_eq!(world.soon().await, "two unsafe by 1.29.1");
    world.gone("two");
    assert_eq!(world.after(Duration::from_secs(590)).await, "settling");
    assert_eq!(world.after(Duration::from_secs(20)).await, "safe", "it was uninstalled");
    world.said.set(ONE, Some("1.29.1"));
    world.put("three", Some(ONE), "1");
    assert_eq!(world.soon().await, "three unsafe by 1.29.1");
    world.said.set(TWO, Some("1.31.0"));
    world.put("four", Some(TWO), "1");
    world.gone("three");
    assert_eq!(world.soon().await, "safe", "another one has spoken");
    world.gone("four");
    assert_eq!(world.soon().await, "safe", "the last one was safe");
}

#[tokio::test(start_paused = true)]
async fn another_revision_does_not_speak_for_one_that_was_unsafe_and_is_being_replaced() {
    let world = World::start();
    world.said.set(TWO, Some("1.31.0"));
    world.put_of("b", "safe", Some(TWO), "1");
    world.said.set(ONE, Some("1.29.1"));
    world.put_of("a", "one", Some(ONE), "1");
    assert_eq!(world.soon().await, "one unsafe by 1.29.1");
    world.gone("one");
    assert_eq!(world.soon().await, "settling", "gone");
    world.put_of("a", "two", None, "");
    assert_eq!(world.soon().await, "settling", "it does not run yet");
    world.said.set(ONE, None);
    world.put_of("a", "two", Some(ONE), "1");
    assert_eq!(world.soon().await, "settling", "it says nothing yet");
    world.said.set(ONE, Some("1.30.1"));
    assert_eq!(world.after(Duration::from_secs(6)).await, "safe", "it was replaced by a safe one");
    world.said.set(ONE, Some("1.29.1"));
    world.put_of("a", "three", Some(ONE), "1");
    assert_eq!(world.soon().await, "three unsafe by 1.29.1");
    world.gone("three");
    world.gone("two");
    assert_eq!(world.after(Duration::from_secs(590)).await, "settling");
    assert_eq!(world.after(Duration::from_secs(20)).await, "safe", "the revision was uninstalled");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_unknown_counts_as_unsafe_when_it_has_left() {
    let world = World::start();
    world.put("one", Some(ONE), "1");
    assert_eq!(world.after(Duration::from_secs(40)).await, "one unknown: nobody is there");
    world.put("one", None, "1");
    assert_eq!(world.soon().await, "settling");
    world.gone("one");
    assert_eq!(world.soon().await, "settling");
}
