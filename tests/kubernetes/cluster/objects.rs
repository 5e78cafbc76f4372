//! Objects that a cluster's controllers and users would make.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Container, Namespace, Pod, PodSpec, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{self, ApiCapabilities, ApiResource, Scope},
};
use serde::Deserialize as _;
use serde_json::json;
use tonic::codegen::http::Request;

use super::Cluster;

/// From when a kind is served until discovery names it.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(30);

/// Who a kubeconfig or token is for.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What a token is asked for.
#[derive(Clone, Debug)]
pub(crate) struct TokenFor<'a> {
    /// Empty for those of the API server itself.
    pub(crate) audiences: &'a [&'a str],
    /// The API server gives at least 10 minutes.
    pub(crate) lifetime: Duration,
    /// A pod of the account that the token is bound to.
    pub(crate) pod: Option<&'a str>,
}

impl Default for TokenFor<'_> {
    fn default() -> Self {
        Self { audiences: &[], lifetime: Duration::from_secs(3600), pod: None }
    }
}

/// As a kubelet would write it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Cluster {
    /// Makes a namespace whose name begins with `prefix`: the name.
    pub(crate) async fn namespace(&self, prefix: &str) -> String {
        let name = self.unique(prefix);
        self.namespace_named(&name, &[]).await;
        name
    }

    /// Makes a namespace with this very name.
    pub(crate) async fn namespace_named(&self, name: &str, labels: &[(&str, &str)]) {
        let namespace = Namespace { metadata: metadata(name, labels), ..Namespace::default() };
        Api::all(self.admin()).create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// Deletes a namespace and finishes that, as the namespace controller would. Objects in it are left where they are.
    pub(crate) async fn delete_namespace(&self, name: &str) {
        let namespaces = Api::<Namespace>::all(self.admin());
        namespaces.delete(name, &DeleteParams::default()).await.unwrap();
        let mut namespace = namespaces.get(name).await.unwrap();
        namespace.spec.get_or_insert_default().finalizers = None;
        let client = self.admin();
        let request = Request::put(format!("/api/v1/namespaces/{name}/finalize"));
        let request = request.header("content-type", "application/json");
        let body = serde_json::to_vec(&namespace).unwrap();
        client.request_text(request.body(body).unwrap()).await.unwrap();
    }

    /// Makes a service account.
    pub(crate) async fn account(&self, namespace: &str, name: &str) -> Account {
        let account = ServiceAccount { metadata: metadata(name, &[]), ..ServiceAccount::default() };
        let accounts = Api::namespaced(self.admin(), namespace);
        accounts.create(&PostParams::default(), &account).await.unwrap();
        Account { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A token by TokenRequest.
    pub(crate) async fn token(&self, account: &Account, asked: &TokenFor<'_>) -> String {
        let bound = match asked.pod {
            None => None,
            Some(pod) => Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                uid: self.pods(&account.namespace).get(pod).await.unwrap().metadata.uid,
            }),
        };
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: asked.audiences.iter().map(|audience| (*audience).to_owned()).collect(),
                expiration_seconds: Some(i64::try_from(asked.lifetime.as_secs()).unwrap()),
                bound_object_ref: bound,
            },
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), &account.namespace);
        let made = accounts.create_token_request(&account.name, &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token
    }

    /// A kubeconfig for a service account, with the token in a file beside it, as in a pod.
    pub(crate) async fn kubeconfig(&self, account: &Account) -> PathBuf {
        self.kubeconfig_with(account, &TokenFor::default()).await
    }

    /// The same with a token of another kind.
    pub(crate) async fn kubeconfig_with(&self, account: &Account, asked: &TokenFor<'_>) -> PathBuf {
        self.kubeconfig_by_way_of(&self.url(), account, asked).await
    }

    /// The same for somebody who finds the API server at `server`.
    pub(crate) async fn kubeconfig_by_way_of(&self, server: &str, account: &Account, asked: &TokenFor<'_>) -> PathBuf {
        let name = self.unique(&format!("{}-{}", account.namespace, account.name));
        let (token_file, path) = (self.folder().join(format!("{name}.token")), self.folder().join(name));
        fs::write(&token_file, self.token(account, asked).await).unwrap();
        self.write_kubeconfig(&path, &json!({ "tokenFile": token_file }), server);
        path
    }

    /// The pods of a namespace.
    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin(), namespace)
    }

    /// Makes a pod of `account`, on no node and running: its UID.
    pub(crate) async fn pod(&self, account: &Account, name: &str) -> String {
        let container = Container { name: "main".to_owned(), image: Some("none".to_owned()), ..Container::default() };
        let pod = Pod {
            metadata: metadata(name, &[]),
            spec: Some(PodSpec {
                service_account_name: Some(account.name.clone()),
                containers: vec![container],
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        let made = self.pods(&account.namespace).create(&PostParams::default(), &pod).await.unwrap();
        self.set_phase(&account.namespace, name, PodPhase::Running).await;
        made.metadata.uid.unwrap()
    }

    /// Writes a pod's phase.
    pub(crate) async fn set_phase(&self, namespace: &str, pod: &str, phase: PodPhase) {
        let patch = Patch::Merge(json!({ "status": { "phase": format!("{phase:?}") } }));
        self.pods(namespace).patch_status(pod, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deletes a pod at once.
    pub(crate) async fn delete_pod(&self, namespace: &str, pod: &str) {
        self.pods(namespace).delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// Makes a Secret of type `Opaque`.
    pub(crate) async fn secret(&self, namespace: &str, name: &str, data: &[(&str, &[u8])]) {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())));
        let secret = Secret { metadata: metadata(name, &[]), data: Some(data.collect()), ..Secret::default() };
        Api::namespaced(self.admin(), namespace).create(&PostParams::default(), &secret).await.unwrap();
    }

    /// Applies every object of a YAML file, as `kubectl apply --server-side` does.
    pub(crate) async fn apply_file(&self, path: &Path) {
        self.apply(&fs::read_to_string(path).unwrap()).await;
    }

    /// Applies every object of a YAML text. One that names no namespace and needs one goes to `default`. Rights among them hold
    /// when this returns.
    pub(crate) async fn apply(&self, yaml: &str) {
        self.apply_objects(yaml).await;
        if yaml.contains("apiVersion: rbac.authorization.k8s.io/") {
            self.wait_for_rights().await;
        }
    }

    pub(super) async fn apply_objects(&self, yaml: &str) {
        let applied = self.apply_with(yaml, &PatchParams::apply("tests").force()).await;
        applied.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The same in the way that `params` says, and without waiting for rights.
    pub(crate) async fn apply_with(&self, yaml: &str, params: &PatchParams) -> Result<(), String> {
        let client = self.admin();
        let documents = serde_yaml_ng::Deserializer::from_str(yaml);
        let objects: Vec<Option<DynamicObject>> =
            documents.map(|document| Option::deserialize(document).unwrap()).collect();
        let mut known = BTreeMap::new();
        for object in objects.into_iter().flatten() {
            let types = object.types.clone().expect("apiVersion and kind");
            let of = format!("{} {}", types.api_version, types.kind);
            if !known.contains_key(&of) {
                known.insert(of.clone(), discovered(&client, &types.try_into().unwrap()).await);
            }
            let (kind, capabilities) = &known[&of];
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster => Api::all_with(client.clone(), kind),
                Scope::Namespaced => {
                    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
                    Api::namespaced_with(client.clone(), namespace, kind)
                }
            };
            let name = object.metadata.name.clone().expect("a name");
            let applied = api.patch(&name, params, &Patch::Apply(&object)).await;
            applied.map_err(|error| format!("{} {name}: {error}", kind.kind))?;
        }
        Ok(())
    }
}

/// The kind as the API server's discovery has it. A kind that was just installed may be served before discovery names it: waits.
async fn discovered(client: &Client, kind: &GroupVersionKind) -> (ApiResource, ApiCapabilities) {
    let begin = Instant::now();
    loop {
        match discovery::pinned_kind(client, kind).await {
            Ok(found) => return found,
            Err(error) if begin.elapsed() > DISCOVERED_WITHIN => panic!("{kind:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn metadata(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
}
