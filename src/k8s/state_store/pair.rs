//! One of something for each object of the state.

use crate::service::ports::StateObject;

/// Every object, in the order in which they are claimed.
pub(crate) const OBJECTS: [StateObject; 2] = [StateObject::Authority, StateObject::Trust];

/// Two of a kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair<T> {
    pub(crate) authority: T,
    pub(crate) trust: T,
}

impl<T> Pair<T> {
    pub(crate) const fn of(&self, object: StateObject) -> &T {
        match object {
            StateObject::Authority => &self.authority,
            StateObject::Trust => &self.trust,
        }
    }

    pub(crate) const fn of_mut(&mut self, object: StateObject) -> &mut T {
        match object {
            StateObject::Authority => &mut self.authority,
            StateObject::Trust => &mut self.trust,
        }
    }
}

/// The other one.
pub(crate) const fn other(object: StateObject) -> StateObject {
    match object {
        StateObject::Authority => StateObject::Trust,
        StateObject::Trust => StateObject::Authority,
    }
}

/// The Secret that holds an object.
pub(crate) const fn secret_name(object: StateObject) -> &'static str {
    match object {
        StateObject::Authority => "countersign-authority",
        StateObject::Trust => "countersign-trust",
    }
}
