//! `countersign issuance list -o json`: what replicas signed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use serde::Deserialize;

use super::countersign::countersign;

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
    pub(crate) signed_at_micros: i64,
    pub(crate) withheld: bool,
}

/// What all of them signed.
pub(crate) struct Issued(Vec<Entry>);

impl Issued {
    /// The logs of all replicas of a data directory.
    pub(crate) fn list(data: &Path) -> Self {
        Self::list_all(&[data])
    }

    /// The logs in these data directories, whose replicas have ended.
    pub(crate) fn list_all(data: &[&Path]) -> Self {
        let list = |folder: &&Path| -> Vec<Entry> {
            let mut command = countersign();
            let made = command.args(["issuance", "list", "-o", "json", "--data-dir"]).arg(folder).output().unwrap();
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "{}: {}: {said}", folder.display(), made.status);
            serde_json::from_slice(&made.stdout).expect("a JSON array")
        };
        Self(data.iter().flat_map(list).collect())
    }

    /// How many certificates are on record.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
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
    /// The signatures' instants of each term lie before those of the next, and each term had one holder: the holders by term.
    pub(crate) fn check_terms(&self) -> BTreeMap<u64, &str> {
        let mut terms: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
        for Entry { term, signed_at_micros: at, .. } in &self.0 {
            let (first, last) = terms.entry(*term).or_insert((*at, *at));
            (*first, *last) = ((*first).min(*at), (*last).max(*at));
        }
        let ordered: Vec<_> = terms.iter().collect();
        for pair in ordered.windows(2) {
            let [(before, (_, last)), (after, (first, _))] = pair else { unreachable!("windows of two") };
            assert!(last < first, "term {before} signed until {last}, term {after} from {first}");
        }
        self.holders()
    }

    /// Fails unless each of `serials` is on record, once, and as sent: how many they are.
    pub(crate) fn check_sent<'a>(&self, serials: impl IntoIterator<Item = &'a String>) -> usize {
        let by_serial = self.by_serial();
        let serials: Vec<_> = serials.into_iter().collect();
        let missing: Vec<_> = serials.iter().filter(|serial| !by_serial.contains_key(serial.as_str())).collect();
        assert!(missing.is_empty(), "got by a client and in no log as sent: {missing:?}");
        serials.len()
    }
}
