//! That an SVID is renewed at once when whoever has signed it is tainted. All who hold one hear of it in the same moment, so
//! their requests are spread.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::info;

use super::{
    published_trust::TrustReceiver,
    svid_publisher::{IdentityReceiver, WorkloadIdentity},
    waiting::next,
};
use crate::domain::{
    clock::{Clock, Timestamp},
    random::{SecureRandom, part_of},
    x509::Certificate,
};

/// Over so much of what is left of the SVID's life requests are spread,
const PART_OF_LIFE: u32 = 10;
/// but not over more.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);
/// So long a renewal may take before it is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Whoever still signs by a tainted authority is not asked more often.
const REST: Duration = Duration::from_secs(1);

/// Has what `identity` brings renewed by `renew` as long as `trust` taints its signer. Never returns.
pub async fn renew_when_tainted(
    mut trust: TrustReceiver,
    mut identity: IdentityReceiver,
    renew: Arc<Notify>,
    (clock, random): (Arc<dyn Clock>, Arc<dyn SecureRandom>),
) -> Infallible {
    loop {
        let Some(spread) = spread_if_tainted(&mut trust, &mut identity, clock.now()) else {
            tokio::select! {
                () = next(&mut trust) => {}
                () = next(&mut identity) => {}
            }
            continue;
        };
        sleep(part_of(spread, random.as_ref())).await;
        if spread_if_tainted(&mut trust, &mut identity, clock.now()).is_some() {
            info!(event = "svid_tainted", "its signing authority is tainted: it is renewed");
            renew.notify_one();
            let _in_time = timeout(AGAIN_AFTER, next(&mut identity)).await;
            sleep(REST).await;
        }
    }
}

fn spread_if_tainted(trust: &mut TrustReceiver, identity: &mut IdentityReceiver, now: Timestamp) -> Option<Duration> {
    let trust = trust.borrow_and_update().clone()?;
    let identity: Arc<WorkloadIdentity> = identity.borrow_and_update().clone()?;
    let leaf = identity.svid.as_ref()?.leaf();
    trust.is_tainted(leaf).then(|| spread_of(leaf, now))
}

fn spread_of(leaf: &Certificate, now: Timestamp) -> Duration {
    (leaf.not_after().since(now) / PART_OF_LIFE).min(LONGEST_SPREAD)
}

#[cfg(test)]
mod tests {
    use tokio::{sync::watch, time::Instant};

    use super::*;
    use crate::{
        domain::{
            authority::{
                SigningAuthority, Subject, TtlBounds, issue,
                testing::{NOW, TestRandom, authority},
            },
            bundle::SpiffeBundle,
            clock::BootInstant,
            x509::{CertificateChain, PrivateKey, VerifiedCsr, X509Svid},
        },
        service::published_trust::PublishedTrust,
    };

    const LIFE: Duration = Duration::from_secs(60);

    /// Stands still: what is left of a life stays the same.
    struct At;

    impl Clock for At {
        fn now(&self) -> Timestamp {
            NOW
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_nanos(0)
        }
    }

    fn trust(tainted: &[&SigningAuthority]) -> Option<Arc<PublishedTrust>> {
        let own = SpiffeBundle {
            trust_domain: "cluster.local".parse().unwrap(),
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence: Some(1),
            refresh_hint: None,
        };
        let name = |authority: &&SigningAuthority| {
            let id = authority.certificate().subject_key_id().unwrap();
            id.iter().map(|byte| format!("{byte:02X}")).collect()
        };
        Some(Arc::new(PublishedTrust { own, tainted: tainted.iter().map(name).collect(), federated: Vec::new() }))
    }

    fn identity(authority: &SigningAuthority) -> Option<Arc<WorkloadIdentity>> {
        let id = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let (subject, bounds) = (Subject { id: &id, server_names: &[] }, TtlBounds::new(LIFE, LIFE).unwrap());
        let leaf = issue(authority, &csr, subject, 0, &bounds, NOW, &TestRandom).unwrap().leaf;
        let svid = X509Svid::new(CertificateChain::new(vec![leaf]).unwrap(), key).unwrap();
        let bundle = Arc::new(authority.bundle().clone());
        Some(Arc::new(WorkloadIdentity { id, svid: Some(Arc::new(svid)), bundle, revision: 1 }))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_tainted_authority_has_signed_is_renewed_soon_and_nothing_else() {
        let (old, new) = (authority(), authority());
        let (taint, trusted) = watch::channel(trust(&[]));
        let (publish, published) = watch::channel(identity(&old));
        let renew = Arc::new(Notify::new());
        let asked = Arc::clone(&renew);
        let task = renew_when_tainted(trusted, published, asked, (Arc::new(At), Arc::new(TestRandom)));
        tokio::spawn(async move { match task.await {} });
        timeout(LIFE, renew.notified()).await.expect_err("nothing is tainted");
        taint.send_replace(trust(&[&new]));
        timeout(LIFE, renew.notified()).await.expect_err("another one is tainted");
        taint.send_replace(trust(&[&old]));
        let begun = Instant::now();
        timeout(LIFE, renew.notified()).await.expect("the signer is tainted");
        assert!(begun.elapsed() <= LIFE / PART_OF_LIFE, "{:?}", begun.elapsed());
        timeout(AGAIN_AFTER * 2, renew.notified()).await.expect("nothing came of it");
        publish.send_replace(identity(&new));
        timeout(LIFE * 2, renew.notified()).await.expect_err("it was renewed");
    }
}
