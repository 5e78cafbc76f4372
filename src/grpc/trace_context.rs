//! W3C trace context in the metadata of calls, and a span for each end of a call. Where nothing is exported there is no span, and
//! the caller's context is passed on as it came.

use opentelemetry::{
    Context,
    context::FutureExt as _,
    propagation::{Extractor, Injector, TextMapPropagator as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, KeyRef, MetadataKey, MetadataMap},
};
use tracing::{Instrument as _, Span, field::Empty, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// What replicas of a pair ask the active for, as `/SERVICE/METHOD`.
pub(super) const FORWARD_CERTIFICATE: &str = "/countersign.v1.PairService/CreateCertificate";
/// The same for JWT-SVIDs.
pub(super) const FORWARD_MINT: &str = "/countersign.v1.PairService/MintJwtSvid";
/// What callers ask for JWT-SVIDs.
pub(super) const MINT: &str = "/countersign.trust.v1.JwtService/Mint";

/// What the caller's own span is, by the metadata of its call; nothing if it has none or it is malformed.
pub(super) fn callers_context(metadata: &MetadataMap) -> Context {
    TraceContextPropagator::new().extract(&Received(metadata))
}

/// Answers a call of `method` in a span below the caller's.
pub(super) async fn answering<T>(
    method: &'static str,
    caller: Context,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let span = span_of("server", method, None);
    // refused where no span is exported
    let _is_below = span.set_parent(caller.clone()).is_ok();
    let noted = async {
        let answer = answer.await;
        note(answer.as_ref().err(), is_servers_fault);
        answer
    };
    noted.instrument(span).with_context(caller).await
}

/// Calls `method` at `peer` in a span that the other end's is below.
pub(super) async fn calling<M, T>(
    method: &'static str,
    peer: &str,
    mut request: Request<M>,
    call: impl AsyncFnOnce(Request<M>) -> Result<T, Status>,
) -> Result<T, Status> {
    let span = span_of("client", method, Some(peer));
    let noted = async {
        TraceContextPropagator::new().inject(&mut Sent(request.metadata_mut()));
        let answer = call(request).await;
        note(answer.as_ref().err(), |_code| true);
        answer
    };
    noted.instrument(span).await
}

/// Attributes as the semantic conventions for RPC have them.
fn span_of(kind: &'static str, path: &'static str, peer: Option<&str>) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.rsplit_once('/').unwrap_or((name, ""));
    info_span!(
        "call",
        otel.name = name,
        otel.kind = kind,
        otel.status_code = Empty,
        otel.status_description = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = Empty,
        server.address = peer,
    )
}

fn note(status: Option<&Status>, is_error: impl FnOnce(Code) -> bool) {
    let span = Span::current();
    let code = status.map_or(Code::Ok, Status::code);
    span.record("rpc.grpc.status_code", i64::from(i32::from(code)));
    if let Some(status) = status.filter(|_| is_error(code)) {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", status.message());
    }
}

/// A refusal is the caller's.
const fn is_servers_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

struct Received<'a>(&'a MetadataMap);

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let names = self.0.keys().filter_map(|key| match key {
            KeyRef::Ascii(name) => Some(name.as_str()),
            KeyRef::Binary(_) => None,
        });
        names.collect()
    }
}

struct Sent<'a>(&'a mut MetadataMap);

impl Injector for Sent<'_> {
    fn set(&mut self, key: &str, value: String) {
        // `tracestate` is set also when there is none
        let value = Some(value).filter(|value| !value.is_empty()).and_then(|value| value.parse().ok());
        if let (Ok(key), Some(value)) = (MetadataKey::<Ascii>::from_bytes(key.as_bytes()), value) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    async fn passed_on(metadata: MetadataMap) -> MetadataMap {
        let caller = callers_context(&metadata);
        let forward =
            async { calling(MINT, "peer", Request::new(()), async |request| Ok(request.into_parts().0)).await };
        answering(MINT, caller, forward).await.unwrap()
    }

    #[tokio::test]
    async fn where_nothing_is_exported_the_callers_context_is_passed_on_as_it_came() {
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", PARENT.parse().unwrap());
        metadata.insert("tracestate", "vendor=1".parse().unwrap());
        metadata.insert("authorization", "Bearer x".parse().unwrap());
        let sent = passed_on(metadata).await;
        assert_eq!(sent.get("traceparent").unwrap(), PARENT);
        assert_eq!(sent.get("tracestate").unwrap(), "vendor=1");
        assert_eq!(sent.len(), 2, "and nothing else: {sent:?}");
    }

    #[tokio::test]
    async fn what_is_no_context_is_not_passed_on() {
        for malformed in ["", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
            let mut metadata = MetadataMap::new();
            metadata.insert("traceparent", malformed.parse().unwrap());
            assert!(passed_on(metadata).await.is_empty(), "{malformed:?}");
        }
    }
}
