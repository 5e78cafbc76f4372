//! What the client of one stream has accepted of the contexts of Services: what was sent to it in which response, and how it
//! answered that. Without I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{served_secret::ServedSecret, validation::service_of};
use crate::{
    domain::policy::IdentitySet,
    service::{
        context_acceptance::{Standing, StandingChange},
        policy_follower::ServiceKey,
    },
};

/// One stream's.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    asked: BTreeMap<ServiceKey, Standing>,
    /// Not answered yet, oldest first.
    sent: VecDeque<Sent>,
    news: BTreeMap<ServiceKey, Option<Standing>>,
}

#[derive(Debug)]
struct Sent {
    /// The number of the response.
    response: u64,
    contexts: Vec<(ServiceKey, IdentitySet)>,
}

/// Responses whose answers are waited for. Who answers none of so many has accepted nothing of the first ones.
const UNANSWERED: usize = 64;

impl Accepted {
    /// A name was asked for, perhaps again: then what there was may have been thrown away.
    pub(super) fn asks(&mut self, name: &str) {
        if let Some(service) = service_of(name) {
            self.set(service, Standing::default());
        }
    }

    /// A name is not asked for any more.
    pub(super) fn drops(&mut self, name: &str) {
        if let Some(service) = service_of(name)
            && self.asked.remove(&service).is_some()
        {
            self.news.insert(service, None);
        }
    }

    /// These are asked for, and no others. Those that were before keep their standing.
    pub(super) fn asks_only(&mut self, names: &[String]) {
        let mut before = std::mem::take(&mut self.asked);
        for service in names.iter().filter_map(|name| service_of(name)) {
            match before.remove_entry(&service) {
                Some((service, standing)) => _ = self.asked.insert(service, standing),
                None if self.asked.contains_key(&service) => {}
                None => self.set(service, Standing::default()),
            }
        }
        self.news.extend(before.into_keys().map(|service| (service, None)));
    }

    /// The client had this before the stream began.
    pub(super) fn holds(&mut self, secret: &ServedSecret) {
        if let Some((service, set)) = &secret.context
            && self.asked.contains_key(service)
        {
            self.set(service.clone(), Standing { accepted: Some(*set), refusal: None });
        }
    }

