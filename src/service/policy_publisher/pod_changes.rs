//! Services of whose pods something may have changed, though their policies need not have.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::domain::policy::ObjectName;

/// Those that nobody has taken yet: each once, so no more than there are Services.
#[derive(Debug, Default)]
pub struct PodChanges {
    services: Mutex<BTreeSet<ObjectName>>,
    touched: Notify,
}

impl PodChanges {
    /// More of them.
    pub(super) fn add(&self, services: BTreeSet<ObjectName>) {
        if !services.is_empty() {
            self.services().extend(services);
            self.touched.notify_one();
        }
    }

    /// Waits for some.
    pub async fn next(&self) -> BTreeSet<ObjectName> {
        loop {
            let services = mem::take(&mut *self.services());
            if !services.is_empty() {
                return services;
            }
            self.touched.notified().await;
        }
    }

    fn services(&self) -> MutexGuard<'_, BTreeSet<ObjectName>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
