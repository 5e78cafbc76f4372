//! `countersign issuance deny`, `allow` and `denied`.

use std::{
    fmt::{self, Write as _},
    io,
};

use serde::Serialize;

use super::ListForm;
use crate::{
    cli::render::escaped,
    domain::attestation::{Denial, Denied, DeniedSubject},
};

/// One entry. Either `spiffe_id` or `serial` is there, the other is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// The identity that gets no certificate.
    spiffe_id: Option<String>,
    /// The certificate that proves nothing, hex.
    serial: Option<String>,
    /// Why.
    reason: String,
    /// Since when, RFC 3339.
    since: String,
    /// The user who denied it.
    actor_uid: u32,
}

/// All that is denied as text, with a newline at its end.
///
/// # Errors
///
/// When a serializer fails.
pub fn render(denied: &Denied, form: ListForm) -> io::Result<String> {
    let entries: Vec<Entry> = denied.iter().map(|(subject, denial)| entry(subject, denial)).collect();
    form.render(entries.as_slice(), table)
}

/// What `deny` says of its success.
pub fn denied_now(subject: &DeniedSubject, old: Option<&Denial>) -> String {
    match old {
        None => format!("denied {subject}\n"),
        Some(old) => format!("denied {subject}, which was {} before\n", words(old)),
    }
}

/// What `allow` says of its success.
pub fn allowed_again(subject: &DeniedSubject, old: Option<&Denial>) -> String {
    match old {
        None => format!("allowed {subject}\n"),
        Some(old) => format!("allowed {subject}, which was {}\n", words(old)),
    }
}

fn words(Denial { reason, since, actor_uid }: &Denial) -> String {
    format!("denied since {since} by uid {actor_uid}: {}", escaped(reason.as_str()))
}

fn entry(subject: DeniedSubject, denial: &Denial) -> Entry {
    let (spiffe_id, serial) = match subject {
        DeniedSubject::Identity(id) => (Some(id.to_string()), None),
        DeniedSubject::Serial(serial) => (None, Some(serial.to_string())),
    };
    let Denial { reason, since, actor_uid } = denial;
    Entry { spiffe_id, serial, reason: reason.to_string(), since: since.to_string(), actor_uid: *actor_uid }
}

fn table(entries: &[Entry]) -> Result<String, fmt::Error> {
    let named: Vec<(&str, &str, &Entry)> = entries
        .iter()
        .map(|entry| match (&entry.spiffe_id, &entry.serial) {
            (Some(id), _) => ("identity", id.as_str(), entry),
            (None, serial) => ("serial", serial.as_deref().unwrap_or_default(), entry),
        })
        .collect();
    let widest = named.iter().map(|(_, name, _)| name.len()).max().unwrap_or(0).max("DENIED".len());
    let mut text = String::new();
    writeln!(text, "{:8}  {:widest$}  {:20}  {:>10}  REASON", "KIND", "DENIED", "SINCE", "BY UID")?;
    for (kind, name, Entry { since, actor_uid, reason, .. }) in named {
        writeln!(text, "{kind:8}  {name:widest$}  {since:20}  {actor_uid:>10}  {}", escaped(reason))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;

    fn denial(reason: &str) -> Denial {
        Denial { reason: reason.parse().unwrap(), since: Timestamp::from_seconds(60), actor_uid: 1000 }
    }

    #[test]
    fn each_form_shows_subject_reason_time_and_actor() {
        let denied = Denied::from_iter([
            (DeniedSubject::Serial("0ab1".parse().unwrap()), denial("key copied")),
            (DeniedSubject::Identity("spiffe://td/ns/a/sa/b".parse().unwrap()), denial("node\u{202e} lost")),
        ]);
        let text = render(&denied, ListForm::Table).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1], "identity  spiffe://td/ns/a/sa/b  1970-01-01T00:01:00Z        1000  node\\u{202e} lost");
        assert!(lines[2].starts_with("serial    0ab1 ") && lines[2].ends_with(" key copied"), "{text}");

        let json: serde_json::Value = serde_json::from_str(&render(&denied, ListForm::Json).unwrap()).unwrap();
        let expected = serde_json::json!({
            "spiffeId": null, "serial": "0ab1", "reason": "key copied", "since": "1970-01-01T00:01:00Z", "actorUid": 1000,
        });
        assert_eq!(json[1], expected);
        let yaml: serde_json::Value = serde_yaml_ng::from_str(&render(&denied, ListForm::Yaml).unwrap()).unwrap();
        assert_eq!(yaml, json);
    }

    #[test]
    fn a_change_says_what_was_there_before() {
        let subject = DeniedSubject::Serial("0ab1".parse().unwrap());
        let was = "denied since 1970-01-01T00:01:00Z by uid 1000: lost";
        assert_eq!(denied_now(&subject, None), "denied serial 0ab1\n");
        assert_eq!(
            denied_now(&subject, Some(&denial("lost"))),
            format!("denied serial 0ab1, which was {was} before\n")
        );
        assert_eq!(allowed_again(&subject, Some(&denial("lost"))), format!("allowed serial 0ab1, which was {was}\n"));
    }
}
