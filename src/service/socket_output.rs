//! Says what the workload socket holds, and when that was last verified, as every other output does: in words and in metrics.
//! What is on the socket is the publisher's to say; nothing is changed here.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    metrics::Metrics,
    readiness::Latch,
    svid_publisher::{IdentityReceiver, WorkloadIdentity},
};
use crate::domain::{
    clock::{Clock, Timestamp},
    x509::X509Svid,
};

/// The use case.
pub struct SocketOutput {
    /// For when it was verified.
    pub clock: Arc<dyn Clock>,
    /// Where it is shown.
    pub metrics: Arc<Metrics>,
}

/// What is said while nothing was ever held.
pub const NOBODY_YET: &str = "no certificate authority has answered yet";

/// This output's name in metrics.
const NAME: &str = "socket";
/// How often what is held is verified again: it may have ended, or the roots may be others.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// What was found out about the SVID that is held.
#[derive(Default)]
struct Verified {
    revision: u64,
    at: Option<Timestamp>,
    /// Why it doesn't verify now.
    fault: Option<String>,
}

impl SocketOutput {
    /// Goes on as long as it is polled. `trouble` is why nothing newer is held. The latch is ready while something is.
    pub async fn run(
        self,
        mut identity: IdentityReceiver,
        mut trouble: watch::Receiver<Option<Arc<str>>>,
        latch: Latch,
    ) -> Infallible {
        let mut verified = Verified::default();
        loop {
            let why = trouble.borrow_and_update().clone();
            let held = identity.borrow_and_update().clone();
            match held.as_ref().map(|held| (held, held.svid.as_ref())) {
                Some((held, Some(svid))) => {
                    self.verify(held, svid, &mut verified);
                    latch.ready(text_of(svid, &verified, why.as_deref()));
                }
                Some((_, None)) => {
                    self.metrics.forget_output(NAME);
                    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                    latch.not_ready(format!("the SVID has expired and could not be renewed{why}"));
                }
                None => latch.not_ready(why.as_deref().unwrap_or(NOBODY_YET)),
            }
            let ended = tokio::select! {
                changed = identity.changed() => changed.is_err(),
                changed = trouble.changed() => changed.is_err(),
                () = sleep(VERIFY_EVERY) => false,
            };
            if ended {
                // the publisher has ended, and says so itself
                std::future::pending::<()>().await;
            }
        }
    }

    /// Verifies what is held by the bundle that is served with it.
    fn verify(&self, held: &WorkloadIdentity, svid: &X509Svid, verified: &mut Verified) {
        let now = self.clock.now();
        if verified.revision != held.revision {
            *verified = Verified { revision: held.revision, ..Verified::default() };
        }
        match svid.chain().verify(&held.bundle, now) {
            Ok(()) => {
                (verified.at, verified.fault) = (Some(now), None);
                self.metrics.output_verified(NAME, svid.leaf(), now);
            }
            Err(error) => {
                verified.fault = Some(error.to_string());
                if verified.at.is_none() {
                    // what is shown is of the one before
                    self.metrics.forget_output(NAME);
                }
            }
        }
    }
}

fn text_of(svid: &X509Svid, verified: &Verified, why: Option<&str>) -> String {
    let leaf = svid.leaf();
    let at = verified.at.map(|at| format!(", verified at {at}")).unwrap_or_default();
    let mut text = format!("{} until {}, serial {}{at}", svid.id(), leaf.not_after(), leaf.serial());
    let fault = verified.fault.as_ref().map(|fault| format!("does not verify now: {fault}"));
    for problem in fault.iter().map(String::as_str).chain(why) {
        text.push_str("; ");
        text.push_str(problem);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            authority::{
                Subject, TtlBounds, issue,
                testing::{NOW, TestRandom, authority},
            },
            clock::BootInstant,
            x509::{CertificateChain, PrivateKey, TrustBundle, VerifiedCsr},
        },
        service::readiness::Readiness,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    /// Follows tokio's clock, which the test pauses.
    struct TestClock(tokio::time::Instant);

    impl Clock for TestClock {
        fn now(&self) -> Timestamp {
            NOW.plus(self.0.elapsed())
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_nanos(0).plus(self.0.elapsed())
        }
    }

    fn identity(revision: u64, other_bundle: Option<TrustBundle>) -> WorkloadIdentity {
        let authority = authority();
        let id = "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
        let subject = Subject { id: &id, server_names: &[] };
        let issued = issue(&authority, &csr, subject, 0, &bounds, NOW, &TestRandom).unwrap();
        let svid = X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap();
        let bundle = other_bundle.unwrap_or_else(|| authority.bundle().clone());
        WorkloadIdentity { id, svid: Some(Arc::new(svid)), bundle: Arc::new(bundle), revision }
    }

    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn serial_and_time_of_the_last_check_are_said_and_shown() {
        let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::of_agent()));
        let (publish, receiver) = watch::channel(None);
        let (trouble, troubles) = watch::channel(None);
        let output =
            SocketOutput { clock: Arc::new(TestClock(tokio::time::Instant::now())), metrics: Arc::clone(&metrics) };
        let latch = readiness.latch("identity", NOBODY_YET);
        tokio::spawn(async move { match output.run(receiver, troubles, latch).await {} });
        settle().await;
        assert_eq!(readiness.report().to_string(), format!("identity: not ready ({NOBODY_YET})\n"));

        let first = identity(1, None);
        let serial = first.svid.as_ref().unwrap().leaf().serial().to_string();
        publish.send_replace(Some(Arc::new(first)));
        settle().await;
        let said = readiness.report().to_string();
        assert!(said.contains(&format!(", serial {serial}, verified at {NOW})")), "{said}");
        let shown = |line: String| assert!(metrics.encode().contains(&line), "{line} is not in\n{}", metrics.encode());
        shown(format!("countersign_output_svid{{output=\"socket\",serial=\"{serial}\"}} 1"));
        shown(format!("countersign_output_verified_timestamp_seconds{{output=\"socket\"}} {}", NOW.seconds()));

        // it is looked at again without any news
        sleep(VERIFY_EVERY * 2).await;
        shown(format!("countersign_output_verified_timestamp_seconds{{output=\"socket\"}} {}", NOW.seconds() + 60));

        // one that does not lead to a root that is published was never verified, and is named all the same
        let second = identity(2, Some(authority().bundle().clone()));
        let serial = second.svid.as_ref().unwrap().leaf().serial().to_string();
        publish.send_replace(Some(Arc::new(second)));
        trouble.send_replace(Some("the reason".into()));
        settle().await;
        let said = readiness.report().to_string();
        assert!(said.contains(&format!(", serial {serial}; does not verify now: ")), "{said}");
        assert!(!metrics.encode().contains("output=\"socket\""), "{}", metrics.encode());
        assert!(said.ends_with("; the reason)\n") && readiness.report().is_ready(), "{said}");

        let ended = WorkloadIdentity { svid: None, ..identity(3, None) };
        publish.send_replace(Some(Arc::new(ended)));
        settle().await;
        assert!(!readiness.report().is_ready());
        assert!(!metrics.encode().contains("output=\"socket\""), "{}", metrics.encode());
    }
}
