//! The agent's identities, wired: how each is kept, and those beside the first.

use std::{sync::Arc, time::Duration};

use super::{roots::renew_on_change, trust::FollowedTrust};
use crate::{
    domain::{clock::Clock, identity::TrustDomain, random::SecureRandom},
    grpc::{
        ca_client::CaClient,
        jwt_client::PairMinter,
        self_handshake::SelfHandshake,
        served_identities::{ServedIdentities, ServedIdentity},
        workload_jwt::ServedJwt,
    },
    runtime::{
        config::{AgentConfig, IdentitiesConfig, IdentityConfig},
        seams::{RingRandom, SystemClock},
    },
    service::{
        ca_roots::FollowedRoots,
        metrics::{ExpiringCertificate, Metrics},
        other_identities::{self, OtherIdentity},
        ports::BoxFuture,
        readiness::Readiness,
        svid_publisher::{Expectation, IdentityReceiver, RenewalStats, SvidPublisher},
        tainted_renewal::renew_when_tainted,
    },
};

/// What is asked for each of them.
pub(super) struct Asked {
    trust_domain: TrustDomain,
    ttl: Duration,
    /// What they are published with.
    roots: FollowedRoots,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
}

/// The default one, which is kept already.
pub(super) struct First<'a> {
    pub(super) client: &'a Arc<CaClient>,
    pub(super) identity: IdentityReceiver,
    pub(super) stats: Arc<RenewalStats>,
    /// What is published by whoever `client` asks.
    pub(super) trust: &'a FollowedTrust,
}

impl Asked {
    /// By the configuration; published with these `roots`.
    pub(super) fn by(config: &AgentConfig, roots: FollowedRoots) -> Self {
        let (clock, random) = (Arc::new(SystemClock), Arc::new(RingRandom::new()));
        Self { trust_domain: config.trust_domain.clone(), ttl: config.svid_ttl, roots, clock, random }
    }

    /// Of the CA that `client` asks, and by its proof.
    pub(super) fn of(&self, client: &Arc<CaClient>) -> (SvidPublisher, IdentityReceiver) {
        let (publisher, identity) = SvidPublisher::new(
            Arc::clone(client) as _,
            Expectation::AnyIn(self.trust_domain.clone()),
            i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX),
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
        );
        client.renew_by(identity.clone());
        let check = Arc::new(SelfHandshake::new(Arc::clone(&self.clock)));
        (publisher.checked_by(check).with_bundle_of(self.roots.clone()), identity)
    }

    /// Has the others kept by the CA of the first, each with a token of its own: all that the socket serves.
    pub(super) fn all(
        &self,
        config: IdentitiesConfig,
        first: First<'_>,
        (metrics, readiness): (&Metrics, &Readiness),
        mut spawn: impl FnMut(&'static str, BoxFuture<'static, ()>),
    ) -> (ServedIdentities, ServedJwt) {
        metrics.follow(ExpiringCertificate::Svid, first.stats);
        let (mut others, mut clients, mut shown) = (Vec::new(), vec![Arc::clone(first.client)], Vec::new());
        for IdentityConfig { hint, token_file } in config.others {
            let client = Arc::new(first.client.with_token(token_file));
            let (publisher, identity) = self.of(&client);
            let (stats, renew_now) = (publisher.stats(), publisher.renew_now());
            shown.push(OtherIdentity { hint: hint.clone(), identity: identity.clone(), trouble: stats.trouble() });
            metrics.follow_other(hint.as_str(), stats);
            let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
            let renewal = renew_on_change(client.roots(), Arc::clone(&renew_now), Arc::clone(&random));
            spawn("roots of another identity", Box::pin(renewal));
            let tainted =
                renew_when_tainted(first.trust.served.trust.clone(), identity.clone(), renew_now, (clock, random));
            spawn("tainted renewal of another identity", Box::pin(async move { match tainted.await {} }));
            spawn("another identity", Box::pin(publisher.run()));
            others.push(ServedIdentity { hint, identity });
            clients.push(client);
        }
        if !shown.is_empty() {
            let latch = readiness.latch("other identities", "none yet");
            spawn("other identities", Box::pin(async move { match other_identities::show(shown, latch).await {} }));
        }
        let minters = clients.into_iter().map(|client| Arc::new(PairMinter::new(client)) as _);
        let FollowedTrust { served, has_nothing } = first.trust;
        let jwt = ServedJwt::by(minters, &self.trust_domain, served.trust.clone(), Arc::clone(&self.clock));
        let jwt = jwt.unless(has_nothing.clone());
        let first = ServedIdentity { hint: config.first.hint, identity: first.identity };
        (ServedIdentities { first, others }, jwt)
    }
}
