//! The composition root: arguments, configuration, wiring, supervision.

pub mod agent;
pub mod args;
pub mod commands;
pub mod config;
mod duration;
mod names;
pub mod operate;
pub mod quickstart;
pub mod seams;
pub mod serve;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;
