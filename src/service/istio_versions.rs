//! What each istiod says that it is: asked when it begins to run, after each restart of its container, and every five minutes.
//!
//! The version of a running program does not change: what it has said stays while it does not answer, until its container is
//! another one. What was unsafe and has left is told for a while, since another one like it is likely to come. How an istiod is asked
//! is [`VersionSource`]'s, what follows from its version the domain's.

use std::{collections::BTreeMap, convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::{policy_publisher::PolicyPublisher, ports::BoxFuture};
use crate::domain::policy::{ClusterChange, IstiodPod, IstiodReport, IstiodVersion, ObjectName, Release, SeenIstiod};

/// Where the version of an istiod is from.
pub trait VersionSource: Send + Sync {
    /// What the istiod there says that it is, on one line.
    ///
    /// # Errors
    ///
    /// Why it says nothing.
    fn version_at(&self, place: SocketAddr) -> BoxFuture<'_, Result<String, String>>;
}

/// The task that asks.
pub struct IstioVersions {
    publisher: Arc<PolicyPublisher>,
    source: Arc<dyn VersionSource>,
    /// By UID of the pod.
    asked: BTreeMap<Box<str>, Asked>,
    /// By revision the last one that left, and when, unless another one of it has spoken since.
    left: BTreeMap<Box<str>, (Instant, IstiodReport)>,
    /// What was told last.
    told: Vec<IstiodReport>,
}

/// For one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// An istiod that answers is asked again after this.
const EVERY: Duration = Duration::from_secs(5 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Between attempts while it may still be starting.
const STARTING_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// One that says nothing for so long is not starting any more: its version is unknown.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// For so long one that left counts: Istio was not replaced, then, but uninstalled.
const LEFT_COUNTS_FOR: Duration = Duration::from_secs(10 * 60);
/// Asked at one time.
const AT_ONCE: usize = 16;

/// An istiod that is asked.
struct Asked {
    object: ObjectName,
    revision: Box<str>,
    pod: IstiodPod,
    /// From when on this instance has been asked.
    since: Instant,
    /// What it said, or before it another instance of the same pod.
    known: Option<Release>,
    /// Whether this instance has answered, and what went wrong last if not.
    answered: Result<(), Box<str>>,
    /// Whether it counted as unsafe when that was decided last.
    is_unsafe: bool,
    pause: Duration,
    due: Instant,
}

impl IstioVersions {
    /// Of the istiods that `publisher` sees; it is told what they say.
    pub fn new(publisher: Arc<PolicyPublisher>, source: Arc<dyn VersionSource>) -> Self {
        Self { publisher, source, asked: BTreeMap::new(), left: BTreeMap::new(), told: Vec::new() }
    }

    /// Asks for ever.
    pub async fn run(mut self) -> Infallible {
        let mut snapshots = self.publisher.follow();
        snapshots.mark_changed();
        loop {
            let due = self.asked.values().filter(|asked| asked.pod.place.is_some()).map(|asked| asked.due);
            let due = due.chain(self.left.values().map(|(since, _)| *since + LEFT_COUNTS_FOR)).min();
            tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => {
                        let seen = snapshots.borrow_and_update().as_ref().map(|newest| Arc::clone(&newest.control_planes));
                        self.take_up(seen.iter().flat_map(|seen| seen.istiods.iter()));
                    }
                    Err(_closed) => pending().await,
                },
                () = until(due) => {}
            }
            self.ask_those_due().await;
            self.tell();
        }
    }

    /// These there are, and no others.
    fn take_up<'a>(&mut self, istiods: impl Iterator<Item = &'a SeenIstiod>) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.asked);
        for SeenIstiod { object, uid, revision, pod, .. } in istiods {
            let asked = match before.remove(uid) {
                Some(asked) if asked.pod == *pod => asked,
                Some(asked) if asked.pod.place == pod.place && asked.pod.instance == pod.instance => {
                    Asked { pod: pod.clone(), ..asked }
                }
                // whether it is down or restarted, what it was counts until it has had time to say more
                known => Asked {
                    object: object.clone(),
                    revision: revision.clone(),
                    pod: pod.clone(),
                    since: now,
                    is_unsafe: known.as_ref().is_some_and(|asked| asked.is_unsafe),
                    known: known.and_then(|asked| asked.known),
                    answered: Err("it was not asked yet".into()),
                    pause: FIRST_PAUSE,
                    due: now,
                },
            };
            self.asked.insert(uid.clone(), asked);
        }
        for (uid, asked) in before {
            let report = asked.report(&uid, now);
            if report.is_unsafe {
                self.left.insert(asked.revision, (now, report));
            } else if matches!(report.version, IstiodVersion::Known(_)) {
                self.left.entry(asked.revision).or_insert((now, report));
            }
        }
    }

    async fn ask_those_due(&mut self) {
        let now = Instant::now();
        let source = Arc::clone(&self.source);
        let mut due: Vec<&mut Asked> =
            self.asked.values_mut().filter(|asked| asked.pod.place.is_some() && asked.due <= now).collect();
        for some in due.chunks_mut(AT_ONCE) {
            let questions = some.iter_mut().filter_map(|asked| Some((asked.pod.place?, asked)));
            join_all(questions.map(async |(place, asked)| {
                let answer = match timeout(ANSWER_LIMIT, source.version_at(place)).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => Err(format!("{place} does not answer within {ANSWER_LIMIT:?}")),
                };
                asked.take(answer);
            }))
            .await;
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        let mut all = Vec::new();
        for (uid, asked) in &mut self.asked {
            let report = asked.report(uid, now);
            asked.is_unsafe = report.is_unsafe;
            if matches!(report.version, IstiodVersion::Known(_)) {
                self.left.remove(&asked.revision);
            }
            all.push(report);
        }
        self.left.retain(|_, (since, _)| now.duration_since(*since) < LEFT_COUNTS_FOR);
        all.extend(self.left.values().map(|(_, report)| report.clone()));
        if all == self.told {
            return;
        }
        let news = all.iter().filter(|report| !self.told.contains(report));
        for (report, asked) in news.filter_map(|report| Some((report, self.asked.get(&report.uid)?))) {
            let pod = &asked.object;
            match &report.version {
                IstiodVersion::Asked => {}
                IstiodVersion::Known(version) => info!(event = "istiod_version", %pod, %version),
                IstiodVersion::Silent { why } => warn!(event = "istiod_version_unknown", %pod, why),
            }
        }
        self.told.clone_from(&all);
        self.publisher.apply(ClusterChange::Istiods(all));
    }
}

