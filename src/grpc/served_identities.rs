//! The identities of one socket.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::select_all};

use crate::{
    domain::identity::Hint,
    service::{
        svid_publisher::{IdentityReceiver, WorkloadIdentity},
        waiting::next,
    },
};

/// One of them, as it is published.
#[derive(Clone)]
pub struct ServedIdentity {
    /// How clients find it.
    pub hint: Hint,
    /// Its SVIDs.
    pub identity: IdentityReceiver,
}

/// All of them. The first one is the default: nothing is served before it, or without it, since a client that takes what comes first
/// would be somebody else then. Each of the others is served while there is one.
#[derive(Clone)]
pub struct ServedIdentities {
    /// The default.
    pub first: ServedIdentity,
    /// In this order.
    pub others: Vec<ServedIdentity>,
}

impl From<IdentityReceiver> for ServedIdentities {
    /// The only one.
    fn from(identity: IdentityReceiver) -> Self {
        Self { first: ServedIdentity { hint: Hint::NONE, identity }, others: Vec::new() }
    }
}

impl ServedIdentities {
    pub(super) fn iter(&self) -> impl Iterator<Item = &ServedIdentity> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Those beside the first that are known, which counts as having seen them.
    pub(super) fn known_others(&mut self) -> Vec<(Hint, Arc<WorkloadIdentity>)> {
        let known = |other: &mut ServedIdentity| {
            let identity = other.identity.borrow_and_update().clone()?;
            Some((other.hint.clone(), identity))
        };
        self.others.iter_mut().filter_map(known).collect()
    }

    /// Waits for a change of any of them. Never returns when nothing can change any more.
    pub(super) async fn changed(&mut self) {
        let all = std::iter::once(&mut self.first).chain(&mut self.others);
        select_all(all.map(|served| next(&mut served.identity).boxed())).await;
    }
}
