//! A clock for what was made long ago.

use std::time::Duration;

use countersign::{
    domain::clock::{BootInstant, Clock, Timestamp},
    runtime::seams::SystemClock,
};

/// The system's, as it was so long ago.
pub(crate) struct Ago(pub(crate) Duration);

impl Clock for Ago {
    fn now(&self) -> Timestamp {
        SystemClock.now().minus(self.0)
    }

    fn boot(&self) -> BootInstant {
        SystemClock.boot()
    }
}
