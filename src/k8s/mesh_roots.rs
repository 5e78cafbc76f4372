//! The object in which a mesh keeps its roots for those outside of it: a ConfigMap, or a ClusterTrustBundle in whichever version
//! the API server serves. A watch tells of a change at once; the object is also read anew whenever somebody could not verify a CA
//! by what is known.
//!
//! Roots that were good are kept whatever becomes of the object: deleted, unusable, out of reach.

use kube::Client;
use serde::Deserialize;
use tracing::{info, warn};

use super::{
    cluster_trust_bundle::{GROUP, PLURAL, VERSIONS},
    list_watch::{Heard, Source, Trimmed, follow},
};
use crate::service::ca_roots::{FollowedRoots, RootsFollower, RootsObject, followed_roots};

/// One such object, to be followed.
pub struct MeshRoots {
    client: Client,
    /// As messages name it.
    place: String,
    paths: Vec<String>,
    name: String,
    /// What is wrong with one that is empty.
    empty: &'static str,
    rights: &'static str,
    known: RootsFollower,
}

/// What becomes of it.
struct Reading<'a> {
    place: &'a str,
    known: &'a RootsFollower,
    /// What is wrong with the object now.
    lack: Option<String>,
}

/// The object, as far as it counts.
#[derive(Clone, Debug, Deserialize)]
struct Holder {
    metadata: Metadata,
    /// Of a ConfigMap.
    #[serde(default)]
    data: Data,
    /// Of a ClusterTrustBundle.
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

/// As istiod writes it.
#[derive(Clone, Debug, Default, Deserialize)]
struct Data {
    #[serde(rename = "root-cert.pem")]
    roots: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    trust_bundle: Option<String>,
}

impl MeshRoots {
    /// Those in `object`. Nothing is asked before [`MeshRoots::follow`].
    pub fn new(client: Client, object: &RootsObject) -> (Self, FollowedRoots) {
        let (place, paths, name, empty, rights) = match object {
            RootsObject::ConfigMap { namespace, name } => {
                let namespace = namespace.as_deref().unwrap_or(client.default_namespace());
                let paths = vec![format!("/api/v1/namespaces/{namespace}/configmaps")];
                let rights = "rbac-agent.yaml, or for a replica rbac-istiod.yaml";
                (format!("ConfigMap {namespace}/{name}"), paths, name, "it has no root-cert.pem", rights)
            }
            RootsObject::ClusterTrustBundle { name } => {
                let paths = VERSIONS.map(|version| format!("/apis/{GROUP}/{version}/{PLURAL}")).to_vec();
                let rights = "rbac-read-cluster-trust-bundle.yaml";
                (format!("ClusterTrustBundle {name}"), paths, name, "it has no spec.trustBundle", rights)
            }
        };
        let (known, roots) = followed_roots(&place);
        (Self { client, place, paths, name: name.clone(), empty, rights, known }, roots)
    }

