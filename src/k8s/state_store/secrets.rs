//! The two Secrets at the API server, each by its name. Every request ends at the instant that it is given.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Error, api::PostParams};
use tokio::time::{Instant, timeout_at};

use super::{
    pair::{Pair, secret_name},
    record::{self, RecordError, Stored},
};
use crate::service::ports::{StateError, StateObject};

/// Access to them.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) api: Api<Secret>,
    namespace: String,
}

/// Why a write is not known to have been done.
pub(crate) enum WriteError {
    /// Somebody else wrote, made or deleted it first. Nothing was written.
    Conflict,
    /// The API server refused. Nothing was written.
    Refused(String),
    /// There was no answer: it may have been written or not.
    Unknown(String),
}

impl Secrets {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }

    /// Reads an object. `None` if there is no such Secret.
    pub(crate) async fn get(&self, object: StateObject, until: Instant) -> Result<Option<Stored>, StateError> {
        let secret = self.get_secret(object, until).await?;
        secret.map(|secret| Stored::parse(object, secret)).transpose().map_err(|error| match error {
            RecordError::Damaged(what) => self.damaged(&format!("Secret {}: {what}", secret_name(object))),
            RecordError::Newer(_) => {
                StateError::Unusable(format!("Secret {}/{}: {error}", self.namespace, secret_name(object)))
            }
        })
    }

    /// Reads a Secret as it is.
    pub(crate) async fn get_secret(&self, object: StateObject, until: Instant) -> Result<Option<Secret>, StateError> {
        let answer = timeout_at(until, self.api.get_opt(secret_name(object))).await;
        let failed = |why: String| self.failed("read", object, &why);
        answer.map_err(|_elapsed| failed(NO_ANSWER.into()))?.map_err(|error| failed(said(&error)))
    }

    /// Reads both at once.
    pub(crate) async fn get_both(&self, until: Instant) -> Result<Pair<Option<Stored>>, StateError> {
        let (authority, trust) =
            tokio::join!(self.get(StateObject::Authority, until), self.get(StateObject::Trust, until));
        Ok(Pair { authority: authority?, trust: trust? })
    }

    /// Writes a Secret if it is still as it was found, or makes it if it bears no mark of having been found.
    pub(crate) async fn put(&self, mut secret: Secret, until: Instant) -> Result<Secret, WriteError> {
        let params = PostParams::default();
        let is_new = secret.metadata.resource_version.is_none();
        let name = secret.metadata.name.clone().unwrap_or_default();
        let answer = timeout_at(until, async {
            if is_new {
                self.api.create(&params, &secret).await
            } else {
                self.api.replace(&name, &params, &secret).await
            }
        })
        .await;
        record::wipe(&mut secret);
        match answer {
            Ok(Ok(written)) => Ok(written),
            Err(_elapsed) => Err(WriteError::Unknown(NO_ANSWER.into())),
            Ok(Err(error)) => Err(refusal(error, is_new)),
        }
    }

    /// What is wrong, with the command that looks into it.
    pub(crate) fn damaged(&self, found: &str) -> StateError {
        let namespace = &self.namespace;
        StateError::Damaged(format!(
            "namespace {namespace}: {found}; run `countersign recover --state kubernetes --namespace {namespace}`"
        ))
    }

    pub(crate) fn failed(&self, done: &str, object: StateObject, why: &str) -> StateError {
        StateError::Io(format!("Secret {}/{} could not be {done}: {why}", self.namespace, secret_name(object)))
    }
}

const NO_ANSWER: &str = "the API server did not answer in time";

fn refusal(error: Error, is_new: bool) -> WriteError {
    let code = if let Error::Api(status) = &error { status.code } else { 0 };
    match code {
        409 => WriteError::Conflict,
        // deleted since it was read; a new one that is "not found" has no namespace to be in
        404 if !is_new => WriteError::Conflict,
        400..500 => WriteError::Refused(said(&error)),
        _ => WriteError::Unknown(said(&error)),
    }
}

/// Without the content of what was sent or received, which the client's own texts may quote.
fn said(error: &Error) -> String {
    if let Error::Api(status) = error {
        return format!("the API server answered {} {}: {}", status.code, status.reason, status.message);
    }
    if matches!(error, Error::SerdeError(_) | Error::FromUtf8(_)) {
        return "the API server's answer makes no sense".into();
    }
    format!("the API server could not be asked: {error}")
}
