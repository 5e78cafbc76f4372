//! The steps of a request as spans, for traces: what they hold beside their own fields.

use std::fmt::Display;

use tracing::Span;

/// Notes in `span`, which has the fields for it, that a step has failed and why.
pub(super) fn noted<T, E: Display>(span: &Span, result: Result<T, E>) -> Result<T, E> {
    if let Err(error) = &result {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", error.to_string());
    }
    result
}

/// A span of this name, with these fields, for a step that can fail.
macro_rules! step {
    ($name:literal $(, $($fields:tt)+)?) => {
        tracing::info_span!(
            $name,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            $($($fields)+)?
        )
    };
}
pub(super) use step;
