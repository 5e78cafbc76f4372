//! The state-of-the-world protocol: each response holds every secret that the stream asked for.

use tonic::Status;

use super::{
    Session,
    accepted::Accepted,
    check_type_url, log_refusal, nonce_of,
    resources::SecretSet,
    served_secret::SECRET_TYPE_URL,
    subscription::{Subscription, WILDCARD},
};
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

/// One `StreamSecrets` stream.
#[derive(Debug, Default)]
pub(super) struct StateOfWorld {
    subscription: Subscription,
    /// Whether a list of names was ever not empty: from then on an empty one unsubscribes.
    named: bool,
    /// Responses sent; the last one's number is its nonce.
    responses: u64,
    /// The version of the last response.
    version: String,
    accepted: Accepted,
    node: String,
}

impl Session for StateOfWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn is_refusal(request: &DiscoveryRequest) -> bool {
        request.error_detail.is_some()
    }

    fn note(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        check_type_url(&request.type_url)?;
        if let Some(node) = request.node {
            self.node = node.id;
        }
        if self.responses > 0 && request.response_nonce != nonce_of(self.responses) {
            // It answers a response that is not the last; the client will answer that one too.
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            log_refusal(&self.node, error);
            self.accepted.answers(self.responses, Some(&error.message));
        } else if self.responses > 0 && request.version_info == self.version {
            self.accepted.answers(self.responses, None);
        }
        self.named |= !request.resource_names.is_empty();
        let names = if self.named { request.resource_names } else { vec![WILDCARD.to_owned()] };
        self.accepted.asks_only(&names);
        self.subscription.replace(names);
        Ok(())
    }

    fn respond(&mut self, secrets: &SecretSet) -> Result<Option<DiscoveryResponse>, Status> {
        if self.subscription.settle(secrets)?.changed.is_empty() {
            return Ok(None);
        }
        self.responses += 1;
        self.version = secrets.revision().to_string();
        let held: Vec<_> = self.subscription.held(secrets).collect();
        self.accepted.sends(self.responses, held.iter());
        Ok(Some(DiscoveryResponse {
            version_info: self.version.clone(),
            resources: held.into_iter().map(|secret| secret.resource.clone()).collect(),
            type_url: SECRET_TYPE_URL.to_owned(),
            nonce: nonce_of(self.responses),
        }))
    }

    fn accepted(&mut self) -> &mut Accepted {
        &mut self.accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::google::rpc;

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|&name| name.to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            type_url: SECRET_TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    fn respond(session: &mut StateOfWorld, secrets: &SecretSet) -> Option<(Vec<String>, String)> {
        session.respond(secrets).unwrap().map(|response| {
            let name = |resource: &crate::proto::Any| String::from_utf8(resource.value.to_vec()).unwrap();
            (response.resources.iter().map(name).collect(), response.nonce)
        })
    }

    #[test]
    fn answers_once_and_then_only_changes_of_what_was_asked_for() {
        let mut session = StateOfWorld::default();
        assert_eq!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")), None, "nothing is asked for yet");
        session.note(request(&["default"], "")).unwrap();
        let (names, nonce) = respond(&mut session, &SecretSet::sample(1, Some("a"), "r")).unwrap();
        assert_eq!(names, ["default"]);
        session.note(request(&["default"], &nonce)).unwrap();
        assert_eq!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")), None, "an acknowledgement");
        assert_eq!(respond(&mut session, &SecretSet::sample(2, Some("a"), "s")), None, "only the roots changed");
        let (names, next) = respond(&mut session, &SecretSet::sample(3, Some("b"), "s")).unwrap();
        assert_eq!(names, ["default"]);
        assert_ne!(next, nonce);
    }

    #[test]
    fn added_names_are_answered_and_stale_nonces_ignored() {
        let secrets = SecretSet::sample(1, Some("a"), "r");
        let mut session = StateOfWorld::default();
        session.note(request(&["default"], "")).unwrap();
        let (_, nonce) = respond(&mut session, &secrets).unwrap();
        for stale in ["", "ffffffff"] {
            session.note(request(&["default", "ROOTCA"], stale)).unwrap();
            assert_eq!(respond(&mut session, &secrets), None, "nonce {stale:?}");
        }
        session.note(request(&["ROOTCA", "default"], &nonce)).unwrap();
        let (names, nonce) = respond(&mut session, &secrets).unwrap();
        assert_eq!(names, ["ROOTCA", "default"]);
        session.note(request(&["ROOTCA"], &nonce)).unwrap();
        assert_eq!(respond(&mut session, &secrets), None, "a name less");
    }

    #[test]
    fn a_refusal_waits_for_the_next_change() {
        let mut session = StateOfWorld::default();
        session.note(request(&["default"], "")).unwrap();
        let (_, nonce) = respond(&mut session, &SecretSet::sample(1, Some("a"), "r")).unwrap();
        let error_detail = Some(rpc::Status { message: "bad key".into(), ..rpc::Status::default() });
        session.note(DiscoveryRequest { error_detail, ..request(&["default"], &nonce) }).unwrap();
        assert_eq!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")), None);
        assert!(respond(&mut session, &SecretSet::sample(2, Some("b"), "r")).is_some());
    }

    #[test]
    fn an_empty_list_is_the_wildcard_only_on_a_stream_that_never_named_anything() {
        let secrets = SecretSet::sample(1, Some("a"), "r");
        let mut session = StateOfWorld::default();
        session.note(request(&[], "")).unwrap();
        let (names, nonce) = respond(&mut session, &secrets).unwrap();
        assert_eq!(names, ["spiffe://td", "spiffe://td/gateway"]);
        session.note(request(&["default"], &nonce)).unwrap();
        let (names, nonce) = respond(&mut session, &secrets).unwrap();
        assert_eq!(names, ["default"]);
        session.note(request(&[], &nonce)).unwrap();
        assert_eq!(respond(&mut session, &SecretSet::sample(2, Some("b"), "s")), None);
    }

    #[test]
    fn a_withdrawn_identity_is_not_mentioned_and_comes_back() {
        let mut session = StateOfWorld::default();
        session.note(request(&["default", "ROOTCA"], "")).unwrap();
        assert!(respond(&mut session, &SecretSet::sample(1, Some("a"), "r")).is_some());
        assert_eq!(respond(&mut session, &SecretSet::sample(2, None, "r")), None);
        let (names, _) = respond(&mut session, &SecretSet::sample(3, None, "s")).unwrap();
        assert_eq!(names, ["ROOTCA"]);
        let (names, _) = respond(&mut session, &SecretSet::sample(4, Some("b"), "s")).unwrap();
        assert_eq!(names, ["ROOTCA", "default"]);
    }

    #[test]
    fn unknown_names_and_types_end_the_stream() {
        let mut session = StateOfWorld::default();
        session.note(request(&["zoo", "default", "bar"], "")).unwrap();
        let status = session.respond(&SecretSet::sample(1, Some("a"), "r")).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), r#"workload is not authorized for the requested identities ["bar" "zoo"]"#);
        let other = DiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..request(&["default"], "") };
        assert_eq!(session.note(other).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