impl Asked {
    fn take(&mut self, answer: Result<String, String>) {
        let now = Instant::now();
        let read = answer.map(|text| text.parse::<Release>().map_err(|_none| text));
        match read {
            Ok(Ok(version)) => {
                (self.known, self.answered) = (Some(version), Ok(()));
                self.due = now + EVERY;
            }
            Ok(Err(text)) => {
                (self.known, self.answered) =
                    (None, Err(format!("it says that it is {text:?}, which is no version").into()));
                // that is an answer: it is not starting any more
                self.since = now.checked_sub(STARTS_WITHIN).unwrap_or(now);
                self.due = now + EVERY;
            }
            Err(_) if self.answered.is_ok() => self.due = now + EVERY,
            Err(why) => {
                self.answered = Err(why.into());
                self.due = now + self.pause;
                let longest = if self.is_starting(now) { STARTING_PAUSE } else { LONGEST_PAUSE };
                self.pause = (self.pause * 2).min(longest);
            }
        }
    }

    fn is_starting(&self, now: Instant) -> bool {
        now.duration_since(self.since) < STARTS_WITHIN
    }

    fn report(&self, uid: &str, now: Instant) -> IstiodReport {
        let (object, pod, version) = (self.object.clone(), self.pod.clone(), self.version(now));
        let seen = SeenIstiod { object, uid: uid.into(), revision: self.revision.clone(), pod, version };
        let is_unsafe = seen.is_unsafe().unwrap_or(self.is_unsafe);
        IstiodReport { uid: seen.uid, version: seen.version, is_unsafe }
    }

    fn version(&self, now: Instant) -> IstiodVersion {
        match (&self.answered, self.known) {
            (Ok(()), Some(version)) => IstiodVersion::Known(version),
            (_, Some(version)) if self.pod.place.is_none() || self.is_starting(now) => IstiodVersion::Known(version),
            (Err(why), _) if self.pod.place.is_some() && !self.is_starting(now) => {
                IstiodVersion::Silent { why: why.clone() }
            }
            _ => IstiodVersion::Asked,
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
