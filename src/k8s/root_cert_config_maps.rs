//! The ConfigMap with the roots, in each namespace that needs it (docs/distribution.md).

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::watcher::Config,
};
use serde_json::json;

use super::following::{Change, follow, write_error};
use crate::{
    domain::bundle::{FoundRoots, OwnRoots, PlacedObject, Seen, Write},
    service::{
        bundle_distribution::{DistributionConfig, Followed, RootPlaces, SeenStream, WriteError},
        metrics::PlaceKind,
        ports::BoxFuture,
    },
};

/// Follows and writes them.
pub struct RootCertConfigMaps {
    client: Client,
    name: String,
    title: String,
    scope: Scope,
}

/// Which namespaces need it.
#[derive(Clone)]
enum Scope {
    /// The pair's own, and those that ask for it by their label.
    Labelled {
        /// The own one.
        own: String,
    },
    /// All of the mesh's cluster, as istiod has it.
    Every,
}

/// As istiod names it.
const KEY: &str = "root-cert.pem";
/// Without a mesh's CA nobody else's name is taken.
const OWN_NAME: &str = "countersign-root-cert";
const NAMESPACE_LABEL: &str = "countersign.io/root-cert=true";
/// Says that a pair wrote an object, and what.
pub(super) const MARK: &str = "countersign.io/published";
/// Stands in `managedFields`.
pub(super) const FIELD_MANAGER: &str = "countersign";
/// istiod's list: nothing of a mesh runs there.
const EXCLUDED: [&str; 3] = ["kube-public", "kube-node-lease", "local-path-storage"];

impl RootCertConfigMaps {
    /// Those that `config` asks for.
    pub fn new(client: Client, config: &DistributionConfig) -> Self {
        let (name, scope) = match &config.mesh_ca {
            Some(mesh) => (mesh.root_config_map.clone(), Scope::Every),
            None => (OWN_NAME.to_owned(), Scope::Labelled { own: config.namespace.clone() }),
        };
        Self { client, title: format!("ConfigMap {name}"), name, scope }
    }

    fn api(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn create(&self, namespace: &str, roots: &OwnRoots) -> kube::Result<ConfigMap> {
        let mut labels = vec![("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())];
        if matches!(self.scope, Scope::Every) {
            labels.push(("istio.io/config".to_owned(), "true".to_owned()));
        }
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels.into_iter().collect()),
                annotations: Some([(MARK.to_owned(), roots.mark().to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), roots.text().to_owned())].into()),
            ..ConfigMap::default()
        };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.api(namespace).create(&params, &object).await
    }

    /// A merge patch touches our key and mark alone; the version in it makes it a compare-and-swap.
    async fn change(&self, namespace: &str, version: &str, roots: &OwnRoots) -> kube::Result<ConfigMap> {
        let patch = json!({
            "metadata": { "resourceVersion": version, "annotations": { MARK: roots.mark() } },
            "data": { KEY: roots.text() },
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.api(namespace).patch(&self.name, &params, &Patch::Merge(patch)).await
    }
}

impl RootPlaces for RootCertConfigMaps {
    fn kind(&self) -> PlaceKind {
        PlaceKind::ConfigMap
    }

    fn title(&self) -> &str {
        &self.title
    }

    fn follow(&self) -> SeenStream<Seen> {
        let config = match &self.scope {
            Scope::Labelled { .. } => Config::default().labels(NAMESPACE_LABEL),
            Scope::Every => Config::default(),
        };
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let scope = self.scope.clone();
        let namespaces = follow(namespaces, config, Followed::Places, "namespaces".into(), |namespace| {
            Some((namespace.name_any(), namespace.metadata.deletion_timestamp.is_some()))
        });
        let namespaces = namespaces.map(move |change| change.map(|change| scope.seen(change)));

        let objects: Api<ConfigMap> = Api::all(self.client.clone());
        let config = Config::default().fields(&format!("metadata.name={}", self.name));
        let objects = follow(
            objects,
            config,
            Followed::Objects,
            format!("{} of all namespaces", self.title),
            |object: &ConfigMap| Some((object.namespace()?, placed(object))),
        );
        let objects = objects.map(|change| change.map(Seen::from));
        Box::pin(stream::select(namespaces, objects))
    }

    fn write<'a>(&'a self, write: &'a Write, roots: &'a OwnRoots) -> BoxFuture<'a, Result<PlacedObject, WriteError>> {
        Box::pin(async move {
            let written = match &write.version {
                None => self.create(&write.place, roots).await,
                Some(version) => self.change(&write.place, version, roots).await,
            };
            written.map(|object| placed(&object)).map_err(|error| write_error(&error))
        })
    }
}

impl Scope {
    /// What a change of namespaces means; with each comes whether it is being deleted.
    fn seen(&self, change: Change<bool>) -> Seen {
        match change {
            Change::Listed(namespaces) => {
                let wanted = namespaces.into_iter().filter(|(name, is_going)| !is_going && self.covers(name));
                let mut wanted: Vec<String> = wanted.map(|(name, _)| name).collect();
                if let Self::Labelled { own } = self {
                    wanted.push(own.clone());
                }
                Seen::Places(wanted)
            }
            Change::Seen(name, false) if self.covers(&name) => Seen::Wanted(name),
            Change::Seen(name, _) | Change::Gone(name) => match self {
                // it needs no label, so that it has lost it means nothing
                Self::Labelled { own } if *own == name => Seen::Wanted(name),
                Self::Labelled { .. } | Self::Every => Seen::NotWanted(name),
            },
        }
    }

    fn covers(&self, name: &str) -> bool {
        matches!(self, Self::Labelled { .. }) || !EXCLUDED.contains(&name)
    }
}

fn placed(object: &ConfigMap) -> PlacedObject {
    let text = object.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str);
    let mark = object.annotations().get(MARK).map(String::as_str);
    let version = object.resource_version().unwrap_or_default();
    PlacedObject { version, found: FoundRoots::read(text, mark) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[(&str, bool)]) -> Change<bool> {
        Change::Listed(names.iter().map(|(name, is_going)| ((*name).to_owned(), *is_going)).collect())
    }

    #[test]
    fn a_mesh_has_it_in_every_namespace_but_three_and_those_that_are_going() {
        let all = [("default", false), ("kube-system", false), ("kube-public", false), ("kube-node-lease", false)];
        let seen = Scope::Every.seen(listed(&[&all[..], &[("local-path-storage", false), ("old", true)]].concat()));
        assert_eq!(seen, Seen::Places(vec!["default".into(), "kube-system".into()]));
        assert_eq!(Scope::Every.seen(Change::Seen("a".into(), false)), Seen::Wanted("a".into()));
        assert_eq!(Scope::Every.seen(Change::Seen("a".into(), true)), Seen::NotWanted("a".into()));
        assert_eq!(Scope::Every.seen(Change::Seen("kube-public".into(), false)), Seen::NotWanted("kube-public".into()));
        assert_eq!(Scope::Every.seen(Change::Gone("a".into())), Seen::NotWanted("a".into()));
    }

    #[test]
    fn without_a_mesh_the_own_namespace_needs_no_label() {
        let scope = Scope::Labelled { own: "countersign".into() };
        assert_eq!(scope.seen(listed(&[("a", false)])), Seen::Places(vec!["a".into(), "countersign".into()]));
        assert_eq!(scope.seen(Change::Gone("countersign".into())), Seen::Wanted("countersign".into()));
        assert_eq!(scope.seen(Change::Gone("a".into())), Seen::NotWanted("a".into()));
    }
}
