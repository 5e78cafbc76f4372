//! Lists objects of one kind page by page, then watches them, for ever; of each only what `read` takes from it stays in
//! memory. Needs nothing of an API server but lists and watches. Which objects: all of a kind, or one by its name.

use std::{convert::Infallible, fmt::Debug, marker::PhantomData, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::{Request, request::Error as RequestError},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::following::text_of;

/// Objects of one answer while they are listed.
const PAGE: u32 = 250;
/// For one such answer, or for a watch to begin.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Seconds after which the API server ends a watch.
const WATCH_ENDS: u32 = 30;
/// A watch on which so long nothing was heard, not even its end, is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(40);
/// After a first failure; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest while there is no such kind: it comes with an API server that is started anew.
const LONGEST_UNSERVED: Duration = Duration::from_secs(10);
/// What was listed so lately is fresh: whoever wants it listed again waits, since the watch tells of what has changed.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// A watch that has ended before was none.
const SHORT: Duration = Duration::from_secs(1);

/// Which objects.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// Of the API: the objects of a kind, of one namespace or of all, in each version that may be served; the first one that
    /// is counts.
    pub(super) paths: &'a [&'a str],
    /// As a label selector; empty for all.
    pub(super) labels: &'a str,
    /// As a field selector; empty for all.
    pub(super) fields: &'a str,
    /// Of the log line that says that they can't be watched.
    pub(super) event: &'a str,
    /// The shipped file with the rights for it.
    pub(super) rights: &'a str,
    /// Told when they are to be listed again: at once, unless they were just listed.
    pub(super) look_again: Option<&'a Notify>,
    /// Told when they are to be listed again even then: somebody waits for it.
    pub(super) look_now: Option<&'a Notify>,
    /// Whether users install the kind, at any time, and in newer versions later: that there is none is no trouble then, and
    /// an earlier one of `paths` is looked for at the end of each watch.
    pub(super) is_optional: bool,
}

impl Source<'static> {
    /// What most have in common.
    pub(super) const ANY: Self = Self {
        paths: &[],
        labels: "",
        fields: "",
        event: "",
        rights: "rbac.yaml",
        look_again: None,
        look_now: None,
        is_optional: false,
    };
}

/// An object, as far as it is decoded.
pub(super) trait Trimmed: Clone + Debug + DeserializeOwned + Send + 'static {
    /// `metadata.resourceVersion`.
    fn version(&self) -> &str;
}

/// What was heard of the objects.
pub(super) enum Heard<T> {
    /// Of an optional kind, before each list: which one of the paths is served.
    Served(usize),
    /// Of an optional kind: none of the paths is served, so there are no objects of it.
    NotServed,
    /// These there are, at that version.
    Listed(Vec<T>, String),
    /// One is there, or was changed.
    Put(T),
    /// One is gone.
    Gone(T),
    /// Nothing new, but the API server is there.
    Alive,
    /// Nothing, and why. It goes on, and is logged already.
    Trouble(String),
}

/// Why what was watched is not watched any more.
enum Ended {
    /// It goes on from there.
    After(String),
    /// The objects have to be listed again.
    Outdated,
}

/// What went wrong on the way to the API server.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the API server is silent")]
    Silent,
    #[error("the API server serves no {0}")]
    NotServed(String),
}

/// Part of a list.
#[derive(Deserialize)]
struct Page<R> {
    metadata: ListMeta,
    items: Vec<R>,
}

/// Lists and watches for ever. What `read` has no use for is passed over.
pub(super) async fn follow<R: Trimmed, T>(
    client: &Client,
    source: Source<'_>,
    read: impl Fn(&R) -> Option<T>,
    hear: impl FnMut(Heard<T>),
) -> Infallible {
    let mut following = Following { client, source, path: "", listed: Instant::now(), read, hear, of: PhantomData };
    let mut version = None;
    let mut pause = FIRST_PAUSE;
    let mut said = None;
    loop {
        let (begun, was_watch) = (Instant::now(), version.is_some());
        let step = match version.take() {
            None => following.list().await.map(Ended::After),
            Some(from) => match following.watch(from).await {
                Ok(ended) => Ok(ended),
                Err((from, error)) => {
                    // the API server may never serve that version, such as one of before its data was restored; of a kind that was
                    // taken away it says so in a text that is no answer to a watch
                    let is_answered = matches!(error, Problem::Api(Error::Api(_) | Error::SerdeError(_)));
                    version = (!is_answered).then_some(from);
                    Err(error)
                }
            },
        };
        match step {
            Ok(ended) => {
                pause = FIRST_PAUSE;
                said = None;
                if let Ended::After(reached) = ended {
                    version = Some(reached);
                }
                // one that ends at once, again and again, is not asked in a loop
                if was_watch && begun.elapsed() < SHORT {
                    sleep(FIRST_PAUSE).await;
                }
            }
            Err(problem) => {
                let text = source.text_of(&problem);
                let is_unserved = matches!(problem, Problem::NotServed(_));
                if said.as_ref() != Some(&text) {
                    source.log(is_unserved, &text);
                }
                said = Some(text.clone());
                let is_told = is_unserved && source.is_optional;
                (following.hear)(if is_told { Heard::NotServed } else { Heard::Trouble(text) });
                sleep(pause).await;
                pause = (pause * 2).min(if is_unserved { LONGEST_UNSERVED } else { LONGEST_PAUSE });
            }
        }
    }
}

struct Following<'a, R, T, Read: Fn(&R) -> Option<T>, Hear: FnMut(Heard<T>)> {
    client: &'a Client,
    source: Source<'a>,
    /// That of the version that was listed last.
    path: &'a str,
    listed: Instant,
    read: Read,
    hear: Hear,
    of: PhantomData<fn(R) -> T>,
}

