//! Whom a gateway may accept behind each Service, and how it is put together of what is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    domain::{
        identity::SpiffeId,
        policy::{MtlsMode, ObjectName},
    },
    service::policy_view::{PolicyUpdate, ServiceView},
};

/// A Service, as NAMESPACE/NAME.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey(Arc<str>);

/// Whom to accept, by Service. One that is not named accepts nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedPeers {
    revision: u64,
    services: BTreeMap<ServiceKey, Arc<[SpiffeId]>>,
}

/// What was told until now.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Of the last whole state; empty if everything is to be told anew.
    version: String,
    revision: u64,
    services: BTreeMap<ServiceKey, Arc<[SpiffeId]>>,
    /// As of the last whole state.
    whole: BTreeMap<ServiceKey, Arc<[SpiffeId]>>,
    /// Those that were told of as deleted, since the last whole state.
    deleted: BTreeSet<ServiceKey>,
    /// Services that no policy holds for any more, with whom they accepted last, and until when they still do.
    leaving: BTreeMap<ServiceKey, (Arc<[SpiffeId]>, Instant)>,
}

/// So long a gateway accepts behind a Service whom it accepted last, once no policy holds for it any more: until the gateway has
/// heard from elsewhere that it speaks no mutual TLS there, no request is to fail. A gateway's controller on a busy machine takes more
/// than a minute to change two hundred Services. Behind one that was deleted it accepts nobody.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(600);

/// Longest name of a Service (a DNS label), and of a namespace.
const LABEL_AT_MOST: usize = 63;

impl ServiceKey {
    /// From NAMESPACE/NAME, both DNS labels (RFC 1123); `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let is_label = |label: &str| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            (1..=LABEL_AT_MOST).contains(&label.len())
                && label.chars().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        (is_label(namespace) && is_label(name)).then(|| Self(text.into()))
    }

    /// As an object of the cluster.
    pub fn object(&self) -> ObjectName {
        let (namespace, name) = self.0.split_once('/').unwrap_or_default();
        ObjectName::new(namespace, name)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AcceptedPeers {
    /// Grows with each change, from 1.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many Services there are.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether there is no Service.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Each Service with whom to accept there. What did not change from one to the next is the same allocation.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Arc<[SpiffeId]>)> {
        self.services.iter()
    }
}

impl Gathering {
    /// What a stream may go on from.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Services behind which somebody is accepted.
    pub(super) fn known(&self) -> Vec<ServiceKey> {
        self.whole.keys().chain(self.leaving.keys()).cloned().collect()
    }

    /// Takes up a message. Returns the new state when it is whole.
    ///
    /// # Errors
    ///
    /// When it can't be read. Everything has to be told anew then.
    pub(super) fn take(&mut self, update: PolicyUpdate, now: Instant) -> Result<Option<AcceptedPeers>, String> {
        let version = std::mem::take(&mut self.version);
        if update.reset {
            self.services.clear();
        } else if version.is_empty() && self.revision == 0 && self.services.is_empty() {
            return Err("a change came before the full state".into());
        }
        for gone in update.services_gone.iter().chain(&update.services_deleted) {
            self.services.remove(&key(gone)?);
        }
        for deleted in &update.services_deleted {
            self.deleted.insert(key(deleted)?);
        }
        for service in update.services {
            self.put(&service)?;
        }
        if update.version.is_empty() {
            return Ok(None);
        }
        self.version = update.version;
        let before = std::mem::replace(&mut self.whole, self.services.clone());
        let left = before.into_iter().filter(|(key, _)| !self.whole.contains_key(key));
        self.leaving.extend(left.map(|(key, ids)| (key, (ids, now + LEAVE_WITHIN))));
        let deleted = std::mem::take(&mut self.deleted);
        self.leaving.retain(|key, _| !self.whole.contains_key(key) && !deleted.contains(key));
        Ok(Some(self.peers()))
    }

    /// Forgets Services that have left long enough ago. Returns the new state if there were any.
    pub(super) fn forget(&mut self, now: Instant) -> Option<AcceptedPeers> {
        let before = self.leaving.len();
        self.leaving.retain(|_, (_, until)| now < *until);
        (self.leaving.len() < before).then(|| self.peers())
    }

