//! What the process's file descriptors suffice for.

use rustix::process::{Resource, getrlimit};

/// How many connections may be open: one `share`th of the file descriptors, since others need some too, and at most `most`.
pub(crate) fn connections_allowed(share: u64, most: usize) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(descriptors / share).unwrap_or(most).clamp(1, most)
}
