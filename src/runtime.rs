//! The composition root: arguments, configuration, wiring, supervision.

pub mod args;
pub mod commands;
pub mod config;
pub mod seams;
pub mod serve;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;