    /// Never returns. The rights that it needs are `list` and `watch` on this very object.
    pub async fn follow(self) {
        let paths: Vec<&str> = self.paths.iter().map(String::as_str).collect();
        let fields = format!("metadata.name={}", self.name);
        let source = Source {
            paths: &paths,
            fields: &fields,
            event: "mesh_roots_unreachable",
            rights: self.rights,
            look_again: Some(self.known.wanted()),
            look_now: Some(self.known.wanted_now()),
            ..Source::ANY
        };
        let mut reading = Reading { place: &self.place, known: &self.known, lack: None };
        match follow(&self.client, source, |holder| Some(roots_in(holder, self.empty)), |heard| reading.hear(heard))
            .await {}
    }
}

impl Trimmed for Holder {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

fn roots_in(holder: &Holder, empty: &'static str) -> Result<String, &'static str> {
    let roots = holder.data.roots.as_ref().or(holder.spec.trust_bundle.as_ref());
    roots.cloned().ok_or(empty)
}

impl Reading<'_> {
    fn hear(&mut self, heard: Heard<Result<String, &'static str>>) {
        match heard {
            Heard::Listed(objects, _) => {
                match objects.into_iter().next() {
                    Some(found) => self.read(found),
                    None => self.lacks("mesh_roots_missing", "not found"),
                }
                self.known.looked(self.lack.is_none());
            }
            Heard::Put(found) => self.read(found),
            Heard::Gone(_) => self.lacks("mesh_roots_gone", "deleted"),
            // whatever the trouble was, that is what there is to say now
            Heard::Served(_) | Heard::NotServed | Heard::Alive => self.tell(),
            Heard::Trouble(problem) => self.known.missed(&format!("{}: {problem}", self.place)),
        }
    }

    fn read(&mut self, found: Result<String, &'static str>) {
        let read = found.map_err(str::to_owned);
        match read.and_then(|roots| self.known.found(roots.as_bytes()).map_err(|error| error.to_string())) {
            Ok(is_news) => {
                if is_news || self.lack.is_some() {
                    info!(event = "mesh_roots_read", place = self.place, changed = is_news);
                }
                self.lack = None;
            }
            Err(why) => self.lacks("mesh_roots_unusable", &why),
        }
    }

    fn lacks(&mut self, event: &'static str, what: &str) {
        let lack = format!("{}: {what}", self.place);
        if self.lack.as_ref() != Some(&lack) {
            warn!(event, reason = lack, "going on with the roots that are known");
        }
        self.lack = Some(lack);
        self.tell();
    }

    fn tell(&self) {
        if let Some(lack) = &self.lack {
            self.known.missed(lack);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::authority;

    fn found(json: &str) -> Result<String, &'static str> {
        roots_in(&serde_json::from_str(json).unwrap(), "it is empty")
    }

    #[test]
    fn both_kinds_are_read_as_the_api_server_writes_them() {
        let json = r#"{"metadata": {"name": "r", "resourceVersion": "7"}, "data": {"root-cert.pem": "PEM", "x": "y"}}"#;
        assert_eq!(found(json), Ok("PEM".to_owned()));
        let bundle = r#"{"metadata": {"name": "i:r", "resourceVersion": "7"}, "spec": {"signerName": "i", "trustBundle": "PEM"}}"#;
        assert_eq!(found(bundle), Ok("PEM".to_owned()));
        let without = r#"{"metadata": {"name": "r", "resourceVersion": "7"}}"#;
        assert_eq!(found(without), Err("it is empty"));
    }

    #[tokio::test]
    async fn what_an_object_without_roots_lacks_is_named_as_its_kind_names_it() {
        let address = "http://127.0.0.1:1".parse().unwrap();
        let client = Client::try_from(kube::Config::new(address)).unwrap();
        let name = "a".to_owned();
        let bundle = MeshRoots::new(client.clone(), &RootsObject::ClusterTrustBundle { name: name.clone() }).0;
        let map = MeshRoots::new(client, &RootsObject::ConfigMap { namespace: None, name }).0;
        assert_eq!([bundle.empty, map.empty], ["it has no spec.trustBundle", "it has no root-cert.pem"]);
    }

    #[test]
    fn good_roots_stay_whatever_becomes_of_the_object() {
        let (known, roots) = followed_roots("ConfigMap a/b");
        let mut reading = Reading { place: "ConfigMap a/b", known: &known, lack: None };
        let absence = |roots: &FollowedRoots| roots.newest().unwrap_err().to_string();
        reading.hear(Heard::Trouble("refused".to_owned()));
        assert_eq!(absence(&roots), "ConfigMap a/b: refused");
        reading.hear(Heard::Listed(vec![], String::new()));
        assert_eq!(absence(&roots), "ConfigMap a/b: not found");
        reading.hear(Heard::Trouble("refused".to_owned()));
        reading.hear(Heard::Alive);
        assert_eq!(absence(&roots), "ConfigMap a/b: not found", "the trouble is over");
        reading.hear(Heard::Put(Ok("no PEM".to_owned())));
        assert!(absence(&roots).starts_with("ConfigMap a/b: "), "{}", absence(&roots));

        let (old, new) = (authority().bundle().to_pem(), authority().bundle().to_pem());
        reading.hear(Heard::Put(Ok(old.clone())));
        assert_eq!((&*roots.newest().unwrap(), &reading.lack), (old.as_bytes(), &None));
        for (heard, lack) in [
            (Heard::Put(Ok(String::new())), "ConfigMap a/b: "),
            (Heard::Put(Err("it has no root-cert.pem")), "ConfigMap a/b: it has no root-cert.pem"),
            (Heard::Gone(Ok(new.clone())), "ConfigMap a/b: deleted"),
            (Heard::Listed(vec![], String::new()), "ConfigMap a/b: not found"),
        ] {
            reading.hear(heard);
            assert!(reading.lack.as_deref().unwrap().starts_with(lack), "{:?}", reading.lack);
            assert_eq!(&*roots.newest().unwrap(), old.as_bytes());
        }
        reading.hear(Heard::Listed(vec![Ok(new.clone())], String::new()));
        assert_eq!((&*roots.newest().unwrap(), &reading.lack), (new.as_bytes(), &None));
    }
}
