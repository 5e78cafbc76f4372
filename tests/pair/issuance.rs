//! `countersign issuance list -o json`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use serde::Deserialize;

use crate::support::countersign::countersign;

/// As much of an entry as the tests look at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) serial: String,
    pub(crate) term: u64,
    /// The process that signed.
    pub(crate) replica: String,
    /// Whose log has it.
    pub(crate) log: String,
    pub(crate) sequence: u64,
    pub(crate) withheld: bool,
}

/// The logs of all replicas.
pub(crate) struct Issued(Vec<Entry>);

impl Issued {
    pub(crate) fn list(data: &Path) -> Self {
        let made = countersign().args(["issuance", "list", "-o", "json", "--data-dir"]).arg(data).output().unwrap();
        assert!(made.status.success(), "{}: {}", made.status, String::from_utf8_lossy(&made.stderr));
        Self(serde_json::from_slice(&made.stdout).expect("a JSON array"))
    }

    /// By serial, of what was handed out. No serial stands there twice.
    pub(crate) fn by_serial(&self) -> HashMap<&str, &Entry> {
        let mut entries = HashMap::new();
        for entry in self.0.iter().filter(|entry| !entry.withheld) {
            let twice = entries.insert(entry.serial.as_str(), entry);
            assert!(twice.is_none(), "{entry:?} and {twice:?}");
        }
        entries
    }

    /// Who signed in which term; one process each.
    pub(crate) fn holders(&self) -> BTreeMap<u64, &str> {
        let mut holders: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for entry in &self.0 {
            holders.entry(entry.term).or_default().insert(&entry.replica);
        }
        holders
            .into_iter()
            .map(|(term, replicas)| {
                assert_eq!(replicas.len(), 1, "term {term} was held by {replicas:?}");
                (term, replicas.into_iter().next().unwrap_or_default())
            })
            .collect()
    }

    /// In each log no number stands twice, and terms never fall.
    pub(crate) fn check_order(&self) {
        let mut last: BTreeMap<&str, &Entry> = BTreeMap::new();
        let mut entries: Vec<&Entry> = self.0.iter().collect();
        entries.sort_by_key(|entry| (&entry.log, entry.sequence));
        for entry in entries {
            if let Some(before) = last.insert(&entry.log, entry) {
                assert!(entry.sequence > before.sequence, "{before:?}, then {entry:?}");
                assert!(entry.term >= before.term, "{before:?}, then {entry:?}");
            }
        }
    }
}
