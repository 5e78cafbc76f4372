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
    support::{http, workers::Workers},
};

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

    /// None until now, of some.
    pub(super) fn check_none(self) {
        drop(self.asking);
        let [refused, accepted] = [0, 1].map(|which| self.of[which].load(Ordering::Relaxed));
        assert!(accepted == 0 && refused >= 5, "{accepted} of {} requests were answered", accepted + refused);
        println!("{refused} requests from a Service's end to the next one's refusal, none answered");
    }
}
