//! HTTP: health and metrics on the admin port.
