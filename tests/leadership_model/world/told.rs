//! What is written down, to be told when a case fails.

use std::fmt::Write as _;

use countersign::domain::leadership::{Action, Event, HolderId};

use super::{Fault, Signature, World};

#[derive(Debug)]
pub(super) enum Told {
    Event(usize, Event),
    Actions(usize, Vec<Action>),
    Fault(Fault),
    Started(usize, HolderId),
    Signed(Signature),
    Quiet,
}

impl World {
    /// What happened, a line each.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for (at, told) in &self.told {
            write!(story, "{:>10.3} ms  ", *at as f64 / 1_000.0).unwrap();
            match told {
                Told::Event(replica, event) => writeln!(story, "{replica} <- {event:?}"),
                Told::Actions(replica, actions) => writeln!(story, "{replica} -> {actions:?}"),
                Told::Fault(fault) => writeln!(story, "!    {fault:?}"),
                Told::Started(replica, id) => writeln!(story, "{replica} started as {id}"),
                Told::Signed(Signature { replica, term, .. }) => writeln!(story, "{replica} signed in term {term}"),
                Told::Quiet => writeln!(story, "the adversary stops"),
            }
            .unwrap();
        }
        story
    }
}
