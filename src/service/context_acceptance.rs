//! Which identities the proxies on the agent's socket have accepted behind each Service: what their streams say, folded.
//!
//! How streams say it is `grpc`'s, who is told `reporter`'s.

mod reporter;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

pub use self::reporter::{AcceptanceReporter, ReportPart, ReportSink, ReportStream};
use super::policy_follower::ServiceKey;
use crate::domain::policy::{ContextReport, IdentitySet, Report};

/// How it stands with one Service's context on one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The set that the client has accepted last.
    pub accepted: Option<IdentitySet>,
    /// What it said when it refused what it was sent after that.
    pub refusal: Option<Box<str>>,
}

/// What changes on a stream; `None`: the Service is not asked for any more.
pub type StandingChange = (ServiceKey, Option<Standing>);

/// All streams.
#[derive(Debug)]
pub struct AcceptanceBook {
    entries: Mutex<Entries>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Entries {
    streams: u64,
    services: BTreeMap<ServiceKey, BTreeMap<u64, Standing>>,
}

/// A stream's place in the book. What it holds is forgotten when it is dropped.
#[derive(Debug)]
pub struct StreamEntry {
    book: Arc<AcceptanceBook>,
    number: u64,
}

/// Services that are reported: those that come first by name. No gateway has as many routes.
const REPORTED: usize = 10_000;
/// Sets of one Service that are told apart; a proxy that still goes by another has accepted nothing, as far as is told.
const SETS: usize = 8;
/// Of a refusal's text, in bytes.
const REFUSAL_AT_MOST: usize = 256;

impl Default for AcceptanceBook {
    fn default() -> Self {
        Self { entries: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl AcceptanceBook {
    /// A place for a new stream.
    pub fn entry(self: &Arc<Self>) -> StreamEntry {
        let mut entries = self.entries();
        entries.streams += 1;
        StreamEntry { book: Arc::clone(self), number: entries.streams }
    }

    /// All that is held now.
    pub fn report(&self) -> Report {
        let entries = self.entries();
        let services = entries.services.iter().take(REPORTED);
        services.map(|(service, streams)| (service.object(), fold(streams.values()))).collect()
    }

    /// Tells of changes from now on.
    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamEntry {
    /// Takes up what has changed on the stream.
    pub fn take(&self, changes: Vec<StandingChange>) {
        if changes.is_empty() {
            return;
        }
        let mut entries = self.book.entries();
        for (service, standing) in changes {
            match standing {
                Some(standing) => _ = entries.services.entry(service).or_default().insert(self.number, standing),
                None => entries.drop_stream(&service, self.number),
            }
        }
        drop(entries);
        self.book.changed.send_replace(());
    }
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let mut entries = self.book.entries();
        let held = entries.services.iter().filter(|(_, streams)| streams.contains_key(&self.number));
        let held: Vec<ServiceKey> = held.map(|(service, _)| service.clone()).collect();
        held.iter().for_each(|service| entries.drop_stream(service, self.number));
        drop(entries);
        if !held.is_empty() {
            self.book.changed.send_replace(());
        }
    }
}

impl Entries {
    fn drop_stream(&mut self, service: &ServiceKey, number: u64) {
        if let Some(streams) = self.services.get_mut(service) {
            streams.remove(&number);
            if streams.is_empty() {
                self.services.remove(service);
            }
        }
    }
}

fn fold<'a>(streams: impl Iterator<Item = &'a Standing>) -> ContextReport {
    let mut report = ContextReport::default();
    for Standing { accepted, refusal } in streams {
        report.streams = report.streams.saturating_add(1);
        if let Some(set) = accepted
            && (report.accepted.len() < SETS || report.accepted.contains_key(set))
        {
            *report.accepted.entry(*set).or_default() += 1;
        }
        if report.refusal.is_none() {
            report.refusal = refusal.as_deref().map(shortened);
        }
    }
    report
}

fn shortened(text: &str) -> Box<str> {
    let mut end = REFUSAL_AT_MOST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::parse(name).unwrap()
    }

    fn set(number: usize) -> IdentitySet {
        IdentitySet::of([&format!("spiffe://td/{number}").parse().unwrap()])
    }

    fn accepted(number: usize) -> Option<Standing> {
        Some(Standing { accepted: Some(set(number)), refusal: None })
    }

    #[test]
    fn streams_are_counted_by_what_they_have_accepted_until_they_end() {
        let book = Arc::new(AcceptanceBook::default());
        let (one, two) = (book.entry(), book.entry());
        let mut changes = book.changes();
        one.take(vec![(key("n/a"), accepted(1)), (key("n/b"), Some(Standing::default()))]);
        two.take(vec![(key("n/a"), accepted(1))]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let report = book.report();
        let a = &report[&key("n/a").object()];
        assert_eq!((a.streams, a.accepted[&set(1)], &a.refusal), (2, 2, &None));
        assert_eq!(report[&key("n/b").object()], ContextReport { streams: 1, ..ContextReport::default() });
        two.take(vec![(key("n/a"), accepted(2))]);
        one.take(vec![(key("n/b"), None)]);
        assert_eq!(book.report().len(), 1);
        assert_eq!(book.report()[&key("n/a").object()].accepted, [(set(1), 1), (set(2), 1)].into());
        changes.mark_unchanged();
        drop(one);
        drop(two);
        assert!(changes.has_changed().unwrap() && book.report().is_empty());
        changes.mark_unchanged();
        drop(book.entry());
        assert!(!changes.has_changed().unwrap(), "a stream that asked for no Service");
    }

    #[test]
    fn a_refusal_is_told_and_what_is_told_is_bounded() {
        let book = Arc::new(AcceptanceBook::default());
        let entry = book.entry();
        let refusal = Some("é".repeat(1000).into());
        entry.take(vec![(key("n/a"), Some(Standing { accepted: Some(set(0)), refusal }))]);
        let entries: Vec<_> = (0..100).map(|_| book.entry()).collect();
        entries.iter().enumerate().for_each(|(number, entry)| entry.take(vec![(key("n/a"), accepted(number))]));
        let report = &book.report()[&key("n/a").object()];
        assert_eq!((report.streams, report.accepted.len()), (101, SETS));
        assert_eq!(report.refusal.as_deref().map(str::len), Some(REFUSAL_AT_MOST));
    }
}
