//! What holds towards an authority that signs in our place: when it is left alone, and which of its
//! answers are passed on.

mod answer;
mod circuit_breaker;

pub use answer::{AnswerError, ExpectedAnswer, check_answer};
pub use circuit_breaker::CircuitBreaker;
