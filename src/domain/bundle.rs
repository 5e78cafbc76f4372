//! The trust bundle as it is to stand in many places of a cluster, and istiod's serving certificate below it: what to write,
//! and what to leave alone. Bundles as documents that are exchanged with other trust domains. Nothing here reads or writes a place.

mod attempts;
mod distribution;
mod federation;
mod kept_certificate;
mod partner;
mod published_roots;
mod reversals;
mod spiffe_bundle;

pub use attempts::Attempts;
pub use distribution::{Distribution, Outcome, PlacedObject, Seen, Summary, Write};
pub use federation::{
    BundleEndpoint, BundleSource, EndpointProfile, EndpointUrl, EndpointUrlError, FallingSequence, Relationship,
    check_order, handed_over, interval_after, pause_after,
};
pub use kept_certificate::{Judgement, Replace, StoredCertificate, WantedCertificate};
pub use partner::{Commanded, Partner};
pub use published_roots::{FoundRoots, OwnRoots, Verdict};
pub use reversals::Reversals;
pub use spiffe_bundle::{SpiffeBundle, SpiffeBundleError};
