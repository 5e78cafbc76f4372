//! `--ca-dir`, wired: the plugged-in authority is loaded, followed, and this replica's own certificates follow it.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{Seams, ServeFailed};
use crate::{
    domain::identity::TrustDomain,
    service::{
        plugged_in_authority::{LOOK_EVERY, Parts, PluggedInAuthority},
        signing_session::SigningSession,
        signing_state::AuthorityReceiver,
    },
    storage::ca_directory::CaDirectory,
};

/// The active may notice a change up to one look and one check later than a standby, which has its certificates signed there.
const UNTIL_THE_ACTIVE_KNOWS: Duration = LOOK_EVERY.saturating_mul(3);

/// Loads the authority that lies in `directory`.
pub(super) async fn load(
    directory: &Path,
    trust_domain: &TrustDomain,
    seams: &Seams,
) -> Result<(PluggedInAuthority, AuthorityReceiver), ServeFailed> {
    let parts = Parts {
        source: Arc::new(CaDirectory::new(directory.to_owned())),
        trust_domain: trust_domain.clone(),
        clock: Arc::clone(&seams.clock),
        metrics: Arc::clone(&seams.metrics),
    };
    let loaded = PluggedInAuthority::load(parts).await;
    loaded.map_err(|error| ServeFailed(format!("caDir {}: {error}", directory.display())))
}

/// Has this replica's certificates renewed after each change of the authority: what is above them has changed, and peers
/// may know only the new roots soon. Never returns.
pub(super) async fn renew_after_changes(
    mut authority: AuthorityReceiver,
    sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    publishers: Vec<Arc<Notify>>,
) {
    while authority.changed().await.is_ok() {
        if sessions.borrow().is_none() {
            sleep(UNTIL_THE_ACTIVE_KNOWS).await;
        }
        publishers.iter().for_each(|renew_now| renew_now.notify_one());
    }
    std::future::pending::<()>().await;
}
