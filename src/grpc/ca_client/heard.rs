//! What is heard of a service that not every certificate authority offers, istiod and older replicas among them, or that one offers
//! to others only.

use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Code, Status};

/// Whether those who answered do not know the service, and nobody failed in another way; and whether one of them denies it to the
/// caller.
#[derive(Default)]
pub(in crate::grpc) struct Heard {
    unknown: AtomicBool,
    other: AtomicBool,
    denial: AtomicBool,
}

impl Heard {
    /// What one of them has answered: its status if it was an error.
    pub(in crate::grpc) fn note(&self, status: Option<&Status>) {
        let code = status.map(Status::code);
        let heard = if code == Some(Code::Unimplemented) { &self.unknown } else { &self.other };
        heard.store(true, Ordering::Relaxed);
        self.denial.fetch_or(code == Some(Code::PermissionDenied), Ordering::Relaxed);
    }

    pub(in crate::grpc) fn is_that_none_is_offered(&self) -> bool {
        self.unknown.load(Ordering::Relaxed) && !self.other.load(Ordering::Relaxed)
    }

    pub(in crate::grpc) fn is_that_it_is_denied(&self) -> bool {
        self.denial.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_not_offered_if_all_who_answer_say_so_and_not_if_one_only_fails() {
        for (codes, expected) in [
            (&[][..], false),
            (&[Code::Unimplemented], true),
            (&[Code::Unimplemented, Code::Unimplemented], true),
            (&[Code::Unimplemented, Code::Unavailable], false),
            (&[Code::Unavailable, Code::Unimplemented], false),
            (&[Code::Unavailable], false),
        ] {
            let heard = Heard::default();
            codes.iter().for_each(|code| heard.note(Some(&Status::new(*code, ""))));
            assert_eq!(heard.is_that_none_is_offered(), expected, "{codes:?}");
        }
    }

    #[test]
    fn it_is_denied_if_one_says_so_whoever_else_fails() {
        for (codes, expected) in [
            (&[Code::Unauthenticated, Code::Unavailable][..], false),
            (&[Code::PermissionDenied], true),
            (&[Code::PermissionDenied, Code::Unavailable], true),
            (&[Code::Unimplemented, Code::PermissionDenied], true),
        ] {
            let heard = Heard::default();
            codes.iter().for_each(|code| heard.note(Some(&Status::new(*code, ""))));
            assert_eq!(heard.is_that_it_is_denied(), expected, "{codes:?}");
        }
    }
}
