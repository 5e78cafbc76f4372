//! Writes the objects that gateways of the Gateway API need, by server-side apply, and reads of them what was written.
//!
//! Ours is what our field manager has applied: neither a label nor a name makes an object ours, since anybody can copy those.

mod shape;

use kube::{
    Client, Error,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::{Request, Status},
};

use self::shape::Written;
pub(super) use self::shape::{RootsObject, SDS_TYPE, TlsPolicyObject};
use super::{following::text_of, root_cert_config_maps::FIELD_MANAGER};
use crate::{
    domain::policy::ObjectKind,
    service::{
        policy_objects::{GatewayObjects, ObjectKey, Print, Removed, SeenObject, Wanted, WriteError},
        ports::BoxFuture,
    },
};

/// Writes them. Needs the rights of `charts/countersign/rbac-policy-objects.yaml`.
pub struct ClusterPolicyObjects {
    client: Client,
}

impl ClusterPolicyObjects {
    /// By way of `client`.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }

    async fn apply_wanted(&self, wanted: &Wanted, version: Option<&str>) -> Result<SeenObject, WriteError> {
        let key = &wanted.key;
        let body = shape::render(wanted, version);
        let params = PatchParams { force: version.is_some(), ..PatchParams::apply(FIELD_MANAGER) };
        let request = Request::new(path(key)).patch(&key.object.name, &params, &Patch::Apply(&body));
        let request = request.map_err(|error| WriteError::Refused(error.to_string()))?;
        let applied = match key.kind {
            ObjectKind::ConfigMap => self.client.request::<RootsObject>(request).await.map(|object| object.seen()),
            ObjectKind::SdsSecret => self.client.request::<shape::SdsObject>(request).await.map(|object| object.seen()),
            ObjectKind::BackendTlsPolicy => {
                self.client.request::<TlsPolicyObject>(request).await.map(|object| object.seen())
            }
        };
        applied.map_err(|error| write_error(&error))
    }

    async fn remove_seen(&self, key: &ObjectKey, seen: Option<&SeenObject>) -> Result<Removed, WriteError> {
        let preconditions = seen.map(|seen| Preconditions {
            uid: Some(seen.uid.clone().into()),
            resource_version: Some(seen.version.clone().into()),
        });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = Request::new(path(key)).delete(&key.object.name, &params);
        let request = request.map_err(|error| WriteError::Refused(error.to_string()))?;
        match self.client.request_status::<Written>(request).await {
            Ok(answer) => Ok(answer.left().map_or(Removed::Gone, |object| object.after_removal())),
            Err(Error::Api(status)) if status.is_not_found() => Ok(Removed::Gone),
            Err(error) => Err(write_error(&error)),
        }
    }
}

impl GatewayObjects for ClusterPolicyObjects {
    fn print(&self, wanted: &Wanted) -> Print {
        shape::print_of(wanted)
    }

    fn apply<'a>(
        &'a self,
        wanted: &'a Wanted,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<SeenObject, WriteError>> {
        Box::pin(self.apply_wanted(wanted, version))
    }

    fn remove<'a>(
        &'a self,
        key: &'a ObjectKey,
        seen: Option<&'a SeenObject>,
    ) -> BoxFuture<'a, Result<Removed, WriteError>> {
        Box::pin(self.remove_seen(key, seen))
    }
}

/// Of the objects of a kind in a namespace.
fn path(key: &ObjectKey) -> String {
    let namespace = &key.object.namespace;
    match key.kind {
        ObjectKind::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
        ObjectKind::SdsSecret => format!("/api/v1/namespaces/{namespace}/secrets"),
        ObjectKind::BackendTlsPolicy => {
            format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/backendtlspolicies")
        }
    }
}

fn write_error(error: &Error) -> WriteError {
    let Error::Api(status) = error else {
        return WriteError::Unavailable { why: text_of(error), pause: None };
    };
    let is_going = status.is_forbidden() && status.message.contains("being terminated");
    // a webhook or a policy of the cluster that minds this object alone
    let is_minded = status.is_forbidden()
        && ["denied the request", "denied request"].iter().any(|text| status.message.contains(text));
    // somebody has deleted the kind, which goes as soon as its objects have
    let is_kind_going = status.is_forbidden() && status.message.contains("custom resource definition is terminating");
    let why = if status.is_forbidden() && !is_minded && !is_kind_going {
        format!("{}: apply charts/countersign/rbac-policy-objects.yaml", status.message)
    } else {
        status.message.clone()
    };
    match status.code {
        _ if is_going => WriteError::Outdated(why),
        404 | 409 | 410 => WriteError::Outdated(why),
        _ if is_minded => WriteError::Refused(why),
        400 | 405 | 406 | 413 | 415 | 422 => WriteError::Refused(why),
        _ => WriteError::Unavailable { why, pause: asked_pause(status) },
    }
}

fn asked_pause(status: &Status) -> Option<std::time::Duration> {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    (seconds > 0).then(|| std::time::Duration::from_secs(seconds.into()))
}
