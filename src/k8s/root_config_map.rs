//! The ConfigMap in which a mesh keeps its roots for the pods of a namespace. A watch tells of a change at once; the object is
//! also read anew now and then, and whenever somebody could not verify a CA by what is known.

use std::{fmt, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::following::text_of;
use crate::service::ca_roots::{FollowedRoots, RootsFollower, followed_roots};

/// One ConfigMap that is followed.
pub struct RootConfigMap {
    api: Api<ConfigMap>,
    place: String,
    name: String,
    known: RootsFollower,
    /// What was said of it last, so that it is said once.
    said: String,
}

/// Why nothing was read.
#[derive(Debug)]
enum Failure {
    Api(kube::Error),
    NoAnswer,
}

/// As istiod writes it.
const KEY: &str = "root-cert.pem";
/// Until an answer begins.
const LIMIT: Duration = Duration::from_secs(2);
/// The API server ends a watch after this, and the object is read anew: a change that no watch told of is seen then.
const WATCH_SECONDS: u32 = 30;
/// A watch that says nothing for longer than it may last has been lost on the way.
const SILENCE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);
/// Between two reads, whatever happens.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest while the API server can't be asked. Nobody waits for a mesh to be installed for longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl RootConfigMap {
    /// Follows `name` in `namespace`, or in the client's own one. Nothing is asked before [`RootConfigMap::follow`].
    pub fn new(client: Client, namespace: Option<&str>, name: &str) -> (Self, FollowedRoots) {
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let place = format!("ConfigMap {namespace}/{name}");
        let (known, roots) = followed_roots(&place);
        let api = Api::namespaced(client, &namespace);
        (Self { api, place, name: name.to_owned(), known, said: String::new() }, roots)
    }

    /// Never returns. The rights that it needs are `list` and `watch` on this very object.
    pub async fn follow(mut self) {
        let mut pause = PAUSE;
        loop {
            let began = Instant::now();
            match self.look_and_watch().await {
                Ok(()) => pause = PAUSE,
                Err(failure) => {
                    let why = format!("{}: {failure}", self.place);
                    self.missed("root_config_map_unreachable", why);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            sleep_until(began + pause).await;
        }
    }

    async fn look_and_watch(&mut self) -> Result<(), Failure> {
        let version = self.look().await?;
        let named = WatchParams::default().fields(&self.selector()).timeout(WATCH_SECONDS);
        let api = self.api.clone();
        let events = answer(api.watch(&named, &version)).await?;
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                event = timeout(SILENCE_LIMIT, events.try_next()) => {
                    event.map_err(|_elapsed| Failure::NoAnswer)?.map_err(Failure::Api)?
                }
                () = self.known.wanted() => {
                    // it may be about to change, and is not to be asked for in a loop
                    sleep(PAUSE).await;
                    return Ok(());
                }
            };
            match event {
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => self.read(&object),
                Some(WatchEvent::Deleted(_)) => self.missed("root_config_map_gone", format!("{}: deleted", self.place)),
                Some(WatchEvent::Bookmark(_)) => {}
                // too old a version, and the like: it is read anew
                Some(WatchEvent::Error(_)) | None => return Ok(()),
            }
        }
    }

    /// Returns the version to watch from.
    async fn look(&mut self) -> Result<String, Failure> {
        let found = answer(self.api.list(&ListParams::default().fields(&self.selector()))).await?;
        match found.items.first() {
            Some(object) => self.read(object),
            None => self.missed("root_config_map_missing", format!("{}: not found", self.place)),
        }
        Ok(found.metadata.resource_version.unwrap_or_default())
    }

    fn selector(&self) -> String {
        format!("metadata.name={}", self.name)
    }

    fn read(&mut self, object: &ConfigMap) {
        let roots = object.data.as_ref().and_then(|data| data.get(KEY));
        let found = roots.ok_or_else(|| format!("no key {KEY}"));
        match found.and_then(|roots| self.known.found(roots.as_bytes()).map_err(|error| format!("{KEY}: {error}"))) {
            Ok(is_news) => {
                if is_news || !self.said.is_empty() {
                    info!(event = "root_config_map_read", place = self.place, changed = is_news);
                }
                self.said.clear();
            }
            Err(why) => self.missed("root_config_map_unusable", format!("{}: {why}", self.place)),
        }
    }

    fn missed(&mut self, event: &'static str, why: String) {
        self.known.missed(&why);
        if self.said != why {
            warn!(event, reason = why, "going on with the roots that are known");
            self.said = why;
        }
    }
}

async fn answer<T>(asking: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    timeout(LIMIT, asking).await.map_err(|_elapsed| Failure::NoAnswer)?.map_err(Failure::Api)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(kube::Error::Api(status)) if status.is_forbidden() => {
                write!(f, "{}: apply charts/countersign/rbac-agent.yaml in this namespace", status.message)
            }
            Self::Api(error) => f.write_str(&text_of(error)),
            Self::NoAnswer => write!(f, "the API server gave no answer within {} s", LIMIT.as_secs()),
        }
    }
}
