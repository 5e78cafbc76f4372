//! Since when the bundle endpoint of this replica tells what it tells. Only time in which it could be asked counts for those who
//! federate: none in which this process was not there yet, or the machine slept.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{published_trust::TrustReceiver, waiting::next};
use crate::domain::{authority::rotation::Offered, clock::Timestamp};

/// However often partners have news: of what is put together with a later one it is known that it was no later.
const KEPT: usize = 64;

/// What has been offered here.
pub struct BundleOffers {
    hint: Duration,
    /// When each sequence was first told.
    first: Mutex<BTreeMap<u64, Instant>>,
}

impl BundleOffers {
    /// Nothing yet, at an endpoint that others are asked to read each `hint`.
    pub const fn new(hint: Duration) -> Self {
        Self { hint, first: Mutex::new(BTreeMap::new()) }
    }

    /// Follows what is told. Never returns.
    pub async fn follow(&self, mut trust: TrustReceiver) -> Infallible {
        loop {
            let told = trust.borrow_and_update().as_ref().map(|trust| trust.sequence());
            if let Some(sequence) = told {
                let mut first = self.locked();
                first.entry(sequence).or_insert_with(Instant::now);
                if first.len() > KEPT {
                    put_together(&mut first);
                }
            }
            next(&mut trust).await;
        }
    }

    /// How the bundle of this sequence, which was made at `made`, is offered.
    pub fn offered(&self, sequence: u64, made: Timestamp, now: Timestamp) -> Offered {
        let offered = self.locked().range(sequence..).map(|(_, first)| first.elapsed()).max();
        Offered { since: made.max(now.minus(offered.unwrap_or_default())), hint: self.hint }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the one whose neighbours lie closest together: it is taken for told with the later one of them, and little time is lost.
fn put_together(first: &mut BTreeMap<u64, Instant>) {
    let (before, after) = (first.values(), first.values().skip(2));
    let between = first.keys().skip(1).zip(before.zip(after));
    let closest = between.min_by_key(|(_, (before, after))| after.saturating_duration_since(**before));
    if let Some(sequence) = closest.map(|(sequence, _)| *sequence) {
        first.remove(&sequence);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        sync::watch,
        task::yield_now,
        time::{advance, sleep},
    };

    use super::*;
    use crate::{
        domain::authority::testing::{NOW, authority},
        service::published_trust::PublishedTrust,
    };

    #[tokio::test(start_paused = true)]
    async fn time_counts_from_when_this_process_told_it_or_something_newer() {
        const HOUR: Duration = Duration::from_secs(3600);
        let trust = |sequence| {
            let mut trust = PublishedTrust::first(authority().bundle());
            trust.own.sequence = Some(sequence);
            Some(Arc::new(trust))
        };
        let (tell, told) = watch::channel(None);
        let offers = Arc::new(BundleOffers::new(HOUR));
        let following = Arc::clone(&offers);
        tokio::spawn(async move { match following.follow(told).await {} });
        // made a day ago, when other processes were there, or none
        let (made, now) = (NOW, NOW.plus(24 * HOUR));
        let since = |sequence| now.since(offers.offered(sequence, made, now).since);
        sleep(HOUR).await;
        assert_eq!(since(4), Duration::ZERO, "nobody could read it here");
        for sequence in [3, 5] {
            tell.send_replace(trust(sequence));
            yield_now().await;
            advance(HOUR).await;
        }
        assert_eq!([3, 4, 5, 6].map(since), [2 * HOUR, HOUR, HOUR, Duration::ZERO]);
        advance(48 * HOUR).await;
        assert_eq!(since(5), 24 * HOUR, "no longer than there is such a bundle");
        for sequence in 6..1000 {
            tell.send_replace(trust(sequence));
            yield_now().await;
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(offers.locked().len(), KEPT);
        assert_eq!(since(5), 24 * HOUR, "however many came after it");
        let of_500 = Duration::from_secs(500 * 5);
        assert!((of_500 - Duration::from_secs(200)..=of_500).contains(&since(500)), "{:?}", since(500));
    }
}
