//! What holds towards an authority that signs in our place: how often it may be asked, when it is left alone, and which of its
//! answers are passed on.

mod answer;
mod circuit_breaker;
mod token_bucket;

pub use answer::{AnswerError, ExpectedAnswer, check_answer};
pub use circuit_breaker::CircuitBreaker;
pub use token_bucket::TokenBucket;
