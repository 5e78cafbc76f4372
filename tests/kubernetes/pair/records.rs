//! The issuance logs of replicas that have ended, read together.

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
    pub(crate) replica: String,
    pub(crate) signed_at_micros: i64,
    pub(crate) spiffe_id: String,
    pub(crate) withheld: bool,
}

/// What all of them signed.
pub(crate) struct Records(Vec<Entry>);

impl Records {
    /// Reads the logs in these data directories.
    pub(crate) fn read(data: &[&Path]) -> Self {
        let read = |folder: &&Path| -> Vec<Entry> {
            let mut command = countersign();
            let made = command.args(["issuance", "list", "-o", "json", "--data-dir"]).arg(folder).output().unwrap();
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "{}: {}: {said}", folder.display(), made.status);
            serde_json::from_slice(&made.stdout).expect("a JSON array")
        };
        Self(data.iter().flat_map(read).collect())
    }

    /// Fails unless each term had one holder, and its signatures' instants lie before those of the next term: the holders by
    /// term.
    pub(crate) fn check_terms(&self) -> BTreeMap<u64, String> {
        let mut terms: BTreeMap<u64, (BTreeSet<&str>, i64, i64)> = BTreeMap::new();
        for entry in &self.0 {
            let at = entry.signed_at_micros;
            let (holders, first, last) = terms.entry(entry.term).or_insert_with(|| (BTreeSet::new(), at, at));
            holders.insert(&entry.replica);
            (*first, *last) = ((*first).min(at), (*last).max(at));
        }
        let ordered: Vec<_> = terms.iter().collect();
        for pair in ordered.windows(2) {
            let [(before, (_, _, last)), (after, (_, first, _))] = pair else { unreachable!("windows of two") };
            assert!(last < first, "term {before} signed until {last}, term {after} from {first}");
        }
        terms
            .into_iter()
            .map(|(term, (holders, ..))| {
                assert_eq!(holders.len(), 1, "term {term} was held by {holders:?}");
                (term, holders.into_iter().next().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// Fails unless each of `serials` is on record, once, and as sent.
    pub(crate) fn check_sent<'a>(&self, serials: impl IntoIterator<Item = &'a String>) -> usize {
        let mut by_serial = HashMap::new();
        for entry in self.0.iter().filter(|entry| !entry.withheld) {
            let twice = by_serial.insert(entry.serial.as_str(), entry);
            assert!(twice.is_none(), "{entry:?} and {twice:?}");
        }
        let (mut count, mut missing) = (0, Vec::new());
        for serial in serials {
            count += 1;
            if !by_serial.contains_key(serial.as_str()) {
                missing.push(serial);
            }
        }
        assert!(missing.is_empty(), "got by a client and in no log as sent: {missing:?}");
        count
    }

    /// How many certificates are on record.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
