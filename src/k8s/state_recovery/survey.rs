//! All that can be learnt of a state, also of a damaged one.

use std::collections::BTreeSet;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::Api;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::{
    domain::leadership::Term,
    k8s::state_store::{
        RootOf, examine,
        pair::{OBJECTS, Pair, other, secret_name},
        record::{Record, RecordError, Stored, content_of, replaced_in, terms_in, version_in},
        secrets::Secrets,
    },
    service::{
        ports::{StateError, StateObject},
        state_manifest::{Acknowledged, Known, StateManifest},
    },
};

/// The Lease of a pair.
const LEASE: &str = "countersign";
const LEASE_TERM: &str = "countersign.io/term";

/// What was found, at about one instant.
pub(super) struct Survey {
    pub(super) found: Pair<Option<Found>>,
    lease: Option<Lease>,
    known: Known,
}

/// A Secret as it is, and what it means, if it means anything.
pub(super) struct Found {
    pub(super) secret: Secret,
    parsed: Result<Stored, RecordError>,
}

impl Found {
    fn new(object: StateObject, secret: Secret) -> Self {
        Self { parsed: Stored::parse(object, secret.clone()), secret }
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.parsed.as_ref().ok().map(|stored| &stored.record)
    }

    /// As it is, whether it can be trusted or not.
    pub(super) fn content(&self) -> Zeroizing<Vec<u8>> {
        content_of(&self.secret)
    }
}

impl Survey {
    pub(super) async fn take(secrets: &Secrets, leases: &Api<Lease>, until: Instant) -> Result<Self, StateError> {
        let no_answer = |why: String| StateError::Io(format!("Lease {LEASE} could not be read: {why}"));
        let lease = timeout_at(until, leases.get_opt(LEASE)).await;
        let lease = lease.map_err(|_elapsed| no_answer("the API server did not answer in time".into()))?;
        let lease = lease.map_err(|error| no_answer(error.to_string()))?;
        let found = |object| async move {
            let secret = secrets.get_secret(object, until).await?;
            Ok::<_, StateError>(secret.map(|secret| Found::new(object, secret)))
        };
        let (authority, trust) = tokio::join!(found(StateObject::Authority), found(StateObject::Trust));
        let manifest = StateManifest::default();
        if let Some(annotations) = lease.as_ref().and_then(|lease| lease.metadata.annotations.as_ref()) {
            // the manifest remembers what it could not read
            let _remembered = manifest.learn(annotations, Term::NONE).is_err();
        }
        Ok(Self { found: Pair { authority: authority?, trust: trust? }, lease, known: manifest.known() })
    }

    /// The same for the same state.
    pub(super) fn versions(&self) -> [Option<&str>; 2] {
        OBJECTS.map(|object| self.found.of(object).as_ref()?.secret.metadata.resource_version.as_deref())
    }

    /// What is wrong.
    pub(super) fn verdict(&self, root_of: RootOf) -> Result<(), String> {
        for object in OBJECTS {
            if let Some(Found { parsed: Err(error), .. }) = self.found.of(object) {
                return Err(format!("Secret {}: {error}", secret_name(object)));
            }
        }
        examine(&self.records(), &self.known, root_of)
    }

    /// Whether nothing is stored yet, or any more.
    pub(super) fn is_empty(&self) -> bool {
        OBJECTS.into_iter().all(|object| self.found.of(object).as_ref().is_none_or(|found| found.content().is_empty()))
    }

    /// Every root that is named, but for those that an operator has given up.
    pub(super) fn roots(&self, root_of: RootOf) -> BTreeSet<String> {
        let mut roots: BTreeSet<String> = self.known.acknowledged.root.iter().cloned().collect();
        let replaced = self.replaced();
        roots.retain(|root| !replaced.contains(root));
        roots.extend(self.found.authority.as_ref().and_then(|authority| root_of(&authority.content())));
        roots.extend(self.views().filter_map(|view| view.root));
        roots
    }

    /// The roots that were given up before.
    pub(super) fn replaced(&self) -> BTreeSet<String> {
        self.annotations().flat_map(|(_, annotations)| replaced_in(annotations)).collect()
    }

    pub(super) fn highest_term(&self) -> Term {
        let on_objects = self.annotations().map(|(_, annotations)| terms_in(annotations));
        let lease = self.lease_annotation(LEASE_TERM).and_then(|term| term.parse().ok()).map_or(Term::NONE, Term::new);
        on_objects.fold(lease.max(self.known.acknowledged.highest_term()), Term::max)
    }

    pub(super) fn highest_version(&self, object: StateObject) -> u64 {
        let own = self.annotations().filter(|(one, _)| *one == object).map(|(_, found)| version_in(found));
        let viewed = self.views().map(|view| view.mark(object).version);
        own.chain(viewed).fold(self.known.acknowledged.mark(object).version, u64::max)
    }

    /// A line for each part.
    pub(super) fn parts(&self, root_of: RootOf) -> Vec<String> {
        let mut parts: Vec<String> = OBJECTS.into_iter().map(|object| self.part(object, root_of)).collect();
        let holder = self.lease.as_ref().map(|lease| {
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
            let holder = if holder.is_empty() { "nobody" } else { holder };
            let term = self.lease_annotation(LEASE_TERM).unwrap_or("none");
            let names = match &self.known.unreadable {
                Some(error) => error.to_string(),
                None => format!("names {}", self.known.acknowledged),
            };
            format!("held by {holder}, term {term}, {names}")
        });
        parts.push(format!("Lease {LEASE}: {}", holder.as_deref().unwrap_or("not there")));
        parts
    }

    fn part(&self, object: StateObject, root_of: RootOf) -> String {
        let name = secret_name(object);
        match self.found.of(object) {
            None => format!("Secret {name}: not there"),
            Some(Found { parsed: Err(error), .. }) => format!("Secret {name}: {error}"),
            Some(Found { parsed: Ok(Stored { record, .. }), .. }) => {
                let root = root_of(&record.content).map(|root| format!(", root {root}")).unwrap_or_default();
                let empty = if record.content.is_empty() { ", empty" } else { "" };
                let named = &record.view.mark(other(object)).version;
                let named = format!(", names version {named} of {}", secret_name(other(object)));
                format!("Secret {name}: version {} of term {}{root}{empty}{named}", record.version, record.claimed)
            }
        }
    }

    fn records(&self) -> Pair<Option<&Record>> {
        let record = |object| self.found.of(object).as_ref().and_then(Found::record);
        Pair { authority: record(StateObject::Authority), trust: record(StateObject::Trust) }
    }

    fn annotations(&self) -> impl Iterator<Item = (StateObject, &std::collections::BTreeMap<String, String>)> {
        OBJECTS.into_iter().filter_map(|object| {
            let secret = &self.found.of(object).as_ref()?.secret;
            Some((object, secret.metadata.annotations.as_ref()?))
        })
    }

    fn views(&self) -> impl Iterator<Item = Acknowledged> {
        self.annotations().filter_map(|(_, annotations)| Acknowledged::parse(annotations).ok())
    }

    fn lease_annotation(&self, name: &str) -> Option<&str> {
        self.lease.as_ref()?.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}