impl<R: Trimmed, T, Read: Fn(&R) -> Option<T>, Hear: FnMut(Heard<T>)> Following<'_, R, T, Read, Hear> {
    /// All objects in place of what was known. The version that they are of.
    async fn list(&mut self) -> Result<String, Problem> {
        for (place, path) in self.source.paths.iter().enumerate() {
            match self.list_at(path).await {
                Err(Problem::Api(Error::Api(status))) if status.code == 404 => {}
                Ok((version, listed)) => {
                    self.path = path;
                    if self.source.is_optional {
                        (self.hear)(Heard::Served(place));
                    }
                    (self.hear)(Heard::Listed(listed, version.clone()));
                    self.listed = Instant::now();
                    return Ok(version);
                }
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::NotServed(self.source.kind().to_owned()))
    }

    /// The same page by page, by way of one version of the kind.
    async fn list_at(&self, path: &str) -> Result<(String, Vec<T>), Problem> {
        let mut listed = Vec::new();
        let mut page = ListParams::default().limit(PAGE).labels(self.source.labels).fields(self.source.fields);
        loop {
            let request = Request::new(path).list(&page)?;
            let answer = timeout(ANSWER_LIMIT, self.client.request::<Page<R>>(request)).await;
            let answer = answer.map_err(|_elapsed| Problem::Silent)??;
            listed.extend(answer.items.iter().filter_map(&self.read));
            match answer.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok((answer.metadata.resource_version.unwrap_or_default(), listed)),
            }
        }
    }

    /// Follows changes after `version` until the watch ends. With an error comes the version that was reached.
    async fn watch(&mut self, version: String) -> Result<Ended, (String, Problem)> {
        let mut reached = version;
        match self.watch_from(&mut reached).await {
            Ok(true) if !self.may_be_better_served() => Ok(Ended::After(reached)),
            Ok(_) => Ok(Ended::Outdated),
            Err(problem) => Err((reached, problem)),
        }
    }

    fn may_be_better_served(&self) -> bool {
        self.source.is_optional && self.source.paths.first().is_some_and(|first| *first != self.path)
    }

    /// Whether the next watch can go on where this one ended.
    async fn watch_from(&mut self, reached: &mut String) -> Result<bool, Problem> {
        let params = WatchParams::default().timeout(WATCH_ENDS);
        let params = params.labels(self.source.labels).fields(self.source.fields);
        let request = Request::new(self.path).watch(&params, reached)?;
        let begun = timeout(ANSWER_LIMIT, self.client.request_events::<R>(request)).await;
        let mut events = match begun.map_err(|_elapsed| Problem::Silent)? {
            Err(Error::Api(status)) if status.code == 410 => return Ok(false),
            begun => begun?.boxed(),
        };
        (self.hear)(Heard::Alive);
        loop {
            let next = tokio::select! {
                next = timeout(SILENCE_LIMIT, events.next()) => next.map_err(|_elapsed| Problem::Silent)?,
                () = told(self.source.look_again, self.listed + FRESH_FOR) => return Ok(false),
                () = wished(self.source.look_now) => return Ok(false),
            };
            let Some(event) = next else { return Ok(true) };
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.tell(&object, Heard::Put);
                    object.version().clone_into(reached);
                }
                WatchEvent::Deleted(object) => {
                    self.tell(&object, Heard::Gone);
                    object.version().clone_into(reached);
                }
                WatchEvent::Bookmark(bookmark) => {
                    (self.hear)(Heard::Alive);
                    *reached = bookmark.metadata.resource_version;
                }
                WatchEvent::Error(status) if status.code == 410 => return Ok(false),
                WatchEvent::Error(status) => return Err(Error::Api(status).into()),
            }
        }
    }

    fn tell(&mut self, object: &R, what: impl FnOnce(T) -> Heard<T>) {
        (self.hear)((self.read)(object).map_or(Heard::Alive, what));
    }
}

impl Source<'_> {
    /// As people and RBAC call it.
    fn kind(&self) -> &str {
        self.paths.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default()
    }

    fn log(&self, is_unserved: bool, problem: &str) {
        if is_unserved && self.is_optional {
            info!(event = "kind_not_served", kind = self.kind(), "followed as soon as it is");
        } else {
            warn!(event = self.event, fields = self.fields, problem);
        }
    }

    /// With the fix where it is known.
    fn text_of(&self, problem: &Problem) -> String {
        match problem {
            Problem::Api(Error::Api(status)) if status.is_forbidden() => {
                format!("{}: apply charts/countersign/{}", status.message, self.rights)
            }
            Problem::Api(error) => text_of(error),
            Problem::Request(_) | Problem::Silent | Problem::NotServed(_) => problem.to_string(),
        }
    }
}

/// Waits for a wish, and then until what was listed is no longer fresh. Whatever the watch tells meanwhile fulfils the wish.
async fn told(wish: Option<&Notify>, fresh_until: Instant) {
    wished(wish).await;
    sleep_until(fresh_until).await;
}

async fn wished(wish: Option<&Notify>) {
    match wish {
        Some(wish) => wish.notified().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wish_waits_while_what_was_listed_is_fresh_and_no_longer() {
        let (wish, listed) = (Notify::new(), Instant::now());
        let told = async || told(Some(&wish), listed + FRESH_FOR).await;
        wish.notify_one();
        told().await;
        assert_eq!(listed.elapsed(), FRESH_FOR);
        wish.notify_one();
        told().await;
        assert_eq!(listed.elapsed(), FRESH_FOR, "at once");
        timeout(FRESH_FOR, told()).await.expect_err("without a wish");
    }
}
