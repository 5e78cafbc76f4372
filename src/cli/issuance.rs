//! `countersign issuance list`: what was issued, to whom, on what proof, by which term.

pub mod denied;

use std::{collections::HashSet, fmt::Write as _, io};

use serde::Serialize;

use crate::{
    domain::clock::Timestamp,
    service::issuance_history::{IssuanceEntry, RecordedEvent},
};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListForm {
    /// One line each.
    Table,
    /// The documented fields, in an array.
    Json,
    /// The same.
    Yaml,
}

impl ListForm {
    /// A list as text, with a newline at its end.
    pub(super) fn render<T: Serialize + ?Sized>(
        self,
        list: &T,
        table: impl FnOnce(&T) -> Result<String, std::fmt::Error>,
    ) -> io::Result<String> {
        match self {
            Self::Json => Ok(serde_json::to_string_pretty(list)? + "\n"),
            Self::Yaml => serde_yaml_ng::to_string(list).map_err(io::Error::other),
            Self::Table => table(list).map_err(io::Error::other),
        }
    }
}

/// Certificates in the order of signing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listing {
    listed: Vec<Listed>,
    #[serde(skip)]
    missing: Vec<String>,
}

/// One certificate that was signed. Times are RFC 3339; `signedAtMicros` is exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// When it was signed.
    pub signed_at: String,
    /// The same in microseconds since the epoch.
    pub signed_at_micros: i64,
    /// Whose log has it.
    pub log: String,
    /// Where in that log.
    pub sequence: u64,
    /// The signer's term.
    pub term: u64,
    /// The process that signed.
    pub replica: String,
    /// The signing authority.
    pub authority: String,
    /// To whom.
    pub spiffe_id: String,
    /// Hex.
    pub serial: String,
    /// First second of its validity.
    pub not_before: String,
    /// Last second of its validity.
    pub not_after: String,
    /// On what proof.
    pub proof: String,
    /// Whether it was signed but not sent, because its term had ended.
    pub withheld: bool,
}

impl Listing {
    /// From the entries of any number of logs.
    pub fn of(entries: Vec<IssuanceEntry>) -> Self {
        let withheld: HashSet<String> = entries
            .iter()
            .filter_map(|entry| match &entry.event {
                RecordedEvent::Withheld { serial, .. } => Some(serial.clone()),
                RecordedEvent::Issued { .. } | RecordedEvent::Missing { .. } => None,
            })
            .collect();
        let missing = entries.iter().filter_map(|entry| match &entry.event {
            RecordedEvent::Missing { reason } => Some(format!("the log of {} is missing: {reason}", entry.log)),
            RecordedEvent::Issued { .. } | RecordedEvent::Withheld { .. } => None,
        });
        let missing = missing.collect();
        let mut listed: Vec<Listed> = entries.into_iter().filter_map(|entry| listed(entry, &withheld)).collect();
        listed.sort_by(|a, b| (a.signed_at_micros, &a.log, a.sequence).cmp(&(b.signed_at_micros, &b.log, b.sequence)));
        Self { listed, missing }
    }

    /// A line for each log that could not be read, or not to its end: what stands in it is not listed.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}

fn listed(entry: IssuanceEntry, all_withheld: &HashSet<String>) -> Option<Listed> {
    let RecordedEvent::Issued { signed_at, term, replica, authority, spiffe_id, serial, not_before, not_after, proof } =
        entry.event
    else {
        return None;
    };
    Some(Listed {
        signed_at: Timestamp::from_micros(signed_at).to_string(),
        signed_at_micros: signed_at,
        log: entry.log,
        sequence: entry.sequence,
        term,
        replica,
        authority,
        spiffe_id,
        withheld: all_withheld.contains(&serial),
        serial,
        not_before: Timestamp::from_seconds(not_before).to_string(),
        not_after: Timestamp::from_seconds(not_after).to_string(),
        proof,
    })
}

/// The listing as text, with a newline at its end.
///
/// # Errors
///
/// When a serializer fails.
pub fn render(listing: &Listing, form: ListForm) -> io::Result<String> {
    form.render(listing, table)
}

fn table(Listing { listed, .. }: &Listing) -> Result<String, std::fmt::Error> {
    let widest = listed.iter().map(|line| line.spiffe_id.len()).max().unwrap_or(0).max("SPIFFE ID".len());
    let mut text = String::new();
    writeln!(
        text,
        "{:20}  {:>4}  {:widest$}  {:20}  {:32}  PROOF",
        "SIGNED", "TERM", "SPIFFE ID", "EXPIRES", "SERIAL"
    )?;
    for line in listed {
        let Listed { signed_at, term, spiffe_id, not_after, serial, proof, .. } = line;
        let withheld = if line.withheld { " (withheld)" } else { "" };
        writeln!(
            text,
            "{signed_at:20}  {term:>4}  {spiffe_id:widest$}  {not_after:20}  {serial:32}  {proof}{withheld}"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(log: &str, sequence: u64, signed_at: i64, serial: &str) -> IssuanceEntry {
        let event = RecordedEvent::Issued {
            signed_at,
            term: 3,
            replica: format!("{log}-1"),
            authority: "a".into(),
            spiffe_id: "spiffe://td/ns/a/sa/b".into(),
            serial: serial.into(),
            not_before: 0,
            not_after: 60,
            proof: "own socket".into(),
        };
        IssuanceEntry { log: log.into(), sequence, event }
    }

    #[test]
    fn orders_by_signature_and_marks_what_was_withheld() {
        let withheld = IssuanceEntry {
            log: "replica-0".into(),
            sequence: 2,
            event: RecordedEvent::Withheld { serial: "01".into(), term: 3 },
        };
        let entries = vec![issued("replica-0", 1, 2_000_000, "01"), withheld, issued("replica-1", 1, 1_000_000, "02")];
        let text = render(&Listing::of(entries.clone()), ListForm::Table).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains(" 02 ") && lines[1].starts_with("1970-01-01T00:00:01Z"), "{text}");
        assert!(lines[2].contains(" 01 ") && lines[2].ends_with("own socket (withheld)"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&render(&Listing::of(entries), ListForm::Json).unwrap()).unwrap();
        assert_eq!(json[1]["withheld"], true);
        assert_eq!(json[0]["spiffeId"], "spiffe://td/ns/a/sa/b");
    }

    #[test]
    fn says_which_log_is_missing_beside_the_list() {
        let event = RecordedEvent::Missing { reason: "nobody answers".into() };
        let missing = IssuanceEntry { log: "10.0.0.7:15013".into(), sequence: 0, event };
        let listing = Listing::of(vec![issued("replica-0", 1, 2_000_000, "01"), missing]);
        let line = "the log of 10.0.0.7:15013 is missing: nobody answers";
        assert_eq!(listing.missing(), [line]);
        let json: serde_json::Value = serde_json::from_str(&render(&listing, ListForm::Json).unwrap()).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 1);
    }
}
