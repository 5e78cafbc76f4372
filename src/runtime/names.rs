//! One setting, three names: `--svid-ttl`, `COUNTERSIGN_SVID_TTL`, `svidTtl`. All follow from the field's name in `args`,
//! except that a repeatable flag is written in the singular.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// The texts of a set of arguments by field name; those that aren't there are left out.
pub(super) fn texts_of(args: &impl Serialize) -> BTreeMap<String, Vec<String>> {
    let Ok(Value::Object(fields)) = serde_json::to_value(args) else { return BTreeMap::new() };
    let texts = |value| match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    fields.into_iter().filter_map(|(field, value)| Some((field, texts(value)?))).collect()
}

/// `svid_ttl`: `COUNTERSIGN_SVID_TTL`.
pub(super) fn variable(field: &str) -> String {
    format!("COUNTERSIGN_{}", field.to_ascii_uppercase())
}

/// `svid_ttl`: `svidTtl`.
pub(super) fn file_key(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut key, word| {
        let mut letters = word.chars();
        key.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        key.push_str(letters.as_str());
        key
    })
}

/// The key that was probably meant: the nearest of those that differ in at most a third of their letters.
pub(super) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    known
        .map(|candidate| (distance(&plain(key), &plain(candidate)), candidate))
        .filter(|(distance, candidate)| distance.saturating_mul(3) <= candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(row.first_mut().unwrap_or(&mut 0), line + 1);
        let mut left = line + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.chars()) {
            let cost = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, cost);
            left = cost;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_follow_from_the_field() {
        assert_eq!(variable("svid_ttl"), "COUNTERSIGN_SVID_TTL");
        assert_eq!(file_key("max_svid_ttl"), "maxSvidTtl");
        assert_eq!(file_key("drain"), "drain");
    }

    #[test]
    fn distances() {
        for (one, other, expected) in [("", "", 0), ("", "abc", 3), ("listen", "lisen", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{one} {other}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["listen", "svidTtl", "dnsNames"];
        for (key, expected) in
            [("lisen", Some("listen")), ("svid-ttl", Some("svidTtl")), ("dns_name", Some("dnsNames")), ("port", None)]
        {
            assert_eq!(nearest(key, known.into_iter()), expected, "{key}");
        }
    }
}
