//! A steady load that nobody may answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    mesh::gateway::Gateway,
    support::{http, wait::wait_until, workers::Workers},
};

const WITHIN: Duration = Duration::from_secs(10);

/// How many requests were answered, while all are to be refused.
pub(super) struct Accepted {
    of: Arc<[AtomicUsize; 2]>,
    asking: Workers,
}

impl Accepted {
    /// From now on.
    pub(super) fn watch(gateway: &Gateway) -> Self {
        let (of, address) = (Arc::<[AtomicUsize; 2]>::default(), gateway.address);
        let asking = Workers::start(2, Duration::from_millis(1), || {
            let of = Arc::clone(&of);
            move || {
                let is_accepted = http::get(address, "/").is_ok();
                of[usize::from(is_accepted)].fetch_add(1, Ordering::Relaxed);
                true
            }
        });
        Self { of, asking }
    }

    /// None of the next so many.
    pub(super) fn check_none_of(self, count: usize) {
        let asked = || self.of.iter().map(|of| of.load(Ordering::Relaxed)).sum::<usize>();
        wait_until(WITHIN, "enough requests", || if asked() < count { Err(asked()) } else { Ok(()) });
        self.check_none();
    }

    /// None until now, of some.
    pub(super) fn check_none(self) {
        drop(self.asking);
        let [refused, accepted] = [0, 1].map(|which| self.of[which].load(Ordering::Relaxed));
        assert!(accepted == 0 && refused >= 5, "{accepted} of {} requests were answered", accepted + refused);
        println!("{refused} requests, none answered");
    }
}
