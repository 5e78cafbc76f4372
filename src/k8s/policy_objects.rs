//! Writes the objects that gateways of the Gateway API need, by server-side apply, and reads of them what was written.
//!
//! Ours is what our field manager has applied: neither a label nor a name makes an object ours, since anybody can copy those.

mod owners;
mod shape;

use std::time::Duration;

use kube::{
    Client, Error,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::{Request, Status},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(super) use self::shape::{RootsObject, SDS_TYPE, TlsPolicyObject};
use self::{owners::OwnedSecret, shape::Written};
use super::{following::text_of, root_cert_config_maps::FIELD_MANAGER};
use crate::{
    domain::policy::{ObjectKind, ObjectName},
    service::{
        policy_objects::{GatewayObjects, ObjectKey, Pause, Print, Removed, SeenObject, Wanted, WriteError},
        ports::BoxFuture,
    },
};

/// The field manager of a write that is never made.
const LOOKS: &str = "countersign-looks";
/// What the API server says of a namespace in which nothing is made any more.
const TERMINATED: &str = "being terminated";
/// What it says of one that would have to be made, and of none that is there.
const NO_NEW_ONE: [&str; 2] = [TERMINATED, "exceeded quota"];

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
        let body = shape::render(wanted, version);
        let params = PatchParams { force: version.is_some(), ..PatchParams::apply(FIELD_MANAGER) };
        match wanted.key.kind {
            ObjectKind::ConfigMap => self.patch::<RootsObject>(&wanted.key, &params, &body).await.map(|it| it.seen()),
            ObjectKind::BackendTlsPolicy => {
                self.patch::<TlsPolicyObject>(&wanted.key, &params, &body).await.map(|it| it.seen())
            }
            ObjectKind::SdsSecret => return self.apply_secret(wanted, &params, version).await,
        }
        .map_err(|error| write_error(&error))
    }

    /// What is in our Secrets can't be changed: one with something else, as another version of Envoy Gateway wants it, takes the place
    /// of the one that is there.
    async fn apply_secret(
        &self,
        wanted: &Wanted,
        params: &PatchParams,
        version: Option<&str>,
    ) -> Result<SeenObject, WriteError> {
        match self.write_secret(wanted, params, version).await {
            Err(WriteError::Refused(why)) if why.contains("field is immutable when `immutable` is set") => {
                self.make_way(&wanted.key).await?;
                self.write_secret(wanted, &PatchParams { force: false, ..params.clone() }, None).await
            }
            written => written,
        }
    }

    async fn write_secret(
        &self,
        wanted: &Wanted,
        params: &PatchParams,
        version: Option<&str>,
    ) -> Result<SeenObject, WriteError> {
        let body = shape::render(wanted, version);
        if version.is_none() {
            self.check_secret(&wanted.key, params, &body).await?;
        }
        let written = self.patch::<shape::SdsObject>(&wanted.key, params, &body).await;
        written.map(|it| it.seen()).map_err(|error| write_error(&error))
    }

    /// Removes the Secret if nobody else has said what is in it.
    async fn make_way(&self, key: &ObjectKey) -> Result<(), WriteError> {
        let found = self.look(key).await.map_err(|error| write_error(&error))?;
        if let Some(other) = found.other_than(&[FIELD_MANAGER, LOOKS]) {
            return Err(left_alone(&format!("field manager {other:?} has made it")));
        }
        match self.remove_uid(key, found.uid()).await? {
            Removed::Gone => Ok(()),
            Removed::Going => Err(WriteError::Refused("a finalizer keeps the one that it is to replace".into())),
        }
    }

    /// Who has said what in a Secret. Nothing of it is read but its metadata, in the answer to a write that says nothing and is not made.
    async fn look(&self, key: &ObjectKey) -> Result<OwnedSecret, Error> {
        let ObjectName { namespace, name } = &key.object;
        let nothing = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": &**namespace, "name": &**name }, "type": SDS_TYPE,
        });
        self.patch(key, &PatchParams { dry_run: true, ..PatchParams::apply(LOOKS) }, &nothing).await
    }

    /// Removes a Secret of which nothing is known but that it was ours once: somebody may have made another one in its place.
    async fn remove_presumed(&self, key: &ObjectKey) -> Result<Removed, WriteError> {
        match self.look(key).await {
            Ok(found) if found.other_than(&[FIELD_MANAGER, LOOKS]).is_some() => Ok(Removed::Gone),
            Ok(found) => self.remove_uid(key, found.uid()).await,
            // somebody else says that it is of another type
            Err(error) if is_conflict(&error) => Ok(Removed::Gone),
            // none can be made there, so there was none
            Err(Error::Api(status))
                if status.is_not_found() || NO_NEW_ONE.iter().any(|why| status.message.contains(why)) =>
            {
                Ok(Removed::Gone)
            }
            Err(error) => Err(write_error(&error)),
        }
    }

    /// Removes this Secret, and no other one of that name.
    async fn remove_uid(&self, key: &ObjectKey, uid: &str) -> Result<Removed, WriteError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        match self.delete(key, Some(preconditions)).await {
            // another one is in its place
            Err(error) if is_conflict(&error) => Ok(Removed::Gone),
            removed => removed.map_err(|error| write_error(&error)),
        }
    }

    async fn patch<T: DeserializeOwned>(
        &self,
        key: &ObjectKey,
        params: &PatchParams,
        body: &Value,
    ) -> Result<T, Error> {
        let request = Request::new(path(key)).patch(&key.object.name, params, &Patch::Apply(body));
        self.client.request(request.map_err(Error::BuildRequest)?).await
    }

    /// Of somebody else's Secret nothing is seen but what a write would be answered. With the same type, and values that were given
    /// as `stringData`, a write is no conflict, and would change theirs.
    async fn check_secret(&self, key: &ObjectKey, params: &PatchParams, body: &Value) -> Result<(), WriteError> {
        match self.patch::<OwnedSecret>(key, &PatchParams { dry_run: true, ..params.clone() }, body).await {
            Ok(secret) => match secret.other_than(&[FIELD_MANAGER]) {
                Some(other) => Err(left_alone(&format!("field manager {other:?} has made it"))),
                None => Ok(()),
            },
            Err(error) if is_conflict(&error) => {
                Err(left_alone(&format!("{}: somebody else has made it", text_of(&error))))
            }
            Err(error) => Err(write_error(&error)),
        }
    }

    async fn remove_seen(&self, key: &ObjectKey, seen: Option<&SeenObject>) -> Result<Removed, WriteError> {
        match (key.kind, seen) {
            // what others have done to our Secret is not seen, so its version may be another one
            (ObjectKind::SdsSecret, Some(seen)) => self.remove_uid(key, &seen.uid).await,
            (ObjectKind::SdsSecret, None) => self.remove_presumed(key).await,
            (ObjectKind::ConfigMap | ObjectKind::BackendTlsPolicy, seen) => {
                let preconditions = seen.map(|seen| Preconditions {
                    uid: Some(seen.uid.to_string()),
                    resource_version: Some(seen.version.clone().into()),
                });
                self.delete(key, preconditions).await.map_err(|error| write_error(&error))
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, preconditions: Option<Preconditions>) -> Result<Removed, Error> {
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = Request::new(path(key)).delete(&key.object.name, &params).map_err(Error::BuildRequest)?;
        match self.client.request_status::<Written>(request).await {
            Ok(answer) => Ok(answer.left().map_or(Removed::Gone, |object| object.after_removal())),
            Err(Error::Api(status)) if status.is_not_found() => Ok(Removed::Gone),
            Err(error) => Err(error),
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

fn left_alone(why: &str) -> WriteError {
    WriteError::Refused(format!("{why}, and it is left alone; delete or rename it"))
}

fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.is_conflict())
}

fn write_error(error: &Error) -> WriteError {
    if let Error::BuildRequest(error) = error {
        return WriteError::Refused(error.to_string());
    }
    let Error::Api(status) = error else {
        return WriteError::Unavailable { why: text_of(error), pause: None };
    };
    let why = status.message.clone();
    match status.code {
        403 if why.contains(TERMINATED) => WriteError::Outdated(why),
        403 if is_right_missing(&why) => {
            let why = format!("{why}: apply charts/countersign/rbac-policy-objects.yaml");
            WriteError::Unavailable { why, pause: asked_pause(status) }
        }
        // somebody has deleted the kind, which goes as soon as its objects have
        403 if why.contains("custom resource definition is terminating") => {
            WriteError::Unavailable { why, pause: None }
        }
        404 | 409 | 410 => WriteError::Outdated(why),
        // an admission plugin, a webhook or a policy of the cluster minds this object: a quota, for one
        400 | 403 | 405 | 406 | 413 | 415 | 422 => WriteError::Refused(why),
        _ => WriteError::Unavailable { why, pause: asked_pause(status) },
    }
}

/// As the API server puts it, whichever authorizer there is: `secrets "NAME" is forbidden: User "NAME" cannot patch resource …`.
/// It alone is about more than the object.
fn is_right_missing(text: &str) -> bool {
    text.split_once("is forbidden: User \"").is_some_and(|(_, rest)| rest.contains("\" cannot "))
}

/// What a webhook says comes with its name before it, whatever its code; what has none is the API server's own.
fn asked_pause(status: &Status) -> Option<Pause> {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let pause = Duration::from_secs(seconds.into());
    let is_webhook_s = status.message.starts_with("admission webhook \"");
    (seconds > 0).then_some(if is_webhook_s { Pause::Namespace(pause) } else { Pause::Everywhere(pause) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_about_the_object_alone_unless_it_is_known_to_be_about_more() {
        let right = "secrets \"countersign-a\" is forbidden: User \"system:serviceaccount:x:y\" cannot patch resource \"secrets\" in \
                     API group \"\" in the namespace \"a\"";
        for (code, text, expected) in [
            (403, right, "Unavailable"),
            (403, "secrets \"a\" is forbidden: exceeded quota: q, requested: count/secrets=1", "Refused"),
            (403, "admission webhook \"w\" denied the request: User \"x\" cannot have it", "Refused"),
            (
                403,
                "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                "Refused",
            ),
            (403, "secrets \"a\" is forbidden: cannot set blockOwnerDeletion in this case", "Refused"),
            (403, "unable to create new content in namespace a because it is being terminated", "Outdated"),
            (403, "create not allowed while custom resource definition is terminating", "Unavailable"),
            (409, "Apply failed with 1 conflict", "Outdated"),
            (404, "namespaces \"a\" not found", "Outdated"),
            (422, "field is immutable", "Refused"),
            (429, "too many requests", "Unavailable"),
            (500, "Internal error occurred: failed calling webhook \"w\"", "Unavailable"),
        ] {
            let status = Status { code, message: text.to_owned(), ..Status::default() };
            let found = format!("{:?}", write_error(&Error::Api(Box::new(status))));
            assert!(found.starts_with(expected), "{code} {text}: {found}");
        }
    }

    #[test]
    fn a_webhook_that_asks_for_time_gets_it_where_it_is_asked_and_the_api_server_everywhere() {
        let time = Duration::from_secs(30);
        for (text, expected) in [
            ("admission webhook \"w.example.test\" denied the request: busy", Pause::Namespace(time)),
            ("admission webhook \"w.example.test\" denied the request without explanation", Pause::Namespace(time)),
            ("etcdserver: too many requests", Pause::Everywhere(time)),
            ("storage is (re)initializing", Pause::Everywhere(time)),
        ] {
            let details = serde_json::from_value(serde_json::json!({ "retryAfterSeconds": 30 })).unwrap();
            let status = Status { code: 429, message: text.to_owned(), details: Some(details), ..Status::default() };
            let WriteError::Unavailable { pause, .. } = write_error(&Error::Api(Box::new(status))) else {
                panic!("{text}")
            };
            assert_eq!(pause, Some(expected), "{text}");
        }
    }
}
