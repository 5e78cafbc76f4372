//! `docs/metrics.md`, made from the list of families and from the chart's alerts and dashboard; and what all of them agree on.

#![expect(clippy::disallowed_methods, reason = "tests of files")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use prometheus_client::metrics::MetricType;

use super::*;

const HEAD: &str = "\
# Metrics

`/metrics` on the admin port of a replica and of an agent, in the OpenMetrics text format. Whatever is counted begins at zero, so that a
rate over the first event is not lost; the rest appears as soon as it is known, and vanishes with what it is about. Times are absolute, as
Unix time: subtract `time()`.

A name stands here as queries have it; a histogram's with `_bucket`, `_sum` and `_count` after it. Of the replicas with an authority, *active* is the one that holds the term; *before istiod* are
replicas of mode `istiod`. Alerts are those of the chart ([alerts.md](alerts.md)), panels those of its dashboard. How many series there are
depends on nothing that a caller sends.
";

const CITADEL: &str = "
## Under istiod's names

For dashboards that read istiod's CA: what stands above, said again. Not in front of istiod, which counts the same requests itself. As with
istiod, counts have no `_total`; OpenMetrics calls their type unknown. Each replica counts what callers ask of it, whoever signs: add
them up. A certificate's end as a time is better than as what is left, which is right only when it is read.
";

/// What Prometheus itself says of each target.
const TARGET: &str = "up";

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/countersign/");

fn chart(file: &str) -> String {
    std::fs::read_to_string(format!("{CHART}{file}")).unwrap()
}

/// As queries have it.
fn queried(described: &Described) -> String {
    let suffix = if matches!(described.kind, MetricType::Counter) { "_total" } else { "" };
    format!("{}{suffix}", described.name)
}

/// The family of a name that a query has or a page shows: a histogram has several.
fn family(name: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .filter(|base| base.ends_with("_seconds"))
        .unwrap_or(name)
}

/// The families that a text names.
fn named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter(|word| word.starts_with("countersign_") || word.starts_with("citadel_") || *word == TARGET)
        .map(|word| family(word).to_owned())
        .collect()
}

/// By the names of alerts. What is written once for several is put in its place first.
fn named_by_alerts() -> BTreeMap<String, BTreeSet<String>> {
    let (mut variables, mut alerts) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeMap::new());
    let mut alert = String::new();
    for line in chart("templates/_alerts.tpl").lines() {
        let names = |text: &str| {
            let by_variable = variables.iter().filter(|(name, _)| {
                text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '$').any(|word| word == **name)
            });
            by_variable.flat_map(|(_, names)| names.clone()).chain(named_in(text)).collect::<BTreeSet<_>>()
        };
        if let Some((name, text)) = line.strip_prefix("{{- ").and_then(|line| line.split_once(" := ")) {
            let names = names(text);
            variables.insert(name.to_owned(), names);
        } else if let Some(name) = line.strip_prefix("- alert: ") {
            name.clone_into(&mut alert);
        } else if let Some(text) = line.strip_prefix("  expr: ") {
            let names = names(text);
            alerts.insert(alert.clone(), names);
        }
    }
    alerts
}