    /// A response is sent. Their numbers grow.
    pub(super) fn sends<'a>(&mut self, response: u64, secrets: impl Iterator<Item = &'a Arc<ServedSecret>>) {
        let contexts: Vec<_> = secrets.filter_map(|secret| secret.context.clone()).collect();
        if contexts.is_empty() {
            return;
        }
        if self.sent.len() == UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { response, contexts });
    }

    /// The client has accepted a response, or refused it with these words. Those before it that it has not answered count for
    /// nothing.
    pub(super) fn answers(&mut self, response: u64, refusal: Option<&str>) {
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.response <= response) {
            if sent.response < response {
                continue;
            }
            for (service, set) in sent.contexts {
                let Some(known) = self.asked.get(&service) else { continue };
                let standing = match refusal {
                    None => Standing { accepted: Some(set), refusal: None },
                    Some(refusal) => Standing { accepted: known.accepted, refusal: Some(refusal.into()) },
                };
                self.set(service, standing);
            }
        }
    }

    /// What has changed since this was called last.
    pub(super) fn take_news(&mut self) -> Vec<StandingChange> {
        std::mem::take(&mut self.news).into_iter().collect()
    }

    fn set(&mut self, service: ServiceKey, standing: Standing) {
        if self.asked.get(&service) != Some(&standing) {
            self.news.insert(service.clone(), Some(standing.clone()));
            self.asked.insert(service, standing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str, id: &str) -> Arc<ServedSecret> {
        let set = IdentitySet::of([&format!("spiffe://td/{id}").parse().unwrap()]);
        let resource = crate::proto::Any { type_url: String::new(), value: bytes::Bytes::new() };
        Arc::new(ServedSecret { version: id.into(), resource, context: Some((service_of(name).unwrap(), set)) })
    }

    /// What the news say, by Service: `?` nothing accepted, else the set's name; `-` not asked for; `!` refused.
    fn news(accepted: &mut Accepted) -> Vec<String> {
        let name =
            |set| ["a", "b"].into_iter().find(|id| context("validation/n/x", id).context.as_ref().unwrap().1 == set);
        let text = |(service, standing): StandingChange| match standing {
            None => format!("{service} -"),
            Some(Standing { accepted, refusal }) => {
                let set = accepted.map_or("?", |set| name(set).unwrap());
                format!("{service} {set}{}", if refusal.is_some() { "!" } else { "" })
            }
        };
        accepted.take_news().into_iter().map(text).collect()
    }

    const X: &str = "validation/n/x";
    const Y: &str = "validation/n/y";

    #[test]
    fn only_an_answer_counts_and_a_refusal_leaves_what_was_accepted() {
        let mut accepted = Accepted::default();
        accepted.asks(X);
        accepted.asks("default");
        assert_eq!(news(&mut accepted), ["n/x ?"]);
        accepted.sends(1, [&context(X, "a")].into_iter());
        assert_eq!(news(&mut accepted), [""; 0]);
        accepted.answers(1, None);
        assert_eq!(news(&mut accepted), ["n/x a"]);
        accepted.sends(2, [&context(X, "b")].into_iter());
        accepted.answers(2, Some("no"));
        assert_eq!(news(&mut accepted), ["n/x a!"]);
        accepted.sends(3, [&context(X, "b")].into_iter());
        accepted.answers(3, None);
        assert_eq!(news(&mut accepted), ["n/x b"]);
        accepted.answers(3, None);
        accepted.answers(9, None);
        assert_eq!(news(&mut accepted), [""; 0], "answers to nothing");
        accepted.drops(X);
        assert_eq!(news(&mut accepted), ["n/x -"]);
    }

    #[test]
    fn an_answer_is_for_its_own_response_alone() {
        let mut accepted = Accepted::default();
        [X, Y].into_iter().for_each(|name| accepted.asks(name));
        accepted.sends(1, [&context(X, "a")].into_iter());
        accepted.sends(2, [&context(Y, "b")].into_iter());
        accepted.sends(3, [&context(X, "b")].into_iter());
        _ = news(&mut accepted);
        accepted.answers(1, None);
        assert_eq!(news(&mut accepted), ["n/x a"]);
        accepted.answers(3, None);
        assert_eq!(news(&mut accepted), ["n/x b"], "the second was skipped");
        assert!(accepted.sent.is_empty());
    }

    #[test]
    fn a_list_of_names_keeps_the_standing_of_those_that_stay() {
        let mut accepted = Accepted::default();
        accepted.asks_only(&[X, Y, X, "ROOTCA"].map(str::to_owned));
        assert_eq!(news(&mut accepted), ["n/x ?", "n/y ?"]);
        accepted.sends(1, [&context(X, "a"), &context(Y, "a")].into_iter());
        accepted.answers(1, None);
        assert_eq!(news(&mut accepted), ["n/x a", "n/y a"]);
        accepted.asks_only(&[X.to_owned(), "validation/n/z".to_owned()]);
        assert_eq!(news(&mut accepted), ["n/y -", "n/z ?"]);
        accepted.asks(X);
        assert_eq!(news(&mut accepted), ["n/x ?"], "who asks again may have thrown it away");
    }

    #[test]
    fn what_the_client_kept_counts_and_what_waits_for_an_answer_is_bounded() {
        let mut accepted = Accepted::default();
        accepted.holds(&context(X, "a"));
        assert_eq!(news(&mut accepted), [""; 0], "nobody asks for it");
        accepted.asks(X);
        accepted.holds(&context(X, "a"));
        assert_eq!(news(&mut accepted), ["n/x a"]);
        (1..1000).for_each(|response| accepted.sends(response, [&context(X, "b")].into_iter()));
        assert_eq!(accepted.sent.len(), UNANSWERED);
    }
}
