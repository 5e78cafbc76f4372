//! The tree that people read: the topmost certificate first, what it signed below it.

use std::time::Duration;

use super::document::{CertificateDocument, ChainDocument, Document, ValidityState, Verification};
use crate::cli::render::{Palette, Tone, bar, escaped, words};

pub(super) fn draw(document: &Document, palette: Palette) -> String {
    let mut text = format!("{}\n", escaped(&document.source));
    for chain in &document.chains {
        text.push('\n');
        draw_chain(&mut text, chain, palette);
    }
    text
}

fn draw_chain(text: &mut String, chain: &ChainDocument, palette: Palette) {
    for (depth, certificate) in chain.certificates.iter().rev().enumerate() {
        let (branch, indent) = match depth.checked_sub(1) {
            None => (String::new(), String::new()),
            Some(above) => (format!("{}└─ ", "   ".repeat(above)), "   ".repeat(depth)),
        };
        let name = name(certificate);
        let kind = if certificate.authority { " (authority)" } else { "" };
        text.push_str(&format!("{branch}{}{kind}\n", escaped(name)));
        for (name, value) in rows(certificate, name, palette) {
            let label = palette.paint(Tone::Faint, &format!("{name:<11}"));
            text.push_str(&format!("{indent}  {label} {value}\n"));
        }
    }
    text.push_str(&verdict(&chain.verification, palette));
}

/// What it is called in the tree.
fn name(certificate: &CertificateDocument) -> &str {
    let id = certificate.spiffe_id.iter().chain([&certificate.subject]);
    let mut names = id.chain(&certificate.uri_names).chain(&certificate.dns_names);
    names.find(|name| !name.is_empty()).map_or("(no name)", String::as_str)
}

/// Everything that the name has not said already.
fn rows(certificate: &CertificateDocument, name: &str, palette: Palette) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut add = |label, value: &str| {
        if !value.is_empty() && value != name {
            rows.push((label, escaped(value)));
        }
    };
    add("subject", &certificate.subject);
    if certificate.spiffe_id.is_none() {
        add("URI names", &certificate.uri_names.join(", "));
    }
    add("DNS names", &certificate.dns_names.join(", "));
    add("issuer", &certificate.issuer);
    rows.push(("validity", validity(certificate, palette)));
    rows.push(("", format!("{} to {}", certificate.not_before, certificate.not_after)));
    rows.push(("key", escaped(&certificate.key)));
    rows.push(("serial", certificate.serial.clone()));
    rows.push(("SHA-256", certificate.fingerprint.clone()));
    let findings = certificate.findings.iter();
    rows.extend(findings.map(|finding| {
        ("finding", palette.paint(Tone::Notice, &escaped(&format!("{}: {}", finding.rule, finding.detail))))
    }));
    rows
}

fn validity(certificate: &CertificateDocument, palette: Palette) -> String {
    let total = seconds(certificate.seconds_total);
    let left = seconds(certificate.seconds_left);
    match certificate.validity {
        ValidityState::Valid => {
            let tone = if left < total / 10 { Tone::Notice } else { Tone::Good };
            format!("{} {} left of {}", palette.paint(tone, &bar(left, total)), words(left), words(total))
        }
        ValidityState::Expired => {
            let ago = words(seconds(certificate.seconds_left.saturating_neg()));
            palette.paint(Tone::Bad, &format!("{} expired {ago} ago", bar(Duration::ZERO, total)))
        }
        ValidityState::NotYetValid => {
            let ahead = words(left.saturating_sub(total));
            palette.paint(Tone::Bad, &format!("{} valid only in {ahead}", bar(total, total)))
        }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn verdict(verification: &Verification, palette: Palette) -> String {
    match verification {
        Verification::Verified { bundle } => {
            format!("{} to the bundle of {}\n", palette.paint(Tone::Good, "verifies"), escaped(bundle))
        }
        Verification::Failed { bundle, reason } => {
            let failed = palette.paint(Tone::Bad, "does not verify");
            format!("{failed} to the bundle of {}: {}\n", escaped(bundle), escaped(reason))
        }
        Verification::NoBundle => "not verified: no bundle given\n".to_owned(),
    }
}