/// By the titles of panels.
fn named_by_panels() -> BTreeMap<String, BTreeSet<String>> {
    let dashboard: serde_json::Value = serde_json::from_str(&chart("dashboards/countersign.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.map(|panel| (panel["title"].as_str().unwrap().to_owned(), named_in(&panel["targets"].to_string()))).collect()
}

fn page() -> String {
    let (alerts, panels) = (named_by_alerts(), named_by_panels());
    let users = |users: &BTreeMap<String, BTreeSet<String>>, family: &str| {
        let of_it = users.iter().filter(|(_, names)| names.contains(family));
        of_it.map(|(user, _)| user.clone()).collect::<Vec<_>>()
    };
    let mut page = HEAD.to_owned();
    let columns = "\n| family | kind | labels | on | meaning | used by |\n|---|---|---|---|---|---|\n";
    let is_own = |described: &Described| described.name.starts_with("countersign_");
    for (head, own) in [("", true), (CITADEL, false)] {
        page.push_str(head);
        page.push_str(columns);
        for described in MetricName::ALL.iter().map(|name| name.described()).filter(|one| is_own(one) == own) {
            let family = queried(&described);
            let labels: Vec<_> = described.labels.iter().map(label).collect();
            let linked = |alert: String| format!("[{alert}](alerts.md#{})", alert.to_lowercase());
            let used = users(&alerts, &family).into_iter().map(linked);
            let used: Vec<_> =
                used.chain(users(&panels, &family).into_iter().map(|title| format!("*{title}*"))).collect();
            let (kind, on) = (described.kind.as_str(), on(described.on));
            let (labels, help, used) = (labels.join("; "), described.help, used.join(", "));
            writeln!(page, "| `{family}` | {kind} | {labels} | {on} | {help} | {used} |").unwrap();
        }
    }
    page
}

fn label(label: &Label) -> String {
    match label.values {
        LabelValues::OneOf(values) => format!("`{}`: `{}`", label.name, values.join("`, `")),
        LabelValues::Text(what) => format!("`{}`: {what}", label.name),
    }
}

fn on(processes: &[Process]) -> String {
    let has = |process| processes.contains(&process);
    let mut places = Vec::new();
    match (has(Process::Active), has(Process::Standby)) {
        (true, true) => places.push("active, standby"),
        (true, false) => places.push("active"),
        _ => {}
    }
    places.extend(has(Process::BeforeIstiod).then_some("before istiod"));
    places.extend(has(Process::Agent).then_some("agent"));
    places.join(", ")
}

/// `UPDATE_DOCS=1` rewrites the page.
#[test]
fn the_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    if std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1") {
        std::fs::write(path, page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == page(), "docs/metrics.md is stale: run this test with UPDATE_DOCS=1");
}

#[test]
fn alerts_and_panels_ask_for_what_there_is() {
    let families = MetricName::ALL.iter().map(|name| queried(&name.described()));
    let there: BTreeSet<_> = families.chain([TARGET.to_owned()]).collect();
    for (user, names) in named_by_alerts().into_iter().chain(named_by_panels()) {
        assert!(!names.is_empty(), "{user} asks for nothing that is found");
        let unknown: Vec<_> = names.difference(&there).collect();
        assert!(unknown.is_empty(), "{user} asks for {unknown:?}");
    }
}

#[test]
fn every_family_has_the_kind_and_the_labels_that_are_told_of_it() {
    for (metrics, processes) in [
        (Metrics::new(), PAIR),
        (Metrics::before_istiod(), &[Process::BeforeIstiod][..]),
        (Metrics::before_istiod_with_keys(), &[Process::Active, Process::Standby, Process::BeforeIstiod][..]),
        (Metrics::of_agent(), &[Process::Agent][..]),
    ] {
        let page = metrics.encode();
        let is_here = |described: &Described| described.on.iter().any(|process| processes.contains(process));
        let here: Vec<_> = MetricName::ALL.iter().map(|name| name.described()).filter(is_here).collect();
        let find = |name: &str| {
            let name = family(name);
            let found = here.iter().find(|described| queried(described) == name || described.name == name);
            found.unwrap_or_else(|| panic!("{name} is not told of for {processes:?}"))
        };
        for line in page.lines().filter(|line| *line != "# EOF") {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["#", "TYPE", name, kind] => assert_eq!(find(name).kind.as_str(), kind, "{name}"),
                ["#", ..] => {}
                [sample, _value] => is_told_of(sample, find(sample.split('{').next().unwrap())),
                _ => is_told_of(line, find(line.split('{').next().unwrap())),
            }
        }
    }
}

fn is_told_of(sample: &str, described: &Described) {
    let labels = sample.split_once('{').map_or("", |(_, labels)| labels.rsplit_once('}').unwrap().0);
    // the bound of a bucket is the format's
    for (name, value) in labels.split(',').filter_map(|label| label.split_once('=')).filter(|(name, _)| *name != "le") {
        let label = described.labels.iter().find(|label| label.name == name);
        let label = label.unwrap_or_else(|| panic!("{sample}: nothing is told of {name}"));
        let is_among = match label.values {
            LabelValues::OneOf(values) => values.contains(&value.trim_matches('"')),
            LabelValues::Text(_) => true,
        };
        assert!(is_among, "{sample}: nothing is told of {value}");
    }
}

#[test]
fn names_are_what_their_kind_asks_for() {
    let all: Vec<_> = MetricName::ALL.iter().map(|name| name.described()).collect();
    let unique: BTreeSet<_> = all.iter().map(|described| described.name).collect();
    assert_eq!(unique.len(), all.len());
    for described in all {
        assert!(!described.name.ends_with("_total"), "{}: that is added to a counter's", described.name);
        assert!(!described.help.ends_with('.') && !described.help.contains('|'), "{}", described.help);
        let is_plain = described.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        assert!(is_plain, "{}", described.name);
    }
}
