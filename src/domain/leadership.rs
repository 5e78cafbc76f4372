//! Who may sign: terms, the timings of a lease, and the election as a pure state machine.

mod term;

pub use term::Term;
