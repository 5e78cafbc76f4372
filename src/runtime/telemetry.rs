//! Logs: to stderr, as text or as JSON, filtered by `COUNTERSIGN_LOG`. Traces: to a collector, if there is one.

mod trace_ids;
mod traces;

use std::io::{self, IsTerminal};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracer;
use tokio::runtime::Handle;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt as _, LevelFilter, ParseError, Targets, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use self::trace_ids::WithTraceIds;
pub use self::traces::Traces;
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

/// Starts logging for the whole process, and traces if they are wanted: as `service`, exported on `runtime`. Colours only on a
/// terminal, and never with `NO_COLOR`. Traces that can't be exported are no reason not to start.
///
/// # Errors
///
/// When the filter does not parse, or logging was started before.
pub fn start(
    service: &'static str,
    format: LogFormat,
    environment: &Environment,
    runtime: &Handle,
) -> Result<Traces, TelemetryError> {
    let filter = filter(environment)?.and(filter_fn(shows_no_records).with_max_level_hint(LevelFilter::TRACE));
    let colours = io::stderr().is_terminal() && !environment.contains_key("NO_COLOR");
    let exported = traces::provider(service, environment, runtime);
    let spans = exported.as_ref().ok().and_then(Option::as_ref).map(|provider| spans(provider.tracer(service)));
    let subscriber = tracing_subscriber::registry().with(spans);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => {
            let lines = lines.map_event_format(|format| WithTraceIds(format.with_ansi(colours)));
            subscriber.with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).map_event_format(WithTraceIds);
            subscriber.with(lines.with_filter(filter)).try_init()
        }
    }
    .map_err(|_set_already| TelemetryError::Twice)?;
    Ok(Traces::of(exported))
}

/// Spans of this process's own go to a collector, log lines don't.
fn spans<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    let plain = layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_target(false);
    let own = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME")));
    plain.with_filter(own.with_max_level_hint(LevelFilter::INFO))
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
/// the API server is said by those who asked. Spans are not for lines: theirs have the trace's ID.
fn shows_no_records(event: &Metadata<'_>) -> bool {
    if event.is_span() {
        return false;
    }
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
        let filter = "trace".parse::<Targets>().unwrap().and(filter_fn(shows_no_records));
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
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
        let error = filter(&environment).unwrap_err().to_string();
        assert!(error.starts_with("COUNTERSIGN_LOG: "), "{error}");
    }
}