    /// How many Services a policy holds for.
    pub(super) fn services(&self) -> usize {
        self.whole.len()
    }

    fn peers(&mut self) -> AcceptedPeers {
        self.revision += 1;
        let mut services = self.whole.clone();
        services.extend(self.leaving.iter().map(|(key, (ids, _))| (key.clone(), Arc::clone(ids))));
        AcceptedPeers { revision: self.revision, services }
    }

    fn put(&mut self, service: &ServiceView) -> Result<(), String> {
        let key = key(&format!("{}/{}", service.namespace, service.name))?;
        if service.mode != MtlsMode::Required.as_str() {
            self.services.remove(&key);
            return Ok(());
        }
        let parsed = service.identities.iter().map(|text| {
            text.parse::<SpiffeId>().map_err(|error| format!("the identity {text:?} of Service {key}: {error}"))
        });
        let ids = parsed.collect::<Result<Vec<_>, _>>()?;
        match self.services.get(&key) {
            Some(known) if **known == *ids => {}
            _ => _ = self.services.insert(key, ids.into()),
        }
        Ok(())
    }
}

fn key(text: &str) -> Result<ServiceKey, String> {
    ServiceKey::parse(text).ok_or_else(|| format!("{text:?} names no Service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, identities: &[&str]) -> ServiceView {
        ServiceView {
            namespace: "n".into(),
            name: name.into(),
            mode: "mutual-tls".into(),
            identities: identities.iter().map(|&id| id.to_owned()).collect(),
            ports: Vec::new(),
            conditions: Vec::new(),
        }
    }

    fn update(reset: bool, version: &str, services: Vec<ServiceView>, gone: &[&str]) -> PolicyUpdate {
        let services_gone = gone.iter().map(|&name| name.to_owned()).collect();
        PolicyUpdate { reset, version: version.into(), services, services_gone, ..PolicyUpdate::default() }
    }

    fn names(peers: &AcceptedPeers) -> Vec<String> {
        peers.services().map(|(key, ids)| format!("{key}:{}", ids.len())).collect()
    }

    const A: &str = "spiffe://td/ns/n/sa/a";

    #[test]
    fn only_a_whole_state_counts_and_what_did_not_change_is_shared() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.take(update(true, "", vec![service("one", &[A])], &[]), Instant::now()), Ok(None));
        let first =
            gathering.take(update(false, "r/1", vec![service("two", &[])], &[]), Instant::now()).unwrap().unwrap();
        assert_eq!((names(&first), gathering.version()), (vec!["n/one:1".to_owned(), "n/two:0".to_owned()], "r/1"));
        let change = update(false, "r/2", vec![service("one", &[A]), service("three", &[A])], &["n/two"]);
        let second = gathering.take(change, Instant::now()).unwrap().unwrap();
        assert_eq!(names(&second), ["n/one:1", "n/three:1", "n/two:0"]);
        let of = |peers: &AcceptedPeers| Arc::clone(&peers.services[&ServiceKey::parse("n/one").unwrap()]);
        assert!(Arc::ptr_eq(&of(&first), &of(&second)));
        assert_eq!((first.revision(), second.revision()), (1, 2));
        let third = gathering.take(update(true, "s/1", Vec::new(), &[]), Instant::now()).unwrap().unwrap();
        assert_eq!((names(&third).len(), gathering.services()), (3, 0));
        assert!(gathering.forget(Instant::now() + LEAVE_WITHIN).unwrap().is_empty());
    }

    #[test]
    fn a_service_that_was_deleted_accepts_nobody_from_then_on() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        _ = gathering.take(update(true, "r/1", vec![service("one", &[A]), service("two", &[A])], &[]), now).unwrap();
        let mut change = update(false, "r/2", Vec::new(), &["n/one", "n/two"]);
        change.services_deleted = vec!["n/two".into()];
        assert_eq!(names(&gathering.take(change, now).unwrap().unwrap()), ["n/one:1"]);
        let mut change = update(false, "r/3", Vec::new(), &[]);
        change.services_deleted = vec!["n/one".into()];
        assert!(gathering.take(change, now).unwrap().unwrap().is_empty(), "also while it is leaving");
    }

    #[test]
    fn a_service_that_was_deleted_while_nobody_was_heard_accepts_nobody_once_somebody_is() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        let all = ["one", "two", "three"].map(|name| service(name, &[A])).into();
        _ = gathering.take(update(true, "r/1", all, &[]), now).unwrap();
        _ = gathering.take(update(false, "r/2", Vec::new(), &["n/three"]), now).unwrap();
        let known: Vec<String> = gathering.known().iter().map(ToString::to_string).collect();
        assert_eq!(known, ["n/one", "n/two", "n/three"], "also one that is leaving");
        let mut fresh = update(true, "other/1", Vec::new(), &[]);
        fresh.services_deleted = vec!["n/one".into(), "n/three".into()];
        assert_eq!(names(&gathering.take(fresh, now).unwrap().unwrap()), ["n/two:1"]);
        let known: Vec<String> = gathering.known().iter().map(ToString::to_string).collect();
        assert_eq!(known, ["n/two"]);
    }

    #[test]
    fn a_service_accepts_for_a_while_whom_it_accepted_last_and_at_once_whom_a_new_policy_names() {
        const B: &str = "spiffe://td/ns/n/sa/b";
        let (mut gathering, begin) = (Gathering::default(), Instant::now());
        _ = gathering.take(update(true, "r/1", vec![service("one", &[A]), service("two", &[A])], &[]), begin).unwrap();
        _ = gathering.take(update(false, "r/2", Vec::new(), &["n/one", "n/two"]), begin).unwrap();
        let back = gathering.take(update(false, "r/3", vec![service("two", &[B, A])], &[]), begin).unwrap().unwrap();
        assert_eq!(names(&back), ["n/one:1", "n/two:2"]);
        assert_eq!(gathering.forget(begin + LEAVE_WITHIN - Duration::from_millis(1)), None);
        let after = gathering.forget(begin + LEAVE_WITHIN).unwrap();
        assert_eq!((names(&after), after.revision()), (vec!["n/two:2".to_owned()], 4));
        assert_eq!(gathering.forget(begin + LEAVE_WITHIN * 2), None);
    }

    #[test]
    fn a_service_that_is_not_managed_leaves() {
        let mut gathering = Gathering::default();
        _ = gathering.take(update(true, "r/1", vec![service("one", &[A])], &[]), Instant::now()).unwrap();
        let taken_out = ServiceView { mode: "not-managed".into(), ..service("one", &[A]) };
        _ = gathering.take(update(false, "r/2", vec![taken_out], &[]), Instant::now()).unwrap();
        assert!(gathering.forget(Instant::now() + LEAVE_WITHIN).unwrap().is_empty());
    }

    #[test]
    fn what_can_t_be_read_has_everything_told_anew() {
        let bad = [
            update(false, "r/2", vec![service("one", &["spiffe://td"])], &[]),
            update(false, "r/2", vec![service("One", &[])], &[]),
            update(false, "r/2", Vec::new(), &["n"]),
        ];
        for update in bad {
            let mut gathering = Gathering::default();
            let begin = self::update(true, "r/1", vec![service("one", &[A])], &[]);
            _ = gathering.take(begin, Instant::now()).unwrap();
            gathering.take(update, Instant::now()).unwrap_err();
            assert_eq!(gathering.version(), "");
        }
        Gathering::default().take(update(false, "r/2", Vec::new(), &[]), Instant::now()).unwrap_err();
    }

    #[test]
    fn a_service_is_two_labels() {
        for good in ["a/b", "test-infra/backend-v1", "0/9"] {
            assert_eq!(ServiceKey::parse(good).unwrap().to_string(), good);
        }
        let long = format!("a/{}", "b".repeat(64));
        for bad in ["", "a", "a/", "/b", "a/b/c", "A/b", "a/-b", "a/b-", "a/b?x=1", "a/ b", &long] {
            assert_eq!(ServiceKey::parse(bad), None, "{bad}");
        }
    }
}
