//! The composition root: arguments, configuration, wiring, supervision.
