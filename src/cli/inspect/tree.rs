//! The tree that people read: the topmost certificate first, what it signed below it.

use std::time::Duration;

use super::{
    bundle_document::BundleDocument,
    certificate_document::{CertificateDocument, ChainDocument, FindingDocument, ValidityState, Verification},
    document::Document,
    token_document::TokenDocument,
};
use crate::cli::render::{Palette, Tone, bar, escaped, words};

pub(super) fn draw(document: &Document, palette: Palette) -> String {
    let mut text = format!("{}\n", escaped(&document.source));
    if let Some(token) = &document.token {
        draw_token(&mut text, token, palette);
    }
    if let Some(bundle) = &document.bundle {
        draw_bundle(&mut text, bundle, palette);
    }
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
        draw_rows(text, &indent, rows(certificate, name, palette), palette);
    }
    text.push_str(&verdict(&chain.verification, palette));
}

fn draw_rows(text: &mut String, indent: &str, rows: Vec<(&str, String)>, palette: Palette) {
    for (name, value) in rows {
        let label = palette.paint(Tone::Faint, &format!("{name:<11}"));
        text.push_str(&format!("{indent}  {label} {value}\n"));
    }
}

/// What has a row of its own is not repeated among the claims.
fn draw_token(text: &mut String, token: &TokenDocument, palette: Palette) {
    let (name, kind) = match &token.spiffe_id {
        Some(id) => (id.as_str(), " (JWT-SVID)"),
        None => (token.claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or("(no name)"), " (token)"),
    };
    text.push_str(&format!("\n{}{kind}\n", escaped(name)));
    let mut rows = Vec::new();
    if !token.audiences.is_empty() {
        rows.push(("audiences", escaped(&token.audiences.join(", "))));
    }
    if let (Some(state), Some(left)) = (token.validity, token.seconds_left) {
        rows.push(("validity", validity(state, left, token.seconds_total, palette)));
    }
    let start = token.not_before.as_ref().map(|time| ("nbf", time));
    let start = start.or(token.issued_at.as_ref().map(|time| ("iat", time)));
    rows.extend(token.expires.as_ref().map(|end| {
        let from = start.map(|(_, time)| format!("{time} ")).unwrap_or_default();
        ("", format!("{from}to {end}"))
    }));
    rows.extend(token.algorithm.as_ref().map(|name| ("algorithm", escaped(name))));
    rows.extend(token.key_id.as_ref().map(|id| ("key ID", escaped(id))));
    let is_shown = |claim: &str| match claim {
        "sub" | "aud" => token.spiffe_id.is_some(),
        "exp" => token.expires.is_some(),
        _ => token.expires.is_some() && start.is_some_and(|(name, _)| name == claim),
    };
    let others = token.claims.iter().filter(|(name, _)| !is_shown(name));
    rows.extend(others.map(|(name, value)| ("claim", escaped(&format!("{name}: {value}")))));
    rows.extend(token.findings.iter().map(|finding| found(finding, palette)));
    draw_rows(text, "", rows, palette);
    text.push_str(&verdict(&token.verification, palette));
}

fn draw_bundle(text: &mut String, bundle: &BundleDocument, palette: Palette) {
    let name = bundle.trust_domain.as_ref().map_or("SPIFFE bundle of no named trust domain".to_owned(), |name| {
        format!("SPIFFE bundle of {}", escaped(name))
    });
    text.push_str(&format!("\n{name}\n"));
    let count = |number: Option<u64>| number.map_or("none".to_owned(), |number| number.to_string());
    let hint = bundle.refresh_hint.map_or("none".to_owned(), |hint| words(Duration::from_secs(hint)));
    let mut rows = vec![("sequence", count(bundle.sequence)), ("fetch every", hint)];
    let authorities = bundle.jwt_authorities.iter();
    rows.extend(authorities.map(|one| ("JWT key", escaped(&format!("{} ({})", one.key_id, one.key)))));
    draw_rows(text, "", rows, palette);
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
    let (left, total) = (certificate.seconds_left, certificate.seconds_total);
    rows.push(("validity", validity(certificate.validity, left, Some(total), palette)));
    rows.push(("", format!("{} to {}", certificate.not_before, certificate.not_after)));
    rows.push(("key", escaped(&certificate.key)));
    rows.push(("serial", certificate.serial.clone()));
    rows.push(("SHA-256", certificate.fingerprint.clone()));
    rows.extend(certificate.findings.iter().map(|finding| found(finding, palette)));
    rows
}

fn found(finding: &FindingDocument, palette: Palette) -> (&'static str, String) {
    ("finding", palette.paint(Tone::Notice, &escaped(&format!("{}: {}", finding.rule, finding.detail))))
}

/// Of a life whose length nobody has told there is no bar.
fn validity(state: ValidityState, left: i64, total: Option<i64>, palette: Palette) -> String {
    let (ago, left, total) = (seconds(left.saturating_neg()), seconds(left), total.map(seconds));
    let bar = |left| total.map(|total| bar(left, total) + " ").unwrap_or_default();
    match (state, total) {
        (ValidityState::Valid, Some(total)) => {
            let tone = if left < total / 10 { Tone::Notice } else { Tone::Good };
            format!("{}{} left of {}", palette.paint(tone, &bar(left)), words(left), words(total))
        }
        (ValidityState::Valid, None) => format!("{} left", words(left)),
        (ValidityState::Expired, _) => {
            palette.paint(Tone::Bad, &format!("{}expired {} ago", bar(Duration::ZERO), words(ago)))
        }
        (ValidityState::NotYetValid, total) => {
            let ahead = words(left.saturating_sub(total.unwrap_or_default()));
            palette.paint(Tone::Bad, &format!("{}valid only in {ahead}", bar(left)))
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
