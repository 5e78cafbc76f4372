//! What is published for others to verify by, as messages and back.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use tracing::warn;

use crate::{
    domain::{
        bundle::SpiffeBundle,
        identity::{SpiffeId, TrustDomain},
        leadership::Term,
    },
    proto::countersign::trust::v1::{Bundle, PairTrust, PassedFollower, Trust},
    service::{
        pair_trust::{ActiveSays, TermTrust},
        published_trust::PublishedTrust,
        trust_followers::{Follower, Standing},
    },
};

/// A message holds bundles of other trust domains, of which there may be many.
pub(super) const MAX_TRUST: usize = 32 << 20;
/// Of the name that a follower has for itself, in bytes.
const INSTANCE_AT_MOST: usize = 64;

/// The message of what was published last, made once for all who follow.
#[derive(Debug, Default)]
pub(super) struct Rendered(Mutex<Option<(Arc<PublishedTrust>, Trust)>>);

impl Rendered {
    pub(super) fn message(&self, trust: &Arc<PublishedTrust>) -> Trust {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, message)) if Arc::ptr_eq(of, trust) => message.clone(),
            _ => last.insert((Arc::clone(trust), trust_message(trust))).1.clone(),
        }
    }
}

fn trust_message(trust: &PublishedTrust) -> Trust {
    Trust {
        own: Some(bundle_message(&trust.own)),
        tainted: trust.tainted.clone(),
        federated: trust.federated.iter().map(bundle_message).collect(),
    }
}

fn bundle_message(bundle: &SpiffeBundle) -> Bundle {
    Bundle { trust_domain: bundle.trust_domain.to_string(), document: bundle.to_json().into() }
}

/// Reads it. The bundle of another trust domain that can't be read is left out: the rest does not depend on it.
///
/// # Errors
///
/// When the own bundle is missing or can't be read.
pub(super) fn trust_of(message: Trust) -> Result<PublishedTrust, String> {
    let Trust { own, tainted, federated } = message;
    let own = bundle_of(&own.ok_or("there is no bundle of the own trust domain")?)?;
    let readable = |bundle: &Bundle| match bundle_of(bundle) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            warn!(event = "federated_bundle_unusable", error);
            None
        }
    };
    Ok(PublishedTrust { own, tainted, federated: federated.iter().filter_map(readable).collect() })
}

fn bundle_of(message: &Bundle) -> Result<SpiffeBundle, String> {
    let named = |error: &dyn std::fmt::Display| format!("the bundle of {:?}: {error}", message.trust_domain);
    let trust_domain: TrustDomain = message.trust_domain.parse().map_err(|error| named(&error))?;
    SpiffeBundle::from_json(trust_domain, &message.document).map_err(|error| named(&error))
}

pub(super) fn pair_message(known: &TermTrust, rendered: &Rendered) -> PairTrust {
    PairTrust { term: known.term.number(), trust: Some(rendered.message(&known.trust)), leaves: false }
}

/// # Errors
///
/// As [`trust_of`].
pub(super) fn pair_trust_of(message: PairTrust) -> Result<ActiveSays, String> {
    if message.leaves {
        return Ok(ActiveSays::Leaves);
    }
    let trust = Arc::new(trust_of(message.trust.ok_or("there is no trust")?)?);
    Ok(ActiveSays::Trust(TermTrust { term: Term::new(message.term), trust }))
}

/// # Errors
///
/// `InvalidArgument` when the name is none.
pub(super) fn follower(identity: SpiffeId, instance: &str) -> Result<Follower, Status> {
    let is_name = !instance.is_empty() && instance.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name || instance.len() > INSTANCE_AT_MOST {
        let wanted = format!("the first message names its instance by 1 to {INSTANCE_AT_MOST} printable characters");
        return Err(Status::invalid_argument(wanted));
    }
    Ok(Follower { identity, instance: instance.into() })
}

pub(super) fn passed_message((follower, standing): (Follower, Standing)) -> PassedFollower {
    let Follower { identity, instance } = follower;
    let (in_effect, leaves) = match standing {
        Standing::Follows(in_effect) => (in_effect, false),
        Standing::Left => (0, true),
    };
    PassedFollower { identity: identity.to_string(), instance: instance.to_string(), in_effect, leaves }
}

/// # Errors
///
/// `InvalidArgument` when it names nobody.
pub(super) fn passed_of(message: &PassedFollower) -> Result<(Follower, Standing), Status> {
    let identity = message.identity.parse();
    let identity = identity.map_err(|error| Status::invalid_argument(format!("identity: {error}")))?;
    let standing = if message.leaves { Standing::Left } else { Standing::Follows(message.in_effect) };
    Ok((follower(identity, &message.instance)?, standing))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::authority::testing::authority;

    fn published() -> PublishedTrust {
        let bundle = authority().bundle().clone();
        let own = SpiffeBundle {
            trust_domain: bundle.trust_domain().clone(),
            x509_authorities: bundle.roots().to_vec(),
            jwt_authorities: Vec::new(),
            sequence: Some(7),
            refresh_hint: Some(Duration::from_secs(300)),
        };
        let other = SpiffeBundle {
            trust_domain: "other.example".parse().unwrap(),
            x509_authorities: Vec::new(),
            ..own.clone()
        };
        PublishedTrust { own, tainted: vec!["0a".into()], federated: vec![other] }
    }

    #[test]
    fn it_arrives_as_it_was_published() {
        let trust = Arc::new(published());
        let rendered = Rendered::default();
        assert_eq!(trust_of(rendered.message(&trust)).as_ref(), Ok(&*trust));
        let known = TermTrust { term: Term::new(3), trust };
        assert_eq!(pair_trust_of(pair_message(&known, &rendered)), Ok(ActiveSays::Trust(known)));
        let leaves = PairTrust { leaves: true, ..PairTrust::default() };
        assert_eq!(pair_trust_of(leaves), Ok(ActiveSays::Leaves));
    }

    #[test]
    fn a_bundle_that_cannot_be_read_costs_the_rest_only_if_it_is_the_own_one() {
        let published = published();
        let message = trust_message(&published);
        let broken = Bundle { document: "{".into(), ..message.federated[0].clone() };
        let with_broken = Trust { federated: vec![broken.clone(), message.federated[0].clone()], ..message.clone() };
        assert_eq!(trust_of(with_broken), Ok(published));
        assert!(trust_of(Trust { own: Some(broken), ..message.clone() }).unwrap_err().contains("other.example"));
        assert!(trust_of(Trust { own: None, ..message }).is_err());
    }

    #[test]
    fn a_follower_has_a_name_that_can_be_shown() {
        let id: SpiffeId = "spiffe://td/gateway".parse().unwrap();
        for bad in ["", "a b", "a\n", &"a".repeat(INSTANCE_AT_MOST + 1)] {
            assert_eq!(follower(id.clone(), bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
        let named = follower(id, "a-1").unwrap();
        for standing in [Standing::Follows(4), Standing::Left] {
            assert_eq!(passed_of(&passed_message((named.clone(), standing))).unwrap(), (named.clone(), standing));
        }
    }
}
