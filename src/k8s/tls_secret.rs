//! A Secret of type `kubernetes.io/tls`: the one that istiod serves with where it has no CA of its own (docs/distribution.md),
//! and those of gateways (docs/outputs.md).

use futures_util::{StreamExt, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::watcher::Config,
};
use zeroize::Zeroizing;

use super::{
    following::{Change, follow, text_of, write_error},
    root_cert_config_maps::{FIELD_MANAGER, MARK},
};
use crate::{
    domain::bundle::FoundRoots,
    service::{
        bundle_distribution::{
            Followed, PlacesError, SecretSeen, SeenStream, ServingFiles, StoredSecret, TLS_TYPE, TlsSecret, WriteError,
        },
        ports::BoxFuture,
    },
};

/// Follows, reads and writes it.
pub struct ClusterTlsSecret {
    client: Client,
    namespace: String,
    name: String,
}

/// The one that istiod's chart mounts.
pub(super) const OF_ISTIOD: &str = "istiod-tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";

impl ClusterTlsSecret {
    /// The one of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create(&self, files: &ServingFiles) -> kube::Result<Secret> {
        let mut object = holding(files);
        object.metadata.name = Some(self.name.clone());
        object.metadata.labels = Some([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())].into());
        object.type_ = Some(TLS_TYPE.to_owned());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = self.api().create(&params, &object).await;
        wipe(object);
        created
    }

    /// Touches our keys and mark alone, and only while the Secret is at `version`.
    async fn change(&self, version: &str, files: &ServingFiles) -> kube::Result<Secret> {
        let mut object = holding(files);
        object.metadata.resource_version = Some(version.to_owned());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let changed = self.api().patch(&self.name, &params, &Patch::Merge(&object)).await;
        wipe(object);
        changed
    }
}

impl TlsSecret for ClusterTlsSecret {
    fn follow(&self) -> SeenStream<SecretSeen> {
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let config = Config::default().fields(&format!("metadata.name={}", self.namespace));
        let namespaces =
            follow(namespaces, config, Followed::Places, format!("namespace {}", self.namespace), |namespace| {
                Some((namespace.name_any(), namespace.metadata.deletion_timestamp.is_none()))
            });
        let namespaces = namespaces.map(|change| {
            change.map(|change| match change {
                Change::Listed(namespaces) => SecretSeen::Namespace(namespaces.iter().any(|(_, is_there)| *is_there)),
                Change::Seen(_, is_there) => SecretSeen::Namespace(is_there),
                Change::Gone(_) => SecretSeen::Namespace(false),
            })
        });
        let config = Config::default().fields(&format!("metadata.name={}", self.name));
        let secrets = follow(
            self.api(),
            config,
            Followed::Objects,
            format!("secret {}/{}", self.namespace, self.name),
            |secret: &Secret| Some((secret.name_any(), stored(secret))),
        );
        let secrets = secrets.map(|change: Result<Change<StoredSecret>, PlacesError>| {
            change.map(|change| match change {
                Change::Listed(mut secrets) => SecretSeen::Secret(secrets.pop().map(|(_, secret)| secret)),
                Change::Seen(_, secret) => SecretSeen::Secret(Some(secret)),
                Change::Gone(_) => SecretSeen::Secret(None),
            })
        });
        Box::pin(stream::select(namespaces, secrets))
    }

    fn read(&self) -> BoxFuture<'_, Result<Option<StoredSecret>, String>> {
        Box::pin(async move {
            let secret = self.api().get_opt(&self.name).await.map_err(|error| text_of(&error))?;
            Ok(secret.map(|secret| {
                let stored = stored(&secret);
                wipe(secret);
                stored
            }))
        })
    }

    fn write<'a>(
        &'a self,
        version: Option<&'a str>,
        files: &'a ServingFiles,
    ) -> BoxFuture<'a, Result<StoredSecret, WriteError>> {
        Box::pin(async move {
            let written = match version {
                None => self.create(files).await,
                Some(version) => self.change(version, files).await,
            };
            let secret = written.map_err(|error| write_error(&error))?;
            let stored = stored(&secret);
            wipe(secret);
            Ok(stored)
        })
    }
}

/// What a Secret with these has of ours.
fn holding(files: &ServingFiles) -> Secret {
    let data =
        [(CERTIFICATE, files.certificate.as_bytes()), (KEY, files.key.as_bytes()), (ROOTS, files.roots.as_bytes())];
    let data = data.into_iter().map(|(name, content)| (name.to_owned(), ByteString(content.to_vec())));
    let annotations = Some([(MARK.to_owned(), files.publisher.clone())].into());
    Secret {
        metadata: ObjectMeta { annotations, ..ObjectMeta::default() },
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn stored(secret: &Secret) -> StoredSecret {
    let content = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|content| content.0.clone()).unwrap_or_default()
    };
    StoredSecret {
        version: secret.resource_version().unwrap_or_default(),
        certificate: content(CERTIFICATE),
        key: content(KEY).into(),
        roots: FoundRoots::read(std::str::from_utf8(&content(ROOTS)).ok(), None),
        publisher: secret.annotations().get(MARK).cloned(),
        kind: secret.type_.clone().unwrap_or_default(),
    }
}

/// What is left in the buffers of the client is beyond reach.
fn wipe(secret: Secret) {
    secret.data.into_iter().flatten().for_each(|(_, content)| drop(Zeroizing::new(content.0)));
}
