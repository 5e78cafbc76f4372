//! What is shown of the trust that is published or followed, and of those who follow it: read when a page is asked for.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::metrics::{family::Family, gauge::Gauge};

use super::{ByLabel, ByName, Metrics, Unlabelled, label_values::FollowerState};
use crate::{
    domain::x509::Certificate,
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
    pub(super) federated_not_before: Family<ByName, Gauge>,
    followed: Mutex<Option<(TrustReceiver, Option<Arc<TrustFollowers>>)>>,
}

impl TrustMetrics {
    /// Shows what is known now, and returns it.
    pub(super) fn read(&self) -> Option<Arc<PublishedTrust>> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let (trust, followers) = followed.as_ref()?;
        let trust = trust.borrow().clone();
        self.show_bundles(trust.as_deref());
        if let Some(followers) = followers {
            self.show_followers(followers, trust.as_deref().map_or(0, PublishedTrust::sequence));
        }
        trust
    }

    fn show_bundles(&self, trust: Option<&PublishedTrust>) {
        self.sequence.clear();
        self.federated_sequence.clear();
        self.federated_root_expiry.clear();
        self.federated_expiry.clear();
        self.federated_not_before.clear();
        let Some(trust) = trust else { return };
        if let Some(sequence) = trust.own.sequence {
            self.sequence.get_or_create(&[]).set(sequence);
        }
        for bundle in &trust.federated {
            let label = [("trust_domain", bundle.trust_domain.to_string())];
            if let Some(sequence) = bundle.sequence {
                self.federated_sequence.get_or_create(&label).set(sequence);
            }
            if let Some(first) = first_to_end(&bundle.x509_authorities) {
                self.federated_root_expiry.get_or_create(&label).set(first.not_after().seconds());
            }
            if let Some(last) = last_to_end(&bundle.x509_authorities) {
                self.federated_expiry.get_or_create(&label).set(last.not_after().seconds());
                self.federated_not_before.get_or_create(&label).set(last.not_before().seconds());
            }
        }
    }

    pub(super) fn show_number(&self, roots: &[Certificate]) {
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

pub(super) fn first_to_end(roots: &[Certificate]) -> Option<&Certificate> {
    roots.iter().min_by_key(|root| root.not_after())
}

pub(super) fn last_to_end(roots: &[Certificate]) -> Option<&Certificate> {
    roots.iter().max_by_key(|root| root.not_after())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::*;
    use crate::{
        domain::{
            authority::{
                SigningAuthority,
                testing::{NOW, TestRandom, authority},
            },
            bundle::SpiffeBundle,
        },
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
        let bundle = authority().bundle().clone();
        let root = &bundle.roots()[0];
        let (begin, end) = (root.not_before().seconds(), root.not_after().seconds());
        for line in [
            "countersign_trust_bundle_sequence{} 2".to_owned(),
            "countersign_trust_bundle_roots{} 1".to_owned(),
            "countersign_trust_followers{state=\"current\"} 1".to_owned(),
            "countersign_trust_followers{state=\"behind\"} 1".to_owned(),
            "countersign_trust_acknowledged_sequence{} 1".to_owned(),
            "countersign_federated_bundle_sequence{trust_domain=\"other.example\"} 7".to_owned(),
            format!("countersign_federated_root_expiry_timestamp_seconds{{trust_domain=\"other.example\"}} {end}"),
            format!("countersign_federated_bundle_expiry_timestamp_seconds{{trust_domain=\"other.example\"}} {end}"),
            format!(
                "countersign_federated_bundle_not_before_timestamp_seconds{{trust_domain=\"other.example\"}} {begin}"
            ),
            format!("countersign_certificate_expiry_timestamp_seconds{{certificate=\"root\"}} {end}"),
            format!("countersign_certificate_expiry_timestamp_seconds{{certificate=\"last_root\"}} {end}"),
            format!("countersign_certificate_not_before_timestamp_seconds{{certificate=\"last_root\"}} {begin}"),
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        two.says(2);
        publish.send_replace(published(2, &[]));
        let page = metrics.encode();
        assert!(page.contains("countersign_trust_followers{state=\"behind\"} 0"), "{page}");
        assert!(!page.contains("other.example"), "{page}");
    }

    #[test]
    fn of_several_roots_the_first_and_the_last_to_end_are_shown_wherever_they_stand() {
        let of = |days: u64| {
            let lifetime = Duration::from_secs(days * 86_400);
            let (made, _key) =
                SigningAuthority::self_signed(&"a.example".parse().unwrap(), lifetime, NOW, &TestRandom).unwrap();
            made.certificate().clone()
        };
        let roots = [of(20), of(90), of(5)];
        let metrics = Metrics::new();
        let first = PublishedTrust::first(authority().bundle());
        let own = SpiffeBundle { x509_authorities: roots.to_vec(), ..first.own.clone() };
        let other = SpiffeBundle { trust_domain: "other.example".parse().unwrap(), ..own.clone() };
        let (_publish, trust) = watch::channel(Some(Arc::new(PublishedTrust { own, federated: vec![other], ..first })));
        metrics.follow_trust(trust, None);
        let page = metrics.encode();
        let [_, last, first] = roots.map(|root| root.not_after().seconds());
        let line =
            |family: &str, labels: &str, end: i64| format!("countersign_{family}_timestamp_seconds{{{labels}}} {end}");
        for line in [
            line("certificate_expiry", "certificate=\"root\"", first),
            line("certificate_expiry", "certificate=\"last_root\"", last),
            line("federated_root_expiry", "trust_domain=\"other.example\"", first),
            line("federated_bundle_expiry", "trust_domain=\"other.example\"", last),
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
    }
}
