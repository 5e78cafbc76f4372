//! Writes Events of `events.k8s.io/v1`, and reads none: what comes again is found by its name, which says what it is.

use std::{fmt::Write as _, sync::Arc};

use kube::{
    Client, Error,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{following::text_of, lease_store::micro_time};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        policy::Severity,
    },
    service::{
        policy_events::{EventSubject, PolicyEvent, PolicyEventLog, SubjectKind},
        ports::BoxFuture,
    },
};

const CONTROLLER: &str = "countersign.io/policy";
const ACTION: &str = "RequireMutualTls";
/// Bytes of a note that the API server takes.
const NOTE: usize = 1024;
/// Behind the last word that a note has room for.
const CUT: &str = " … (whole by countersign policy)";

/// Writes them. Needs the rights of `charts/countersign/rbac-policy.yaml`.
pub struct ClusterPolicyEvents {
    client: Client,
    replica: String,
    clock: Arc<dyn Clock>,
}

/// What of an Event is read in the answer to a patch that changes nothing.
#[derive(Clone, Debug, Deserialize)]
struct Known {
    #[serde(default)]
    series: Option<Series>,
}

#[derive(Clone, Debug, Deserialize)]
struct Series {
    count: u32,
}

impl ClusterPolicyEvents {
    /// By way of `client`, in the name of `replica`.
    pub const fn new(client: Client, replica: String, clock: Arc<dyn Clock>) -> Self {
        Self { client, replica, clock }
    }

    async fn write_event(&self, event: &PolicyEvent) -> Result<(), Error> {
        let (path, name, now) = (path(&event.subject), name(event), self.clock.now());
        let body = serde_json::to_vec(&render(event, &name, &self.replica, now)).map_err(Error::SerdeError)?;
        let request = Request::new(&path).create(&PostParams::default(), body).map_err(Error::BuildRequest)?;
        match self.client.request::<Known>(request).await {
            Ok(_) => Ok(()),
            Err(Error::Api(status)) if status.is_already_exists() => self.count(&path, &name, now).await,
            Err(error) => Err(error),
        }
    }

    async fn count(&self, path: &str, name: &str, now: Timestamp) -> Result<(), Error> {
        let patch = async |change: Value| {
            let request = Request::new(path).patch(name, &PatchParams::default(), &Patch::Merge(change));
            self.client.request::<Known>(request.map_err(Error::BuildRequest)?).await
        };
        let known = patch(json!({})).await?;
        let count = known.series.map_or(1, |series| series.count).saturating_add(1);
        patch(json!({ "series": { "count": count, "lastObservedTime": micro_time(now) } })).await.map(drop)
    }
}

impl PolicyEventLog for ClusterPolicyEvents {
    fn write<'a>(&'a self, event: &'a PolicyEvent) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let written = self.write_event(event).await;
            written.map_err(|error| missing_right(&error).unwrap_or_else(|| text_of(&error)))
        })
    }
}

/// Says which rights are lacking, if any are.
fn missing_right(error: &Error) -> Option<String> {
    let Error::Api(status) = error else { return None };
    let is_missing = status.is_forbidden() && !status.message.contains("being terminated");
    is_missing.then(|| format!("{}: apply charts/countersign/rbac-policy.yaml", status.message))
}

fn path(subject: &EventSubject) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", subject.object.namespace)
}

/// The same for the same condition of the same object with the same severity, in every replica.
fn name(event: &PolicyEvent) -> String {
    let EventSubject { kind, object, uid } = &event.subject;
    let text = format!("{kind:?}\n{object}\n{uid}\n{}\n{}", event.reason, event.severity.as_str());
    let mut name = "countersign.".to_owned();
    for byte in digest(&SHA256, text.as_bytes()).as_ref().iter().take(10) {
        let _infallible = write!(name, "{byte:02x}");
    }
    name
}

fn render(event: &PolicyEvent, name: &str, replica: &str, now: Timestamp) -> Value {
    let EventSubject { kind, object, uid } = &event.subject;
    let (api, kind) = match kind {
        SubjectKind::Namespace => ("v1", "Namespace"),
        SubjectKind::Service => ("v1", "Service"),
        SubjectKind::Gateway => ("gateway.networking.k8s.io/v1", "Gateway"),
    };
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": { "name": name, "namespace": &*object.namespace },
        "eventTime": micro_time(now),
        "reportingController": CONTROLLER,
        "reportingInstance": replica,
        "action": ACTION,
        "reason": event.reason,
        "type": if event.severity == Severity::Notice { "Normal" } else { "Warning" },
        "regarding": {
            "apiVersion": api, "kind": kind, "namespace": &*object.namespace, "name": &*object.name, "uid": &**uid,
        },
        "note": note(&event.message),
    })
}

fn note(message: &str) -> String {
    if message.len() <= NOTE {
        return message.to_owned();
    }
    let (room, _) = message.split_at(message.floor_char_boundary(NOTE - CUT.len()));
    // half of a name is another one's
    let (words, _) = room.rsplit_once(' ').unwrap_or((room, ""));
    format!("{words}{CUT}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::ObjectName;

    fn event(reason: &'static str, severity: Severity, message: &str) -> PolicyEvent {
        let object = ObjectName::new("n", "s");
        let subject = EventSubject { kind: SubjectKind::Service, object, uid: "u".into() };
        PolicyEvent { subject, reason, severity, message: message.into() }
    }

    #[test]
    fn an_event_bears_the_name_of_what_it_says() {
        let one = event("NotEnforced", Severity::Warning, "1 of 2");
        assert_eq!(name(&one), name(&event("NotEnforced", Severity::Warning, "2 of 2")));
        assert_ne!(name(&one), name(&event("NotEnforced", Severity::Error, "1 of 2")));
        assert_ne!(name(&one), name(&event("Enforced", Severity::Warning, "1 of 2")));
        let mut other = one.clone();
        other.subject.uid = "v".into();
        assert_ne!(name(&one), name(&other));
    }

    #[test]
    fn a_note_is_cut_where_the_api_server_would_not_take_it() {
        let long = "äß ".repeat(300);
        let rendered = render(&event("NoPods", Severity::Notice, &long), "n", "r", Timestamp::from_seconds(0));
        let note = rendered["note"].as_str().unwrap();
        assert!(
            note.len() <= 1024 && note.len() > 1010 && note.ends_with(" äß … (whole by countersign policy)"),
            "{note}"
        );
        let short = "ä".repeat(512);
        assert_eq!(super::note(&short), short);
        assert!(super::note(&"ä".repeat(513)).len() <= 1024);
        assert_eq!(rendered["type"], "Normal");
        assert_eq!(rendered["eventTime"], "1970-01-01T00:00:00.000000Z");
    }
}
