//! Log lines bear the trace that they belong to.

use std::fmt;

use opentelemetry::{Context, trace::TraceContextExt as _};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
    },
    registry::LookupSpan,
};

/// A format to which `trace_id` and `span_id` are added, where there is a trace.
pub(super) struct WithTraceIds<F>(pub(super) F);

/// How fields are added to a line that is whole.
pub(super) trait Extend {
    /// `line`, without its line feed, with the two.
    fn extended(line: &str, trace_id: &str, span_id: &str) -> String;
}

impl Extend for Format {
    fn extended(line: &str, trace_id: &str, span_id: &str) -> String {
        format!("{line} trace_id={trace_id} span_id={span_id}")
    }
}

impl Extend for Format<Json> {
    fn extended(line: &str, trace_id: &str, span_id: &str) -> String {
        let open = line.strip_suffix('}').unwrap_or(line);
        format!(r#"{open},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#)
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTraceIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N> + Extend,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let ids = Context::map_current(|context| {
            let span = context.span();
            let span = span.span_context();
            span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
        });
        let Some((trace_id, span_id)) = ids else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", F::extended(line.trim_end_matches('\n'), &trace_id, &span_id))
    }
}
