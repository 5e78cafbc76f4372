//! Lists and follows objects of one kind, and keeps none of them: each is read into what is wanted of it.

use std::{fmt::Debug, time::Duration};

use futures_util::{Stream, StreamExt, future::ready};
use kube::{
    Api, Resource,
    core::Status,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    domain::bundle::{PlacedObject, Seen},
    service::bundle_distribution::{Followed, PlacesError, WriteError},
};

/// What was seen of the objects.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// All there are.
    Listed(Vec<(String, T)>),
    /// One is there, or was changed.
    Seen(String, T),
    /// One is gone.
    Gone(String),
}

impl From<Change<PlacedObject>> for Seen {
    fn from(change: Change<PlacedObject>) -> Self {
        match change {
            Change::Listed(objects) => Self::Objects(objects),
            Change::Seen(place, object) => Self::Object(place, object),
            Change::Gone(place) => Self::ObjectGone(place),
        }
    }
}

/// Objects of a page of a list: a ConfigMap of roots has about 3 KiB.
const PAGE: u32 = 500;
/// A connection that has silently died is noticed after this, in seconds.
const WATCH_LIMIT: u32 = 60;

/// Follows the objects that the selectors of `config` name, each as `read` gives it: its name and what is wanted of it. `what`
/// names them in errors.
pub(super) fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    followed: Followed,
    what: String,
    read: impl Fn(&K) -> Option<(String, T)> + Send + 'static,
) -> impl Stream<Item = Result<Change<T>, PlacesError>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + 'static,
{
    let events = watcher(api, config.timeout(WATCH_LIMIT).page_size(PAGE)).backoff(Pause::default());
    let changes = events.scan(Vec::new(), move |listed: &mut Vec<(String, T)>, event| {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                listed.extend(read(&object));
                None
            }
            Ok(Event::InitDone) => Some(Ok(Change::Listed(std::mem::take(listed)))),
            Ok(Event::Apply(object)) => read(&object).map(|(name, seen)| Ok(Change::Seen(name, seen))),
            Ok(Event::Delete(object)) => read(&object).map(|(name, _)| Ok(Change::Gone(name))),
            Err(error) => {
                problem(&error).map(|problem| Err(PlacesError { followed, problem: format!("{what}: {problem}") }))
            }
        };
        ready(Some(change))
    });
    changes.filter_map(ready)
}

/// Grows while errors come in a row; a retry that begins well, as each does, is no success yet.
struct Pause {
    next: Duration,
    last: Option<Instant>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Rights, namespaces and kinds that come late are noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(60);

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, last: None }
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_some_and(|last| last.elapsed() > CALM) {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        self.last = Some(Instant::now());
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {}
}

/// What is told of an error; nothing of a watch that has to begin anew because it is too old.
fn problem(error: &watcher::Error) -> Option<String> {
    const GONE: u16 = 410;
    match error {
        watcher::Error::WatchError(status) => (status.code != GONE).then(|| text_of_status(status)),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            let is_gone = matches!(error, kube::Error::Api(status) if status.code == GONE);
            (!is_gone).then(|| text_of(error))
        }
        watcher::Error::NoResourceVersion => Some(error.to_string()),
    }
}

/// An error as people read it, with the fix where it is known.
pub(super) fn text_of(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error { text_of_status(status) } else { error.to_string() }
}

fn text_of_status(status: &Status) -> String {
    let fix = if status.is_forbidden() { ": apply the RBAC rules that come with this version" } else { "" };
    format!("{}{fix}", status.message)
}

/// Why a write was not done.
pub(super) fn write_error(error: &kube::Error) -> WriteError {
    let text = text_of(error);
    let kube::Error::Api(status) = error else { return WriteError::Failed(text) };
    let is_going = status.is_forbidden() && status.message.contains("being terminated");
    if is_going || status.is_conflict() || status.is_already_exists() || status.is_not_found() {
        WriteError::Outdated(text)
    } else {
        WriteError::Failed(text)
    }
}
