//! `countersign authority x509` and `authority jwt`: the authorities of one kind, and what came of a step.

use std::{
    fmt::{self, Write as _},
    io,
};

use serde::Serialize;

use super::issuance::ListForm;
use crate::{
    domain::{authority::rotation::Slot, clock::Timestamp},
    service::ports::{AuthorityReport, RotationReport, WantedStep},
};

/// All authorities of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// Of the trust bundle.
    sequence: u64,
    /// In the order in which they were published.
    authorities: Vec<Entry>,
    /// Who follows the bundle and has an older one.
    behind: Vec<String>,
}

/// One of them. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Subject key identifier in hex, or key identifier.
    id: String,
    /// prepared, active, old.
    phase: String,
    /// Whether its holders are to renew at once.
    tainted: bool,
    /// Its end.
    not_after: String,
    /// The sequence of the first bundle that holds it.
    published_in: u64,
    /// When the last that it signed ends; null if that is not on record.
    last_end: Option<String>,
    /// What its next step waits for.
    waits_for: Vec<String>,
}

/// All authorities as text, with a newline at its end.
///
/// # Errors
///
/// When a serializer fails.
pub fn render(report: &RotationReport, form: ListForm) -> io::Result<String> {
    let authorities = report.authorities.iter().map(entry).collect();
    form.render(&Shown { sequence: report.sequence, authorities, behind: report.behind.clone() }, table)
}

/// What came of a step, with a newline at its end.
///
/// # Errors
///
/// In words, when the step was wanted and not taken.
pub fn outcome(step: &WantedStep, dry_run: bool, report: &RotationReport) -> Result<String, String> {
    let RotationReport { sequence, authorities, id, done, obstacles, .. } = report;
    let waits = obstacles.join("\n  ");
    if dry_run {
        return Ok(match obstacles.as_slice() {
            [] => format!("would {}: nobody is known to break by it; nothing was done\n", to_do(step, id)),
            _ => format!("would have to wait before it could {}:\n  {waits}\n", to_do(step, id)),
        });
    }
    if !done {
        let what = to_do(step, id);
        return Err(format!(
            "waits before it can {what}:\n  {waits}\nrun the command again when that is over, or break them with --force"
        ));
    }
    let mut text = match step {
        WantedStep::Prepare => format!("prepared {id}: it is published in bundle {sequence} and signs nothing yet\n"),
        WantedStep::Activate(_) => format!("{id} signs from now on\n"),
        WantedStep::Taint(_) => format!("tainted {id}: agents renew now, spread out\n"),
        WantedStep::Revoke(_) => format!("revoked {id}: it is gone from bundle {sequence}\n"),
    };
    if !obstacles.is_empty() {
        text.push_str(&format!("by force; this breaks:\n  {waits}\n"));
    }
    let next = authorities.iter().find(|authority| authority.slot.id == *id);
    let next = next.map(|authority| authority.waits_for.as_slice()).unwrap_or_default();
    let next_step = match step {
        WantedStep::Prepare => "activate",
        WantedStep::Taint(_) => "revoke",
        WantedStep::Activate(_) | WantedStep::Revoke(_) => return Ok(text),
    };
    match next {
        [] => text.push_str(&format!("{next_step} does not have to wait\n")),
        waits => text.push_str(&format!("{next_step} waits:\n  {}\n", waits.join("\n  "))),
    }
    Ok(text)
}

fn to_do(step: &WantedStep, id: &str) -> String {
    match step {
        WantedStep::Prepare => "prepare another authority".into(),
        WantedStep::Activate(_) => format!("sign by {id}"),
        WantedStep::Taint(_) => format!("taint {id}"),
        WantedStep::Revoke(_) => format!("revoke {id}"),
    }
}

fn entry(report: &AuthorityReport) -> Entry {
    let AuthorityReport { slot: Slot { id, phase, not_after, tainted, published_in }, last_end, waits_for } = report;
    Entry {
        id: id.clone(),
        phase: phase.to_string(),
        tainted: *tainted,
        not_after: not_after.to_string(),
        published_in: *published_in,
        last_end: last_end.as_ref().map(Timestamp::to_string),
        waits_for: waits_for.clone(),
    }
}

