//! What one stream has asked for, and what it was sent: from both follows what it is owed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tonic::Status;

use super::{resources::SecretSet, served_secret::ServedSecret};

/// The name that stands for everything, where it isn't said by an empty list.
pub(super) const WILDCARD: &str = "*";

/// The names of one stream and the versions that it was sent. A refused version counts as sent.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    sent: BTreeMap<String, String>,
}

/// What has changed for a stream.
#[derive(Default)]
pub(super) struct Owed {
    /// Secrets that it does not have in this version.
    pub(super) changed: Vec<(String, Arc<ServedSecret>)>,
    /// Secrets that it was sent and that are withdrawn.
    pub(super) withdrawn: Vec<String>,
}

impl Subscription {
    /// Adds a name, or the wildcard.
    pub(super) fn add(&mut self, name: String) {
        if name == WILDCARD {
            self.wildcard = true;
        } else {
            self.names.insert(name);
        }
    }

    /// Takes a name, or the wildcard, away.
    pub(super) fn remove(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
        } else {
            self.names.remove(name);
            self.sent.remove(name);
        }
    }

    /// Keeps only these names; those that were there already are not owed again.
    pub(super) fn replace(&mut self, names: Vec<String>) {
        self.wildcard = false;
        self.names.clear();
        names.into_iter().for_each(|name| self.add(name));
    }

    /// Counts `name` as sent in `version`.
    pub(super) fn holds(&mut self, name: String, version: String) {
        self.sent.insert(name, version);
    }

    /// Owes `name` again, whatever was sent.
    pub(super) fn forget(&mut self, name: &str) {
        self.sent.remove(name);
    }

    /// Works out what is owed and counts it as sent.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` with SPIRE's text when a name means nothing here.
    pub(super) fn settle(&mut self, secrets: &SecretSet) -> Result<Owed, Status> {
        let wanted = self.wanted(secrets)?;
        self.sent.retain(|name, _| wanted.contains(name));
        let mut owed = Owed::default();
        for name in wanted {
            match secrets.get(&name) {
                Some(secret) if self.sent.get(&name) == Some(&secret.version) => {}
                Some(secret) => {
                    self.sent.insert(name.clone(), secret.version.clone());
                    owed.changed.push((name, secret));
                }
                None if self.sent.remove(&name).is_some() => owed.withdrawn.push(name),
                None => {}
            }
        }
        Ok(owed)
    }

    /// Everything that the stream has been sent and that is still served.
    pub(super) fn held(&self, secrets: &SecretSet) -> impl Iterator<Item = Arc<ServedSecret>> {
        self.sent.keys().filter_map(|name| secrets.get(name))
    }

    /// Every name that is asked for, the wildcard's included.
    fn wanted(&self, secrets: &SecretSet) -> Result<BTreeSet<String>, Status> {
        let unknown: Vec<_> = self.names.iter().filter(|name| !secrets.knows(name)).map(|n| format!("{n:?}")).collect();
        if !unknown.is_empty() {
            let text = format!("workload is not authorized for the requested identities [{}]", unknown.join(" "));
            return Err(Status::invalid_argument(text));
        }
        let mut wanted = self.names.clone();
        if self.wildcard {
            wanted.extend(secrets.wildcard().map(str::to_owned));
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::subsequence};

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(Vec<&'static str>),
        Remove(Vec<&'static str>),
        Replace(Vec<&'static str>),
        Publish(Option<u8>, u8),
    }

    fn names() -> impl Strategy<Value = Vec<&'static str>> {
        subsequence(vec![WILDCARD, "default", "ROOTCA", "spiffe://td", "spiffe://td/gateway"], 0..=3)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            names().prop_map(Step::Add),
            names().prop_map(Step::Remove),
            names().prop_map(Step::Replace),
            (proptest::option::of(0_u8..3), 0_u8..3).prop_map(|(svid, bundle)| Step::Publish(svid, bundle)),
        ]
    }

    proptest! {
        /// A client that only applies what it is sent holds exactly what it asks for, in the served version, after
        /// every step; and nothing is owed twice.
        #[test]
        fn the_client_always_holds_what_is_served(steps in prop::collection::vec(step(), 1..40)) {
            let mut subscription = Subscription::default();
            let mut secrets = SecretSet::sample(1, Some("0"), "0");
            let mut client = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Add(names) => names.into_iter().for_each(|name| subscription.add(name.to_owned())),
                    Step::Remove(names) => names.into_iter().for_each(|name| subscription.remove(name)),
                    Step::Replace(names) => subscription.replace(names.into_iter().map(str::to_owned).collect()),
                    Step::Publish(svid, bundle) => {
                        secrets = SecretSet::sample(1, svid.map(|svid| svid.to_string()).as_deref(), &bundle.to_string());
                    }
                }
                let wanted = subscription.wanted(&secrets).unwrap();
                client.retain(|name, _| wanted.contains(name));
                let owed = subscription.settle(&secrets).unwrap();
                for (name, secret) in owed.changed {
                    client.insert(name, secret.version.clone());
                }
                for name in owed.withdrawn {
                    prop_assert!(client.remove(&name).is_some(), "{name} was never sent");
                }
                let version = |name: &String| secrets.get(name).map(|secret| (name.clone(), secret.version.clone()));
                prop_assert_eq!(&client, &wanted.iter().filter_map(version).collect());
                prop_assert_eq!(subscription.held(&secrets).count(), client.len());
                let again = subscription.settle(&secrets).unwrap();
                prop_assert!(again.changed.is_empty() && again.withdrawn.is_empty());
            }
        }
    }
}
