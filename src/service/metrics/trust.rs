//! What is shown of the trust that is published or followed, and of those who follow it: read when a page is asked for.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::{ByLabel, ByName, Metrics, Unlabelled, label_values::FollowerState};
use crate::{
    domain::{clock::Timestamp, x509::Certificate},
    service::{
        published_trust::{PublishedTrust, TrustReceiver},
        trust_followers::{Standing, TrustFollowers},
    },
};

#[derive(Debug, Default)]
pub(super) struct TrustMetrics {
    pub(super) sequence: Family<Unlabelled, Gauge<u64, AtomicU64>>,
    pub(super) roots: Family<Unlabelled, Gauge>,
    pub(super) followers: Family<ByLabel<FollowerState>, Gauge>,
    pub(super) acknowledged: Family<Unlabelled, Gauge<u64, AtomicU64>>,
    pub(super) federated_sequence: Family<ByName, Gauge<u64, AtomicU64>>,
    pub(super) federated_root_expiry: Family<ByName, Gauge>,
    pub(super) federated_expiry: Family<ByName, Gauge>,
    followed: Mutex<Option<(TrustReceiver, Option<Arc<TrustFollowers>>)>>,
}

impl TrustMetrics {
    /// Shows what is known now. Returns when the first of the own roots ends.
    pub(super) fn read(&self) -> Option<Timestamp> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let (trust, followers) = followed.as_ref()?;
        let trust = trust.borrow().clone();
        self.show_bundles(trust.as_deref());
        if let Some(followers) = followers {
            self.show_followers(followers, trust.as_deref().map_or(0, PublishedTrust::sequence));
        }
        first_to_end(&trust?.own.x509_authorities)
    }

    fn show_bundles(&self, trust: Option<&PublishedTrust>) {
        self.sequence.clear();
        self.federated_sequence.clear();
        self.federated_root_expiry.clear();
        self.federated_expiry.clear();
        let Some(trust) = trust else { return };
        self.show_roots(&trust.own.x509_authorities);
        if let Some(sequence) = trust.own.sequence {
            self.sequence.get_or_create(&[]).set(sequence);
        }
        for bundle in &trust.federated {
            let label = [("trust_domain", bundle.trust_domain.to_string())];
            if let Some(sequence) = bundle.sequence {
                self.federated_sequence.get_or_create(&label).set(sequence);
            }
            if let Some(not_after) = first_to_end(&bundle.x509_authorities) {
                self.federated_root_expiry.get_or_create(&label).set(not_after.seconds());
            }
            if let Some(not_after) = bundle.x509_authorities.iter().map(Certificate::not_after).max() {
                self.federated_expiry.get_or_create(&label).set(not_after.seconds());
            }
        }
    }

    pub(super) fn show_roots(&self, roots: &[Certificate]) {
        self.roots.get_or_create(&[]).set(count(roots.len()));
    }

    fn show_followers(&self, followers: &TrustFollowers, newest: u64) {
        let follows = |(_, standing)| match standing {
            Standing::Follows(sequence) => Some(sequence),
            Standing::Left => None,
        };
        let acknowledged: Vec<u64> = followers.here().into_iter().filter_map(follows).collect();
        let behind = acknowledged.iter().filter(|sequence| **sequence < newest).count();
        for (state, number) in [(FollowerState::Current, acknowledged.len() - behind), (FollowerState::Behind, behind)]
        {
            self.followers.get_or_create(&[("state", state)]).set(count(number));
        }
        match acknowledged.iter().min() {
            Some(lowest) => {
                self.acknowledged.get_or_create(&[]).set(*lowest);
            }
            None => self.acknowledged.clear(),
        }
    }
}

impl Metrics {
    /// Shows this trust from now on, and those who follow it here.
    pub fn follow_trust(&self, trust: TrustReceiver, followers: Option<Arc<TrustFollowers>>) {
        *self.trust.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some((trust, followers));
    }
}

pub(super) fn first_to_end(roots: &[Certificate]) -> Option<Timestamp> {
    roots.iter().map(Certificate::not_after).min()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::{
        domain::{authority::testing::authority, bundle::SpiffeBundle},
        service::trust_followers::Follower,
    };

    fn published(sequence: u64, others: &[&str]) -> Option<Arc<PublishedTrust>> {
        let first = PublishedTrust::first(authority().bundle());
        let own = SpiffeBundle { sequence: Some(sequence), ..first.own.clone() };
        let of =
            |name: &&str| SpiffeBundle { trust_domain: name.parse().unwrap(), sequence: Some(7), ..first.own.clone() };
        Some(Arc::new(PublishedTrust { own, federated: others.iter().map(of).collect(), ..first }))
    }

    #[test]
    fn who_has_not_acknowledged_the_newest_is_behind_and_what_is_over_is_not_shown() {
        let (metrics, followers) = (Metrics::new(), Arc::<TrustFollowers>::default());
        let (publish, trust) = watch::channel(None);
        metrics.follow_trust(trust, Some(Arc::clone(&followers)));
        assert!(!metrics.encode().contains("trust_bundle_sequence{"), "nothing is published yet");
        publish.send_replace(published(2, &["other.example"]));
        let open = |name: &str| {
            let identity = "spiffe://cluster.local/gateway".parse().unwrap();
            followers.open(Follower { identity, instance: name.into() }).unwrap()
        };
        let (one, two) = (open("a"), open("b"));
        one.says(2);
        two.says(1);
        let page = metrics.encode();
        let root = authority().bundle().roots()[0].not_after().seconds();
        for line in [
            "countersign_trust_bundle_sequence{} 2".to_owned(),
            "countersign_trust_bundle_roots{} 1".to_owned(),
            "countersign_trust_followers{state=\"current\"} 1".to_owned(),
            "countersign_trust_followers{state=\"behind\"} 1".to_owned(),
            "countersign_trust_acknowledged_sequence{} 1".to_owned(),
            "countersign_federated_bundle_sequence{trust_domain=\"other.example\"} 7".to_owned(),
            format!("countersign_federated_root_expiry_timestamp_seconds{{trust_domain=\"other.example\"}} {root}"),
            format!("countersign_federated_bundle_expiry_timestamp_seconds{{trust_domain=\"other.example\"}} {root}"),
            format!("countersign_certificate_expiry_timestamp_seconds{{certificate=\"root\"}} {root}"),
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        two.says(2);
        publish.send_replace(published(2, &[]));
        let page = metrics.encode();
        assert!(page.contains("countersign_trust_followers{state=\"behind\"} 0"), "{page}");
        assert!(!page.contains("other.example"), "{page}");
    }
}