fn table(Shown { sequence, authorities, behind }: &Shown) -> Result<String, fmt::Error> {
    let widest = authorities.iter().map(|entry| entry.id.len()).max().unwrap_or(0).max("AUTHORITY".len());
    let mut text = String::new();
    writeln!(text, "{:widest$}  {:13}  {:20}  {:>10}  LAST SIGNED ENDS", "AUTHORITY", "PHASE", "ENDS", "PUBLISHED")?;
    for Entry { id, phase, tainted, not_after, published_in, last_end, .. } in authorities {
        let phase = if *tainted { format!("{phase}, tainted") } else { phase.clone() };
        let last_end = last_end.as_deref().unwrap_or("-");
        writeln!(text, "{id:widest$}  {phase:13}  {not_after:20}  {published_in:>10}  {last_end}")?;
    }
    writeln!(text, "bundle {sequence}")?;
    for one in behind {
        writeln!(text, "  {one}")?;
    }
    for Entry { id, waits_for, .. } in authorities.iter().filter(|entry| !entry.waits_for.is_empty()) {
        writeln!(text, "the next step of {id} waits:\n  {}", waits_for.join("\n  "))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::rotation::Phase;

    fn report(done: bool, obstacles: &[&str]) -> RotationReport {
        let slot = |id: &str, phase, tainted| Slot {
            id: id.into(),
            phase,
            not_after: Timestamp::from_seconds(60),
            tainted,
            published_in: 1,
        };
        let old = AuthorityReport {
            slot: slot("aa", Phase::Old, true),
            last_end: Some(Timestamp::from_seconds(30)),
            waits_for: vec!["leaves".into()],
        };
        let active = AuthorityReport { slot: slot("bb", Phase::Active, false), last_end: None, waits_for: Vec::new() };
        let obstacles = obstacles.iter().map(|text| (*text).to_owned()).collect();
        RotationReport {
            sequence: 4,
            authorities: vec![old, active],
            id: "aa".into(),
            done,
            obstacles,
            behind: vec!["replica b has bundle 3, not 4".into()],
        }
    }

    #[test]
    fn the_table_says_where_each_stands_and_what_its_next_step_waits_for() {
        let text = render(&report(false, &[]), ListForm::Table).unwrap();
        assert!(
            text.contains("aa         old, tainted   1970-01-01T00:01:00Z           1  1970-01-01T00:00:30Z"),
            "{text}"
        );
        assert!(
            text.contains("bb         active ")
                && text.ends_with("bundle 4\n  replica b has bundle 3, not 4\nthe next step of aa waits:\n  leaves\n"),
            "{text}"
        );
        let json: serde_json::Value =
            serde_json::from_str(&render(&report(false, &[]), ListForm::Json).unwrap()).unwrap();
        assert_eq!(json["authorities"][0]["waitsFor"][0], "leaves");
        assert_eq!(json["sequence"], 4);
    }

    #[test]
    fn a_step_that_waits_is_an_error_and_one_that_was_forced_says_whom_it_breaks() {
        let step = WantedStep::Revoke("aa".into());
        let waits = outcome(&step, false, &report(false, &["x"])).unwrap_err();
        assert!(waits.contains("revoke aa") && waits.contains("--force"), "{waits}");
        let forced = outcome(&step, false, &report(true, &["x"])).unwrap();
        assert!(forced.contains("by force") && forced.contains("  x\n"), "{forced}");
        let tainted = outcome(&WantedStep::Taint("aa".into()), false, &report(true, &[])).unwrap();
        assert!(tainted.contains("revoke waits:\n  leaves"), "{tainted}");
        for (obstacles, said) in [(&["x"][..], "would have to wait"), (&[][..], "nothing was done")] {
            assert!(outcome(&step, true, &report(false, obstacles)).unwrap().contains(said));
        }
    }
}
