//! Which istiods a mesh has, by the Services that lead to them, and in which order they are asked: the default revision's first,
//! the others by their names, each revision once. Who follows the Services is an edge's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::ports::{IstiodAddress, IstiodAddresses};
use crate::domain::policy::Change;

/// Of the CA, with TLS.
const PORT: u16 = 15012;
/// Nobody has so many revisions. One request can't ask more of them in its time either.
const MOST: usize = 16;
/// That of the default revision, where its installation gave it no name.
const DEFAULT: &str = "istiod";

/// A Service that says that it leads to istiod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstiodService {
    /// Its name.
    pub name: String,
    /// Its address in the cluster. A headless one has none, and is asked by its name.
    pub address: Option<IpAddr>,
    /// All ports.
    pub ports: Vec<u16>,
    /// By which its pods are selected: Services with the same one lead to the same pods.
    pub selector: BTreeMap<String, String>,
    /// The revision tag, if it is one's.
    pub tag: Option<String>,
}

/// Those of one namespace, as they are followed.
pub struct IstiodServices {
    namespace: String,
    server_name: String,
    /// Where there is none that could be asked, and as long as nobody knows.
    otherwise: IstiodAddress,
    known: BTreeMap<String, IstiodService>,
    addresses: watch::Sender<IstiodAddresses>,
}

impl IstiodServices {
    /// Those of `namespace`, of which nothing is known yet: `otherwise` is asked until there is one. The certificate of each must hold
    /// the name that is expected there.
    pub fn new(namespace: &str, otherwise: IstiodAddress) -> (Self, watch::Receiver<IstiodAddresses>) {
        let (addresses, receiver) = watch::channel([otherwise.clone()].into());
        let (namespace, server_name) = (namespace.to_owned(), otherwise.server_name.clone());
        (Self { namespace, server_name, otherwise, known: BTreeMap::new(), addresses }, receiver)
    }

    /// The namespace whose Services are followed.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Takes up what was seen.
    pub fn apply(&mut self, change: Change<IstiodService, String>) {
        match change {
            Change::Reset(all) => self.known = all.into_iter().map(|service| (service.name.clone(), service)).collect(),
            Change::Put(service) => drop(self.known.insert(service.name.clone(), service)),
            Change::Gone(name) => drop(self.known.remove(&name)),
        }
        let found: Vec<_> = self.in_order().into_iter().map(|service| self.address_of(service)).collect();
        let is_found = !found.is_empty();
        let newest: IstiodAddresses = if is_found { found.into() } else { [self.otherwise.clone()].into() };
        let is_news = self.addresses.send_if_modified(|known| {
            let is_news = *known != newest;
            known.clone_from(&newest);
            is_news
        });
        if !is_news {
            return;
        }
        let names: Vec<&str> = newest.iter().map(|address| address.name.as_str()).collect();
        let (namespace, asked) = (self.namespace(), names.join(", "));
        if is_found {
            info!(event = "istiods_found", namespace, asked);
        } else {
            warn!(event = "istiods_gone", namespace, asked, "no Service with label app=istiod and port {PORT} is left");
        }
    }

    /// Those to be asked.
    fn in_order(&self) -> Vec<&IstiodService> {
        let mut all: Vec<&IstiodService> =
            self.known.values().filter(|service| service.ports.contains(&PORT)).collect();
        let default = all.iter().find(|service| service.tag.as_deref() == Some("default"));
        let default = default.map(|service| service.selector.clone()).filter(|selector| !selector.is_empty());
        all.sort_by_key(|service| {
            let is_default = default.as_ref().is_some_and(|selector| *selector == service.selector);
            // a revision's own Service before its tags'
            (!is_default, service.name != DEFAULT, service.tag.is_some(), &service.name)
        });
        let mut asked: Vec<&IstiodService> = Vec::new();
        for service in all {
            let is_same = |other: &&IstiodService| !service.selector.is_empty() && other.selector == service.selector;
            if asked.len() < MOST && !asked.iter().any(is_same) {
                asked.push(service);
            }
        }
        asked
    }

