//! Logs: to stderr, as text or as JSON, filtered by `COUNTERSIGN_LOG`.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    filter::{ParseError, Targets, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::config::{Environment, LogFormat};

/// Names targets and levels, as in `info` or `countersign=debug,warn`.
pub const FILTER_VARIABLE: &str = "COUNTERSIGN_LOG";

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("{FILTER_VARIABLE}: {0}: write a level such as info, or TARGET=LEVEL pairs")]
    Filter(#[from] ParseError),
    /// Somebody else has set up logs in this process.
    #[error("logs are set up already")]
    Twice,
}

/// Starts logging for the whole process. Colours only on a terminal, and never with `NO_COLOR`.
///
/// # Errors
///
/// When the filter does not parse, or logging was started before.
pub fn start(format: LogFormat, environment: &Environment) -> Result<(), TelemetryError> {
    let filter = filter(environment)?;
    let colours = io::stderr().is_terminal() && !environment.contains_key("NO_COLOR");
    let filtered = tracing_subscriber::registry().with(filter).with(filter_fn(shows_no_records));
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => filtered.with(lines).try_init(),
        LogFormat::Json => filtered.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_set_already| TelemetryError::Twice)
}

/// What the filter says; empty counts as not set.
///
/// # Errors
///
/// When it does not parse.
pub fn filter(environment: &Environment) -> Result<Targets, TelemetryError> {
    let directives = environment.get(FILTER_VARIABLE).map(|text| text.trim()).filter(|text| !text.is_empty());
    Ok(directives.unwrap_or("info").parse()?)
}

/// At its lower levels sled prints the records that it stores, and kube's client prints each answer that makes no sense to it:
/// the root's key is in one of them, and a caller's token may be. No filter of the operator's turns those on; what goes wrong with
/// the API server is said by those who asked.
fn shows_no_records(event: &Metadata<'_>) -> bool {
    let of = |library: &str| {
        event.target().strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    !of("kube_client") && (!of("sled") || *event.level() <= Level::INFO)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_that_print_what_they_hold_are_not_heard() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone());
        let filtered = tracing_subscriber::registry().with("trace".parse::<Targets>().unwrap());
        let subscriber = filtered.with(filter_fn(shows_no_records)).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "kube_client::client", "the key");
            tracing::error!(target: "kube_client", "the key");
            tracing::debug!(target: "sled::pagecache", "the key");
            tracing::info!(target: "sled", "is open");
            tracing::warn!(target: "kube_clientele", "is another");
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!said.contains("the key") && said.contains("is open") && said.contains("is another"), "{said}");
    }

    #[test]
    fn an_empty_filter_counts_as_not_set() {
        for text in ["", " "] {
            let environment = Environment::from([(FILTER_VARIABLE.to_owned(), text.to_owned())]);
            let filter = filter(&environment).unwrap();
            assert!(filter.would_enable("countersign", &Level::INFO), "{text:?}");
        }
    }

    #[test]
    fn a_bad_filter_names_its_variable() {
        let environment = Environment::from([(FILTER_VARIABLE.to_owned(), "countersign=loud".to_owned())]);
        let error = start(LogFormat::Text, &environment).unwrap_err().to_string();
        assert!(error.starts_with("COUNTERSIGN_LOG: "), "{error}");
    }
}
