//! How many unfinished pods each service account has.
//!
//! A pod counts from its creation on, also before it is scheduled, until it has succeeded or failed or is gone. One that is
//! being deleted still runs in its grace period and counts until that is over by its deletion timestamp, with half a minute
//! for clocks that differ; not for as long as a finalizer or a lost node keeps the object.

use std::{collections::HashMap, time::Duration};

use crate::domain::{clock::Timestamp, identity::ServiceAccount};

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) uid: Box<str>,
    pub(super) account: ServiceAccount,
    pub(super) life: Life,
}

/// How long a pod keeps its account in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Stays,
    /// It is being deleted, with a grace period until then.
    LeavesBy(Timestamp),
    Finished,
}

/// The unfinished pods.
#[derive(Default)]
pub(super) struct Presence {
    /// By UID, whether it is leaving.
    pods: HashMap<Box<str>, (ServiceAccount, bool)>,
    accounts: HashMap<ServiceAccount, InUse>,
}

#[derive(Default)]
struct InUse {
    staying: u32,
    leaving: u32,
    /// The last of the leaving ones is gone by then.
    until: Option<Timestamp>,
}

/// For clocks that differ, and for a kubelet that is late.
const LEEWAY: Duration = Duration::from_secs(30);

impl Presence {
    /// Takes up a pod, or what has become of it.
    pub(super) fn put(&mut self, pod: PodFacts) {
        self.remove(&pod.uid);
        let until = match pod.life {
            Life::Finished => return,
            Life::Stays => None,
            Life::LeavesBy(until) => Some(until),
        };
        // one name in memory for all pods of an account
        let account = self.accounts.get_key_value(&pod.account).map_or(pod.account, |(known, _)| known.clone());
        let in_use = self.accounts.entry(account.clone()).or_default();
        if until.is_some() {
            in_use.leaving += 1;
            in_use.until = in_use.until.max(until);
        } else {
            in_use.staying += 1;
        }
        self.pods.insert(pod.uid, (account, until.is_some()));
    }

    /// Forgets a pod.
    pub(super) fn remove(&mut self, uid: &str) {
        let Some((account, is_leaving)) = self.pods.remove(uid) else { return };
        let Some(in_use) = self.accounts.get_mut(&account) else { return };
        let count = if is_leaving { &mut in_use.leaving } else { &mut in_use.staying };
        *count = count.saturating_sub(1);
        if in_use.leaving == 0 {
            in_use.until = None;
        }
        if in_use.staying == 0 && in_use.leaving == 0 {
            self.accounts.remove(&account);
        }
    }

    /// Whether the account has an unfinished pod at `now`.
    pub(super) fn in_use(&self, account: &ServiceAccount, now: Timestamp) -> bool {
        self.accounts
            .get(account)
            .is_some_and(|in_use| in_use.staying > 0 || in_use.until.is_some_and(|until| until.plus(LEEWAY) > now))
    }

    /// How many pods there are.
    pub(super) fn pods(&self) -> usize {
        self.pods.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn pod(uid: u8, account: u8, life: Life) -> PodFacts {
        PodFacts { uid: uid.to_string().into(), account: format!("ns/a{account}").parse().unwrap(), life }
    }

    fn in_use(presence: &Presence, account: u8) -> bool {
        presence.in_use(&format!("ns/a{account}").parse().unwrap(), NOW)
    }

    #[test]
    fn a_pod_counts_until_it_has_finished_or_is_gone() {
        let mut presence = Presence::default();
        assert!(!in_use(&presence, 1));
        presence.put(pod(1, 1, Life::Stays));
        assert!(in_use(&presence, 1) && !in_use(&presence, 2));
        presence.put(pod(1, 1, Life::Finished));
        assert!(!in_use(&presence, 1));
        presence.put(pod(2, 1, Life::Stays));
        presence.put(pod(3, 1, Life::Stays));
        presence.remove("2");
        assert!(in_use(&presence, 1));
        presence.remove("3");
        presence.remove("3");
        assert!(!in_use(&presence, 1));
    }

    #[test]
    fn a_pod_that_leaves_counts_for_its_grace_period() {
        let mut presence = Presence::default();
        let second = Duration::from_secs(1);
        presence.put(pod(1, 1, Life::LeavesBy(NOW.minus(LEEWAY - second))));
        assert!(in_use(&presence, 1));
        presence.put(pod(1, 1, Life::LeavesBy(NOW.minus(LEEWAY))));
        assert!(!in_use(&presence, 1));
        presence.put(pod(2, 1, Life::Stays));
        assert!(in_use(&presence, 1));
    }

    proptest! {
        /// Against the plainest thing that could be right.
        #[test]
        fn counts_are_those_of_the_pods_that_are_left(
            events in prop::collection::vec((0u8..6, 0u8..3, 0u8..4), 0..60),
        ) {
            let mut presence = Presence::default();
            let mut model = BTreeMap::new();
            for (uid, account, what) in events {
                let life = match what {
                    0 => Life::Stays,
                    1 => Life::LeavesBy(NOW.plus(LEEWAY)),
                    2 => Life::Finished,
                    _ => {
                        presence.remove(&uid.to_string());
                        model.remove(&uid);
                        continue;
                    }
                };
                presence.put(pod(uid, account, life));
                model.insert(uid, (account, life));
                model.retain(|_, (_, life)| *life != Life::Finished);
            }
            for account in 0..3 {
                prop_assert_eq!(in_use(&presence, account), model.values().any(|(of, _)| *of == account));
            }
            prop_assert_eq!(presence.pods(), model.len());
        }
    }
}
