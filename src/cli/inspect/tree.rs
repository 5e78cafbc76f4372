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
        text.push_str(&format!("{branch}{}\n", title(certificate)));
        for (name, value) in rows(certificate, palette) {
            let label = palette.paint(Tone::Faint, &format!("{name:<11}"));
            text.push_str(&format!("{indent}  {label} {value}\n"));
        }
    }
    text.push_str(&verdict(&chain.verification, palette));
}

fn title(certificate: &CertificateDocument) -> String {
    let names = [certificate.spiffe_id.as_ref(), Some(&certificate.subject), certificate.uri_names.first()];
    let name = names.into_iter().flatten().chain(&certificate.dns_names).find(|name| !name.is_empty());
    let kind = if certificate.authority { " (authority)" } else { "" };
    format!("{}{kind}", name.map_or_else(|| "(no name)".to_owned(), |name| escaped(name)))
}

fn rows(certificate: &CertificateDocument, palette: Palette) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut add = |name, value: &str| {
        if !value.is_empty() {
            rows.push((name, escaped(value)));
        }
    };
    add("SPIFFE ID", certificate.spiffe_id.as_deref().unwrap_or_default());
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
