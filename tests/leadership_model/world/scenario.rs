//! What the adversary does in one case.

use proptest::sample::Index;

/// What the adversary does in one case. Times are in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Of delays, losses and the instants of signatures.
    pub(crate) seed: u64,
    /// Thousandths of true time, one per replica.
    pub(crate) rates: Vec<u64>,
    /// When the adversary stops.
    pub(crate) length: u64,
    /// Percentage of requests, and of answers, that are lost.
    pub(crate) loss: u64,
    /// Percentage of messages that take up to seconds.
    pub(crate) slow: u64,
    pub(crate) faults: Vec<(u64, Fault)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash {
        replica: usize,
        down: u64,
    },
    /// Without `whole` only the driver stands still, and the signer goes on.
    Pause {
        replica: usize,
        length: u64,
        whole: bool,
    },
    Shutdown {
        replica: usize,
        down: u64,
    },
    Ticks {
        replica: usize,
        times: usize,
    },
    Nudge {
        replica: usize,
    },
    ServerAway {
        length: u64,
    },
    /// Somebody else claims the next term and vanishes.
    StateRaised,
    /// The replica's next claim finds that it can't use the state.
    StateUnusable {
        replica: usize,
    },
    Edit(Edit),
}

/// By hand, with no regard for versions.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Delete,
    Vacate,
    Stranger,
    Holder(usize),
    Term(i64),
    /// Any record that ever stood there, also a release.
    Restore(Index),
}
