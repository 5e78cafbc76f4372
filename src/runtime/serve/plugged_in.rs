//! `--ca-dir`, wired: the plugged-in authority is loaded, followed, and this replica's own certificates follow it.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};

use super::{Seams, ServeFailed};
use crate::{
    domain::{authority::SigningAuthority, identity::TrustDomain, x509::X509Svid},
    service::{
        plugged_in_authority::{LOOK_EVERY, Parts, PluggedInAuthority},
        signing_session::SigningSession,
        signing_state::AuthorityReceiver,
        svid_publisher::IdentityReceiver,
        waiting::pause,
    },
    storage::ca_directory::CaDirectory,
};

/// The active may notice a change up to one look and one check later than a standby, which has its certificates signed there.
const UNTIL_THE_ACTIVE_KNOWS: Duration = LOOK_EVERY.saturating_mul(3);
/// While the active signs by another authority than the own one.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

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

/// A certificate of this replica's own.
pub(super) struct Follower {
    /// Has it renewed at once.
    pub(super) renew_now: Arc<Notify>,
    /// What it is.
    pub(super) identity: IdentityReceiver,
}

impl Follower {
    /// Whether what it holds was signed by another authority than `current`, or came with other roots; `None` before the first.
    fn is_behind(&self, current: &SigningAuthority) -> Option<bool> {
        let identity = self.identity.borrow();
        let identity = identity.as_ref()?;
        let is_signed_by = |svid: &Arc<X509Svid>| svid.chain().intermediates().first() == current.chain().first();
        // one that has expired is being renewed without being told
        let is_signed = identity.svid.as_ref().is_none_or(is_signed_by);
        Some(!is_signed || *identity.bundle != *current.bundle())
    }
}

/// Has this replica's certificates renewed until they are by the authority that it has itself: what is above them has changed,
/// and peers may know only the new roots soon. The active signs them, and may be the later one to get its files: by minutes
/// where each is written by another kubelet. Never returns.
pub(super) async fn renew_after_changes(
    mut authority: AuthorityReceiver,
    sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    followers: Vec<Follower>,
) {
    let mut look_in = Some(UNTIL_THE_ACTIVE_KNOWS);
    loop {
        tokio::select! {
            changed = authority.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                let is_active = sessions.borrow().is_some();
                look_in = Some(if is_active { Duration::ZERO } else { UNTIL_THE_ACTIVE_KNOWS });
            }
            () = pause(look_in) => {
                let current = Arc::clone(&authority.borrow());
                let states: Vec<_> = followers.iter().map(|follower| (follower, follower.is_behind(&current))).collect();
                for (follower, _) in states.iter().filter(|(_, is_behind)| *is_behind == Some(true)) {
                    follower.renew_now.notify_one();
                }
                let is_settled = states.iter().all(|(_, is_behind)| *is_behind == Some(false));
                let next = look_in.unwrap_or_default().saturating_mul(2).clamp(UNTIL_THE_ACTIVE_KNOWS, LOOK_AT_LEAST_EVERY);
                look_in = (!is_settled).then_some(next);
            }
        }
    }
}
