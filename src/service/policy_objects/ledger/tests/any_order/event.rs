//! What may happen.

use proptest::{prelude::*, sample::Index};

use super::PLANS;
use crate::service::policy_objects::ports::WriteError;

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// In the namespace, that plan.
    Want(u8, u8),
    Edit(u8, u8, u8),
    Delete(u8, u8),
    /// By a finalizer, until it is released.
    Keep(u8, u8),
    Release(u8, u8),
    /// The next things that happened are seen.
    Echo(u8),
    List,
    /// Whether what is under way comes to something.
    TakeOver(bool),
    /// The same, by one that has just been started.
    Restart(bool),
    /// Whether policies must go at once.
    Withdraw(bool),
    Begin,
    /// The API server does one of those under way, or fails.
    Serve(Index, Option<Failure>),
    /// The answer is here.
    End(Index),
    /// The answer is lost.
    Lose(Index),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Outdated,
    Refused,
    Unavailable,
}

impl Failure {
    pub(super) fn error(self) -> WriteError {
        match self {
            Self::Outdated => WriteError::Outdated("odd".into()),
            Self::Refused => WriteError::Refused("odd".into()),
            Self::Unavailable => WriteError::Unavailable { why: "odd".into(), pause: None },
        }
    }
}

pub(super) fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![Just(Failure::Outdated), Just(Failure::Refused), Just(Failure::Unavailable)]
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let index = any::<Index>;
    prop_oneof![
        2 => (0_u8..2, 0..PLANS).prop_map(|(namespace, which)| Event::Want(namespace, which)),
        1 => (0_u8..2, 0_u8..3, 200_u8..203).prop_map(|(namespace, which, content)| Event::Edit(namespace, which, content)),
        1 => (0_u8..2, 0_u8..3).prop_map(|(namespace, which)| Event::Delete(namespace, which)),
        1 => (0_u8..2, 0_u8..3).prop_map(|(namespace, which)| Event::Keep(namespace, which)),
        1 => (0_u8..2, 0_u8..3).prop_map(|(namespace, which)| Event::Release(namespace, which)),
        3 => (1_u8..4).prop_map(Event::Echo),
        2 => Just(Event::List),
        1 => any::<bool>().prop_map(Event::TakeOver),
        1 => any::<bool>().prop_map(Event::Restart),
        1 => any::<bool>().prop_map(Event::Withdraw),
        6 => Just(Event::Begin),
        5 => (index(), prop::option::weighted(0.3, failure())).prop_map(|(which, fails)| Event::Serve(which, fails)),
        5 => index().prop_map(Event::End),
        1 => index().prop_map(Event::Lose),
    ]
}