    fn address_of(&self, service: &IstiodService) -> IstiodAddress {
        let host = format!("{}.{}.svc", service.name, self.namespace);
        let address = match service.address {
            Some(ip) => SocketAddr::new(ip, PORT).to_string(),
            None => format!("{host}:{PORT}"),
        };
        let name = if service.address.is_some() { format!("{host} ({address})") } else { address.clone() };
        IstiodAddress { name, address, server_name: self.server_name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, last: u8, revision: &str, tag: Option<&str>) -> IstiodService {
        let selector = [("app", "istiod"), ("istio.io/rev", revision)];
        IstiodService {
            name: name.to_owned(),
            address: Some([10, 96, 0, last].into()),
            ports: vec![15010, 15012, 443],
            selector: selector.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            tag: tag.map(str::to_owned),
        }
    }

    fn services() -> (IstiodServices, watch::Receiver<IstiodAddresses>) {
        let otherwise = IstiodAddress {
            name: "istiod.istio-system.svc:15012".to_owned(),
            address: "istiod.istio-system.svc:15012".to_owned(),
            server_name: "istiod.istio-system.svc".to_owned(),
        };
        IstiodServices::new("istio-system", otherwise)
    }

    fn asked(known: &watch::Receiver<IstiodAddresses>) -> Vec<String> {
        known.borrow().iter().map(|address| address.address.clone()).collect()
    }

    #[test]
    fn as_long_as_there_is_none_the_default_address_is_asked() {
        let (mut services, known) = services();
        let default = ["istiod.istio-system.svc:15012"];
        assert_eq!(asked(&known), default);
        services.apply(Change::Reset(Vec::new()));
        assert_eq!(asked(&known), default);
        let without_ca = IstiodService { ports: vec![15010], ..service("istiod", 1, "a", None) };
        services.apply(Change::Put(without_ca));
        assert_eq!(asked(&known), default);
        services.apply(Change::Put(service("istiod-a", 2, "a", None)));
        assert_eq!(asked(&known), ["10.96.0.2:15012"]);
        services.apply(Change::Gone("istiod-a".to_owned()));
        assert_eq!(asked(&known), default);
    }

    #[test]
    fn the_default_revision_is_asked_first_and_the_others_by_their_names() {
        let (mut services, known) = services();
        services.apply(Change::Reset(vec![
            service("istiod-b", 2, "b", None),
            service("istiod-a", 1, "a", None),
            service("istiod", 3, "default", None),
        ]));
        assert_eq!(asked(&known), ["10.96.0.3:15012", "10.96.0.1:15012", "10.96.0.2:15012"]);
        assert_eq!(known.borrow()[1].name, "istiod-a.istio-system.svc (10.96.0.1:15012)");
        assert!(known.borrow().iter().all(|address| address.server_name == "istiod.istio-system.svc"));
        // who is the default one says the tag, if there is one
        services.apply(Change::Put(service("istiod-revision-tag-default", 4, "b", Some("default"))));
        assert_eq!(asked(&known), ["10.96.0.2:15012", "10.96.0.3:15012", "10.96.0.1:15012"]);
    }

    #[test]
    fn services_of_the_same_pods_are_one_and_a_tag_stands_in_for_a_service_that_is_missing() {
        let (mut services, known) = services();
        services.apply(Change::Put(service("istiod-revision-tag-prod", 9, "a", Some("prod"))));
        services.apply(Change::Put(service("istiod-revision-tag-test", 8, "a", Some("test"))));
        assert_eq!(asked(&known), ["10.96.0.9:15012"]);
        services.apply(Change::Put(service("istiod-a", 1, "a", None)));
        assert_eq!(asked(&known), ["10.96.0.1:15012"]);
        // without a selector nobody knows where they lead to
        let by_hand = |name, last| IstiodService { selector: BTreeMap::new(), ..service(name, last, "", None) };
        services.apply(Change::Put(by_hand("by-hand", 5)));
        services.apply(Change::Put(by_hand("by-other-hand", 6)));
        assert_eq!(asked(&known), ["10.96.0.5:15012", "10.96.0.6:15012", "10.96.0.1:15012"]);
    }

    #[test]
    fn a_service_without_an_address_is_asked_by_its_name() {
        let (mut services, known) = services();
        services.apply(Change::Put(IstiodService { address: None, ..service("istiod-a", 1, "a", None) }));
        assert_eq!(asked(&known), ["istiod-a.istio-system.svc:15012"]);
        let v6 = IstiodService { address: Some("fd00::7".parse().unwrap()), ..service("istiod-a", 1, "a", None) };
        services.apply(Change::Put(v6));
        assert_eq!(asked(&known), ["[fd00::7]:15012"]);
    }

    #[test]
    fn what_changes_nothing_is_no_news_and_there_is_an_end_of_them() {
        let (mut services, mut known) = services();
        services.apply(Change::Put(service("istiod", 1, "a", None)));
        assert!(known.has_changed().unwrap());
        known.mark_unchanged();
        services.apply(Change::Put(service("istiod", 1, "a", None)));
        services.apply(Change::Put(service("istiod-revision-tag-x", 3, "a", Some("x"))));
        assert!(!known.has_changed().unwrap());
        for number in 0..200 {
            let revision = format!("r{number:03}");
            services.apply(Change::Put(service(&format!("istiod-{revision}"), number, &revision, None)));
        }
        assert_eq!(known.borrow().len(), MOST);
    }
}
