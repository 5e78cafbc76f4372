use std::sync::Mutex;

use super::*;
use crate::{
    domain::policy::{ContextReport, IdentitySet, ObjectName},
    service::{
        context_acceptance::{Standing, StreamEntry},
        policy_follower::ServiceKey,
    },
};

/// Takes what it is told, with the time, and breaks off when it is told to.
#[derive(Default)]
struct Taken {
    parts: Mutex<Vec<(Instant, ReportPart)>>,
    opened: Mutex<usize>,
    breaks: Mutex<bool>,
}

struct TakenStream(Arc<Taken>);

impl ReportSink for Arc<Taken> {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ReportStream>, String>> {
        *self.opened.lock().unwrap() += 1;
        Box::pin(async { Ok(Box::new(TakenStream(Self::clone(self))) as Box<dyn ReportStream>) })
    }
}

impl ReportStream for TakenStream {
    fn tell(&mut self, part: ReportPart) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            if std::mem::take(&mut *self.0.breaks.lock().unwrap()) {
                return Err("broken".into());
            }
            self.0.parts.lock().unwrap().push((Instant::now(), part));
            Ok(())
        })
    }
}

fn started() -> (Arc<AcceptanceBook>, Arc<Taken>) {
    let (book, taken) = (Arc::new(AcceptanceBook::default()), Arc::new(Taken::default()));
    tokio::spawn(AcceptanceReporter::new(Arc::clone(&book), Arc::new(Arc::clone(&taken))).run());
    (book, taken)
}

fn accepts(entry: &StreamEntry, name: &str, id: &str) {
    let accepted = Some(IdentitySet::of([&format!("spiffe://td/{id}").parse().unwrap()]));
    entry.take(vec![(ServiceKey::parse(name).unwrap(), Some(Standing { accepted, refusal: None }))]);
}

impl Taken {
    /// What has been told since this was called last.
    fn take(&self) -> Vec<ReportPart> {
        std::mem::take(&mut *self.parts.lock().unwrap()).into_iter().map(|(_, part)| part).collect()
    }
}

fn report() -> (ObjectName, ContextReport) {
    let accepted = [(IdentitySet::of([&"spiffe://td/a".parse().unwrap()]), 1)].into();
    (ObjectName::new("n", "a"), ContextReport { streams: 1, accepted, refusal: None })
}

#[tokio::test(start_paused = true)]
async fn everything_is_told_first_then_changes_and_that_it_still_holds() {
    let (book, taken) = started();
    let entry = book.entry();
    sleep(Duration::from_secs(1)).await;
    let first = taken.take();
    assert_eq!((first.len(), first[0].change.reset, first[0].is_last, first[0].sequence), (1, true, true, 1));
    accepts(&entry, "n/a", "a");
    sleep(PACE).await;
    let change = taken.take();
    assert_eq!((change.len(), change[0].change.reset, change[0].sequence), (1, false, 2));
    assert_eq!(change[0].change.services, [report()]);
    sleep(Duration::from_secs(16)).await;
    let nothing = ReportPart { sequence: 2, ..ReportPart::default() };
    assert_eq!(taken.take(), [nothing.clone(), nothing.clone(), nothing]);
    drop(entry);
    sleep(PACE).await;
    assert_eq!(taken.take()[0].change.gone, [report().0]);
}

#[tokio::test(start_paused = true)]
async fn many_changes_are_told_together_and_none_is_told_twice() {
    let (book, taken) = started();
    let entry = book.entry();
    sleep(Duration::from_secs(1)).await;
    taken.take();
    for number in 0..1000 {
        accepts(&entry, &format!("n/s{}", number % 10), &number.to_string());
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let told = std::mem::take(&mut *taken.parts.lock().unwrap());
    assert!((10..=12).contains(&told.len()), "{} parts", told.len());
    for pair in told.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= PACE);
    }
    assert!(told.iter().all(|(_, part)| part.is_last && !part.change.services.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_told_everything_anew() {
    let (book, taken) = started();
    let entry = book.entry();
    accepts(&entry, "n/a", "a");
    sleep(Duration::from_secs(1)).await;
    taken.take();
    *taken.breaks.lock().unwrap() = true;
    sleep(Duration::from_secs(8)).await;
    let again = taken.take();
    assert_eq!(*taken.opened.lock().unwrap(), 2);
    assert!(again[0].change.reset && again[0].sequence > 1, "{again:?}");
    assert_eq!(again[0].change.services, [report()]);
}

#[test]
fn a_change_comes_in_parts_of_which_the_last_says_so() {
    let services = vec![report(); 2 * CHUNK + 1];
    let gone = vec![report().0; CHUNK + 1];
    let told = ReportPart::parts_of(ReportChange { reset: true, services, gone }, 7);
    let shape =
        |part: &ReportPart| (part.change.reset, part.change.services.len(), part.change.gone.len(), part.is_last);
    let shapes: Vec<_> = told.iter().map(shape).collect();
    let expected = [
        (true, CHUNK, 0, false),
        (false, CHUNK, 0, false),
        (false, 1, 0, false),
        (false, 0, CHUNK, false),
        (false, 0, 1, true),
    ];
    assert_eq!(shapes, expected);
    assert_eq!(ReportPart::parts_of(ReportChange { reset: true, ..ReportChange::default() }, 1).len(), 1);
}
