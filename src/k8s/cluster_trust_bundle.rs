//! The ClusterTrustBundle with the roots, in whichever version the API server serves it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::Either, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    following::{follow, text_of, write_error},
    root_cert_config_maps::{FIELD_MANAGER, MARK},
};
use crate::{
    domain::bundle::{FoundRoots, OwnRoots, PlacedObject, Seen, Write},
    service::{
        bundle_distribution::{DistributionConfig, Followed, PlacesError, RootPlaces, SeenStream, WriteError},
        metrics::PlaceKind,
        ports::BoxFuture,
    },
};

/// Follows and writes it.
pub struct ClusterTrustBundle {
    client: Client,
    name: String,
    signer: String,
    title: String,
    served: Arc<Mutex<Option<ApiResource>>>,
}

pub(super) const GROUP: &str = "certificates.k8s.io";
pub(super) const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
const KIND: &str = "ClusterTrustBundle";
pub(super) const PLURAL: &str = "clustertrustbundles";
/// As istiod's own.
const MESH_SIGNER: &str = "istio.io/istiod-ca";
/// There is one place.
const PLACE: &str = "cluster";
/// An API server that serves no such objects may be upgraded.
const ASK_AGAIN: Duration = Duration::from_secs(300);
const ASK_AGAIN_AFTER_ERROR: Duration = Duration::from_secs(5);

impl ClusterTrustBundle {
    /// The one that `config` asks for. Its name begins with that of its signer, as the API server demands.
    pub fn new(client: Client, config: &DistributionConfig) -> Self {
        let signer = match &config.mesh_ca {
            Some(_) => MESH_SIGNER.to_owned(),
            None => format!("countersign.io/{}", config.trust_domain),
        };
        let name = format!("{}:root-cert", signer.replace('/', ":"));
        Self { client, title: format!("{KIND} {name}"), name, signer, served: Arc::default() }
    }

    fn api(&self) -> Option<(Api<DynamicObject>, ApiResource)> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner).clone();
        served.map(|resource| (Api::all_with(self.client.clone(), &resource), resource))
    }

    async fn create(
        &self,
        api: &Api<DynamicObject>,
        resource: &ApiResource,
        roots: &OwnRoots,
    ) -> kube::Result<DynamicObject> {
        let mut object = DynamicObject::new(&self.name, resource).data(json!({
            "spec": { "signerName": self.signer, "trustBundle": roots.text() },
        }));
        object.metadata.annotations = Some([(MARK.to_owned(), roots.mark().to_owned())].into());
        object.metadata.labels = Some([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())].into());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        api.create(&params, &object).await
    }

    async fn change(&self, api: &Api<DynamicObject>, version: &str, roots: &OwnRoots) -> kube::Result<DynamicObject> {
        let patch = json!({
            "metadata": { "resourceVersion": version, "annotations": { MARK: roots.mark() } },
            "spec": { "trustBundle": roots.text() },
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch(&self.name, &params, &Patch::Merge(patch)).await
    }
}

impl RootPlaces for ClusterTrustBundle {
    fn kind(&self) -> PlaceKind {
        PlaceKind::ClusterTrustBundle
    }

    fn title(&self) -> &str {
        &self.title
    }

    fn follow(&self) -> SeenStream<Seen> {
        let (client, served) = (self.client.clone(), Arc::clone(&self.served));
        let (name, title) = (self.name.clone(), self.title.clone());
        // asks until it is served, then follows for ever
        let found = stream::unfold(Duration::ZERO, move |pause| {
            let (client, served, name, title) = (client.clone(), Arc::clone(&served), name.clone(), title.clone());
            async move {
                sleep(pause).await;
                let not_yet = |problem, pause| {
                    (Either::Left(stream::iter([Err(PlacesError { followed: Followed::Objects, problem })])), pause)
                };
                Some(match served_version(&client).await {
                    Ok(Some(resource)) => {
                        *served.lock().unwrap_or_else(PoisonError::into_inner) = Some(resource.clone());
                        (Either::Right(follow_one(client, &resource, &name, title)), ASK_AGAIN)
                    }
                    Ok(None) => not_yet(format!("{title}: the API server serves no {PLURAL} of {GROUP}"), ASK_AGAIN),
                    Err(error) => not_yet(format!("{title}: {}", text_of(&error)), ASK_AGAIN_AFTER_ERROR),
                })
            }
        });
        Box::pin(found.flatten())
    }

    fn write<'a>(&'a self, write: &'a Write, roots: &'a OwnRoots) -> BoxFuture<'a, Result<PlacedObject, WriteError>> {
        Box::pin(async move {
            let Some((api, resource)) = self.api() else { return Err(WriteError::Failed("it is not served".into())) };
            let written = match &write.version {
                None => self.create(&api, &resource, roots).await,
                Some(version) => self.change(&api, version, roots).await,
            };
            written.map(|object| placed(&object)).map_err(|error| write_error(&error))
        })
    }
}

/// The first version of ours that the API server has.
async fn served_version(client: &Client) -> kube::Result<Option<ApiResource>> {
    for version in VERSIONS {
        match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
            Ok(served) if served.resources.iter().any(|resource| resource.name == PLURAL) => {
                let kind = GroupVersionKind::gvk(GROUP, version, KIND);
                return Ok(Some(ApiResource::from_gvk_with_plural(&kind, PLURAL)));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn follow_one(
    client: Client,
    resource: &ApiResource,
    name: &str,
    title: String,
) -> impl stream::Stream<Item = Result<Seen, PlacesError>> + Send + use<> {
    let api: Api<DynamicObject> = Api::all_with(client, resource);
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let objects = follow(api, config, Followed::Objects, title, |object| Some((PLACE.to_owned(), placed(object))));
    let objects = objects.map(|change| change.map(Seen::from));
    stream::iter([Ok(Seen::Places(vec![PLACE.to_owned()]))]).chain(objects)
}

fn placed(object: &DynamicObject) -> PlacedObject {
    let text = object.data.pointer("/spec/trustBundle").and_then(serde_json::Value::as_str);
    let mark = object.annotations().get(MARK).map(String::as_str);
    PlacedObject { version: object.resource_version().unwrap_or_default(), found: FoundRoots::read(text, mark) }
}
