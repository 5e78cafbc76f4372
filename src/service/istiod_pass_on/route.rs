//! Which of istiod's addresses can be asked. They may change while calls are under way: a call goes on with what it began with,
//! and whoever asks next goes by what is known then.

mod known_istiod;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use self::known_istiod::KnownIstiod;
use crate::{
    domain::clock::BootInstant,
    service::ports::{IstiodAddress, IstiodAddresses, WayToIstiod},
};

/// The addresses and what is known of them.
pub(super) struct Route {
    way: WayToIstiod,
    known: Mutex<Known>,
}

struct Known {
    addresses: watch::Receiver<IstiodAddresses>,
    istiods: KnownIstiods,
}

/// Those of one moment, in order.
pub(super) type KnownIstiods = Arc<[Arc<KnownIstiod>]>;

/// An address to be asked, and the time it may take.
pub(super) struct Next {
    pub(super) istiod: Arc<KnownIstiod>,
    /// Whether another one could be asked after it.
    pub(super) has_next: bool,
}

impl Route {
    /// To these addresses, and later to those that take their place.
    pub(super) fn new(mut addresses: watch::Receiver<IstiodAddresses>, way: WayToIstiod) -> Self {
        let istiods = istiods(&addresses.borrow_and_update(), &[], &way);
        Self { known: Mutex::new(Known { addresses, istiods }), way }
    }

    /// Those of now. What is known of an address lasts as long as it is among them.
    pub(super) fn istiods(&self) -> KnownIstiods {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { addresses, istiods: of_before } = &mut *known;
        let newest = addresses.borrow_and_update();
        if newest.has_changed() {
            *of_before = istiods(&newest, of_before, &self.way);
        }
        Arc::clone(of_before)
    }

    /// What tells when there are others.
    pub(super) fn changes(&self) -> watch::Receiver<IstiodAddresses> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).addresses.clone()
    }

    /// Whether anybody could be asked now.
    pub(super) fn admits(&self, now: BootInstant) -> bool {
        self.istiods().iter().any(|istiod| istiod.would_admit(now))
    }

    /// The first one that may be asked now, but for those in `asked`.
    pub(super) fn next(&self, asked: &[Arc<KnownIstiod>], now: BootInstant) -> Option<Next> {
        let istiods = self.istiods();
        let is_new = |istiod: &&Arc<KnownIstiod>| !asked.iter().any(|known| Arc::ptr_eq(known, istiod));
        let mut left = istiods.iter().filter(is_new);
        let istiod = Arc::clone(left.find(|istiod| istiod.admit(now))?);
        Some(Next { istiod, has_next: left.any(|istiod| istiod.would_admit(now)) })
    }

    /// The name of the first one that has answered and is not left alone.
    pub(super) fn reachable(&self) -> Option<String> {
        self.istiods().iter().find(|istiod| istiod.is_well()).map(|istiod| istiod.name().to_owned())
    }

    /// Whether none is known to be there, by an answer or a connection that is not old.
    pub(super) fn is_quiet(&self, now: BootInstant) -> bool {
        !self.istiods().iter().any(|istiod| istiod.is_heard(now))
    }

    /// What is wrong with all of them.
    pub(super) fn troubles(&self) -> String {
        self.istiods().iter().map(|istiod| istiod.trouble()).collect::<Vec<_>>().join("; ")
    }
}

fn istiods(addresses: &[IstiodAddress], of_before: &[Arc<KnownIstiod>], way: &WayToIstiod) -> KnownIstiods {
    let istiod = |address: &IstiodAddress| {
        let known = of_before.iter().find(|istiod| istiod.is_at(address));
        known.map_or_else(|| Arc::new(KnownIstiod::new(address.clone(), way(address))), Arc::clone)
    };
    addresses.iter().map(istiod).collect()
}
