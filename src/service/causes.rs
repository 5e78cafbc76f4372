//! What an error says together with what is behind it: the error of a transport alone says nothing.

use std::{error::Error, iter::successors};

/// The error and its causes, one after the other. What a layer repeats is said once.
pub fn with_causes(error: &dyn Error) -> String {
    and_causes(error.to_string(), error)
}

/// `said` in the error's place, and its causes.
pub fn and_causes(said: String, error: &dyn Error) -> String {
    let causes = successors(error.source(), |&cause| cause.source()).map(ToString::to_string);
    causes.fold(said, |said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn causes_follow_the_error_and_none_is_said_twice() {
        let layer = |text, below| Layer(text, Some(Box::new(below)));
        let error = layer("transport error", layer("connect: refused", layer("refused", Layer("port closed", None))));
        assert_eq!(with_causes(&error), "transport error: connect: refused: port closed");
        assert_eq!(and_causes("Unavailable".into(), &error), "Unavailable: connect: refused: port closed");
        assert_eq!(with_causes(&Layer("alone", None)), "alone");
    }
}
