//! Says how it stands with the identities that a socket serves beside its default one.

use std::{convert::Infallible, sync::Arc};

use futures_util::{FutureExt as _, future::select_all};
use tokio::sync::watch;

use super::{readiness::Latch, socket_output::NOBODY_YET, svid_publisher::IdentityReceiver, waiting::next};
use crate::domain::identity::Hint;

/// One of them.
pub struct OtherIdentity {
    /// How clients find it.
    pub hint: Hint,
    /// What is held.
    pub identity: IdentityReceiver,
    /// Why nothing newer is.
    pub trouble: watch::Receiver<Option<Arc<str>>>,
}

/// Goes on as long as it is polled. The latch is ready while an SVID of each is held.
pub async fn show(mut others: Vec<OtherIdentity>, latch: Latch) -> Infallible {
    loop {
        let found: Vec<_> = others.iter_mut().map(OtherIdentity::stands).collect();
        let text = found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
        if found.iter().all(|(is_held, _)| *is_held) {
            latch.ready(text)
        } else {
            latch.not_ready(text)
        }
        select_all(others.iter_mut().map(|other| other.changed().boxed())).await;
    }
}

impl OtherIdentity {
    /// Whether an SVID is held, and what is to be said of it.
    fn stands(&mut self) -> (bool, String) {
        let held = self.identity.borrow_and_update().clone();
        let svid = held.as_ref().and_then(|held| held.svid.as_deref());
        let trouble = self.trouble.borrow_and_update().clone();
        let mut text = match (svid, &held) {
            (Some(svid), _) => format!("{}: {} until {}", self.hint, svid.id(), svid.leaf().not_after()),
            (None, Some(held)) => format!("{}: the SVID of {} has expired", self.hint, held.id),
            (None, None) => format!("{}: {}", self.hint, trouble.as_deref().unwrap_or(NOBODY_YET)),
        };
        if let Some(why) = trouble.filter(|_| held.is_some()) {
            text = format!("{text}; {why}");
        }
        (svid.is_some(), text)
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.identity) => {}
            () = next(&mut self.trouble) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{
        domain::authority::testing::authority,
        service::{readiness::Readiness, svid_publisher::WorkloadIdentity},
    };

    #[tokio::test(start_paused = true)]
    async fn all_of_them_must_be_held_and_each_is_said_with_its_hint() {
        let (identity, held) = watch::channel(None);
        let (trouble, why) = watch::channel(None);
        let readiness = Readiness::default();
        let other = OtherIdentity { hint: "api".parse().unwrap(), identity: held, trouble: why };
        let latch = readiness.latch("other identities", "");
        let showing = tokio::spawn(show(vec![other], latch));
        let said = async |expected: &str| {
            timeout(Duration::from_secs(5), async {
                while !readiness.report().to_string().contains(expected) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("{expected}: {}", readiness.report()));
        };
        said("api: no certificate authority has answered yet").await;
        trouble.send_replace(Some("token file /x: not there".into()));
        said("api: token file /x: not there").await;
        let bundle = Arc::new(authority().bundle().clone());
        let id = "spiffe://cluster.local/ns/a/sa/api".parse().unwrap();
        identity.send_replace(Some(Arc::new(WorkloadIdentity { id, svid: None, bundle, revision: 1 })));
        said("api: the SVID of spiffe://cluster.local/ns/a/sa/api has expired; token file /x: not there").await;
        showing.abort();
    }
}
