//! Who may sign: terms, the timings and the record of a lease, and the election as a pure state machine. Nothing here
//! reads a clock, takes a lock or speaks to an API server: `service::leadership` does what [`Machine`] asks for.

mod lease_record;
mod lease_timing;
mod machine;
mod term;

pub use lease_record::{HolderId, HolderIdError, LeaseRecord, Observed, Occupancy, Version};
pub use lease_timing::{LeaseTiming, LeaseTimingError};
pub use machine::{Action, Event, Machine, Reason, Role, Tenure};
pub use term::Term;
