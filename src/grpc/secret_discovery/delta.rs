//! The incremental protocol: each response holds only what has changed for the stream.

use std::{collections::HashMap, sync::Arc};

use tonic::Status;

use super::{
    Session,
    accepted::Accepted,
    check_type_url, log_refusal, nonce_of, number_of,
    resources::SecretSet,
    served_secret::{SECRET_TYPE_URL, ServedSecret},
    subscription::{Subscription, WILDCARD},
};
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// One `DeltaSecrets` stream.
#[derive(Debug, Default)]
pub(super) struct Delta {
    subscription: Subscription,
    /// Whether the first request was seen: only that one can subscribe to everything by naming nothing.
    begun: bool,
    responses: u64,
    /// What the client says it has from before, until it is known what is served.
    kept: HashMap<String, String>,
    accepted: Accepted,
    node: String,
}

impl Session for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn is_refusal(request: &DeltaDiscoveryRequest) -> bool {
        request.error_detail.is_some()
    }

    fn note(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        check_type_url(&request.type_url)?;
        if let Some(node) = request.node {
            self.node = node.id;
        }
        if let Some(error) = &request.error_detail {
            log_refusal(&self.node, error);
        }
        if let Some(response) = number_of(&request.response_nonce) {
            self.accepted.answers(response, request.error_detail.as_ref().map(|error| error.message.as_str()));
        }
        // Unlike in the other protocol, a change of names counts whatever the nonce.
        for name in &request.resource_names_unsubscribe {
            self.subscription.remove(name);
            self.accepted.drops(name);
        }
        if !self.begun && request.resource_names_subscribe.is_empty() {
            self.subscription.add(WILDCARD.to_owned());
        }
        for name in request.resource_names_subscribe {
            // Whoever subscribes again may have thrown away what it had.
            self.subscription.forget(&name);
            self.accepted.asks(&name);
            self.subscription.add(name);
        }
        if !self.begun {
            for (name, version) in request.initial_resource_versions {
                self.subscription.holds(name.clone(), version.clone());
                self.kept.insert(name, version);
            }
        }
        self.begun = true;
        Ok(())
    }

    fn respond(&mut self, secrets: &SecretSet) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        // what is served in another version, or not yet, will be sent, and accepted then
        for (name, version) in std::mem::take(&mut self.kept) {
            if let Some(secret) = secrets.get(&name).filter(|secret| secret.version == version) {
                self.accepted.holds(&secret);
            }
        }
        let owed = self.subscription.settle(secrets)?;
        if owed.changed.is_empty() && owed.withdrawn.is_empty() {
            return Ok(None);
        }
        self.responses += 1;
        self.accepted.sends(self.responses, owed.changed.iter().map(|(_, secret)| secret));
        let resource = |(name, secret): (String, Arc<ServedSecret>)| Resource {
            version: secret.version.clone(),
            resource: Some(secret.resource.clone()),
            name,
        };
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: secrets.revision().to_string(),
            resources: owed.changed.into_iter().map(resource).collect(),
            type_url: SECRET_TYPE_URL.to_owned(),
            nonce: nonce_of(self.responses),
            removed_resources: owed.withdrawn,
        }))
    }

    fn accepted(&mut self) -> &mut Accepted {
        &mut self.accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn unsubscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            resource_names_unsubscribe: names.iter().map(|&name| name.to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Names with versions, and removed names.
    type Changes = (Vec<(String, String)>, Vec<String>);

    fn respond(session: &mut Delta, secrets: &SecretSet) -> Option<Changes> {
        session.respond(secrets).unwrap().map(|response| {
            let resources = response.resources.into_iter().map(|resource| (resource.name, resource.version));
            (resources.collect(), response.removed_resources)
        })
    }

    fn changes(changed: &[(&str, &str)], removed: &[&str]) -> Option<Changes> {
        let changed = changed.iter().map(|&(name, version)| (name.to_owned(), version.to_owned())).collect();
        Some((changed, removed.iter().map(|&name| name.to_owned()).collect()))
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut session = Delta::default();
        session.note(subscribe(&["default", "ROOTCA"])).unwrap();
        let first = respond(&mut session, &SecretSet::sample(1, Some("a"), "r"));
        assert_eq!(first, changes(&[("ROOTCA", "r"), ("default", "a")], &[]));
        session.note(DeltaDiscoveryRequest::default()).unwrap();
        assert_eq!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")), None, "an acknowledgement");
        let next = respond(&mut session, &SecretSet::sample(2, Some("b"), "r"));
        assert_eq!(next, changes(&[("default", "b")], &[]));
    }

    #[test]
    fn what_the_client_kept_is_not_sent_again_unless_it_subscribes_again() {
        let secrets = SecretSet::sample(1, Some("a"), "r");
        let mut session = Delta::default();
        let kept = [("default", "a"), ("ROOTCA", "old")].map(|(name, version)| (name.to_owned(), version.to_owned()));
        let first =
            DeltaDiscoveryRequest { initial_resource_versions: kept.into(), ..subscribe(&["default", "ROOTCA"]) };
        session.note(first).unwrap();
        assert_eq!(respond(&mut session, &secrets), changes(&[("ROOTCA", "r")], &[]));
        session.note(subscribe(&["default"])).unwrap();
        assert_eq!(respond(&mut session, &secrets), changes(&[("default", "a")], &[]));
        session.note(unsubscribe(&["default"])).unwrap();
        assert_eq!(respond(&mut session, &SecretSet::sample(2, Some("b"), "r")), None);
    }

    #[test]
    fn the_wildcard_is_an_empty_first_request_or_a_star() {
        let everything = changes(&[("spiffe://td", "r"), ("spiffe://td/gateway", "a")], &[]);
        for first in [subscribe(&[]), subscribe(&["*"])] {
            let mut session = Delta::default();
            session.note(first).unwrap();
            assert_eq!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")), everything);
            session.note(unsubscribe(&["*"])).unwrap();
            assert_eq!(respond(&mut session, &SecretSet::sample(2, Some("b"), "s")), None);
        }
        let mut session = Delta::default();
        session.note(subscribe(&["default"])).unwrap();
        session.note(subscribe(&[])).unwrap();
        assert_eq!(
            respond(&mut session, &SecretSet::sample(1, Some("a"), "r")),
            changes(&[("default", "a")], &[]),
            "a later empty request is no wildcard"
        );
    }

    #[test]
    fn a_withdrawn_identity_is_removed_once_and_comes_back() {
        let mut session = Delta::default();
        session.note(subscribe(&["default", "ROOTCA"])).unwrap();
        assert!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")).is_some());
        assert_eq!(respond(&mut session, &SecretSet::sample(2, None, "r")), changes(&[], &["default"]));
        assert_eq!(respond(&mut session, &SecretSet::sample(2, None, "r")), None);
        assert_eq!(respond(&mut session, &SecretSet::sample(3, Some("b"), "r")), changes(&[("default", "b")], &[]));
    }

    #[test]
    fn unknown_names_end_the_stream() {
        let mut session = Delta::default();
        session.note(subscribe(&["spiffe://td/other"])).unwrap();
        let status = session.respond(&SecretSet::sample(1, Some("a"), "r")).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(
            status.message(),
            r#"workload is not authorized for the requested identities ["spiffe://td/other"]"#
        );
    }
}
