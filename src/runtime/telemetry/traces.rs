//! Traces: spans for a collector, as OpenTelemetry's variables say, and none unless one of them says where it is. Whatever becomes
//! of the collector, requests don't wait for it: spans wait in a queue of bounded length, and what finds it full is left out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tracing::{info, warn};

use crate::runtime::config::Environment;

/// What is left in the queue when the process leaves may take this long.
const LAST_EXPORT_LIMIT: Duration = Duration::from_secs(1);

/// What exports spans, if anything does.
pub struct Traces(Option<SdkTracerProvider>);

/// What the variables ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    /// To a collector, over TLS or not.
    Export {
        is_over_tls: bool,
        files: TlsFiles,
    },
}

/// PEM files for TLS with a collector.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// What it is verified to; the roots of the host if there is none.
    roots: Option<String>,
    /// The certificate that is shown to it, and its key.
    own: Option<[String; 2]>,
}

/// Finds out what is wanted.
///
/// # Errors
///
/// Which variable asks for what there isn't.
pub(super) fn wanted(environment: &Environment) -> Result<Wanted, String> {
    let set = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    // what is said of traces goes before what is said of all signals
    let of_traces = |name: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| set(&name).map(|value| (name, value)))
    };
    let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Some((_, endpoint)) = of_traces("ENDPOINT").filter(|_| !is_disabled) else { return Ok(Wanted::Nothing) };
    match set("OTEL_TRACES_EXPORTER") {
        None | Some("otlp") => {}
        Some("none") => return Ok(Wanted::Nothing),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER: {other}: there is otlp, and none")),
    }
    if let Some((name, other)) = of_traces("PROTOCOL").filter(|(_, protocol)| *protocol != "grpc") {
        return Err(format!("{name}: {other}: there is grpc alone, to which collectors listen on port 4317"));
    }
    let file = |name: &str| of_traces(name).map(|(_, path)| path.to_owned());
    let own = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some([certificate, key]),
        _ => {
            return Err("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and …_CLIENT_KEY: there is one without the other".into());
        }
    };
    let files = TlsFiles { roots: file("CERTIFICATE"), own };
    Ok(Wanted::Export { is_over_tls: endpoint.starts_with("https://"), files })
}

/// What exports spans as `service`, on `runtime`, unless the variables call it otherwise; nothing if none are wanted.
///
/// # Errors
///
/// Why there is nothing, though it is wanted.
pub(super) fn provider(
    service: &'static str,
    environment: &Environment,
    runtime: &Handle,
) -> Result<Option<SdkTracerProvider>, String> {
    let Wanted::Export { is_over_tls, files } = wanted(environment)? else { return Ok(None) };
    let mut exporter = OtlpExporter::builder().with_tonic();
    if is_over_tls {
        exporter = exporter.with_tls_config(tls(&files)?);
    }
    let _entered = runtime.enter();
    let exporter = exporter.build().map_err(|error| error.to_string())?;
    let exporter = TellingExporter { exporter, is_failing: AtomicBool::default() };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(Some(provider.with_resource(resource(service, environment)).build()))
}

impl Traces {
    /// By what was begun; says why, if nothing was though it is wanted.
    pub(super) fn of(begun: Result<Option<SdkTracerProvider>, String>) -> Self {
        Self(begun.unwrap_or_else(|reason| {
            warn!(event = "traces_off", reason);
            None
        }))
    }

    /// Exports what has not been yet, if the collector takes it at once.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended = spawn_blocking(move || provider.shutdown_with_timeout(LAST_EXPORT_LIMIT)).await;
        if !matches!(ended, Ok(Ok(()))) {
            warn!(event = "traces_lost", "the collector did not take the last spans in time");
        }
    }
}

/// Spans of this process are told from others' by the attributes that the variables give, and by name and version.
fn resource(service: &'static str, environment: &Environment) -> Resource {
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let is_named = environment.get("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || environment.get("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
    if is_named { resource.build() } else { resource.with_service_name(service).build() }
}

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, String> {
    let config = match &files.roots {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("CERTIFICATE", path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    let Some([certificate, key]) = &files.own else { return Ok(config) };
    Ok(config.identity(Identity::from_pem(read("CLIENT_CERTIFICATE", certificate)?, read("CLIENT_KEY", key)?)))
}

#[expect(clippy::disallowed_methods, reason = "once, before anything runs")]
fn read(name: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("OTEL_EXPORTER_OTLP_{name}: {path}: {error}"))
}

/// Says when the collector does not take spans, once, and when it does again.
#[derive(Debug)]
struct TellingExporter {
    exporter: OtlpExporter,
    is_failing: AtomicBool,
}

impl SpanExporter for TellingExporter {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(spans).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => warn!(event = "traces_not_exported", reason = %error),
            Ok(()) if was_failing => info!(event = "traces_exported"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Wanted, String> {
        wanted(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn nothing_is_exported_unless_it_is_said_where() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let plain = Ok(Wanted::Export { is_over_tls: false, files: TlsFiles::default() });
        assert_eq!(of(&[]), Ok(Wanted::Nothing));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(Wanted::Nothing));
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector:4317")]), Ok(Wanted::Nothing));
        assert_eq!(of(&[endpoint]), plain);
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "false")]), plain);
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), Ok(Wanted::Nothing));
        assert_eq!(of(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(Wanted::Nothing));
    }

    #[test]
    fn what_is_said_of_traces_goes_before_what_is_said_of_all() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317");
        let roots = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/roots.pem");
        let files = TlsFiles { roots: Some("/roots.pem".to_owned()), own: None };
        assert_eq!(of(&[general, own, roots]), Ok(Wanted::Export { is_over_tls: true, files }));
    }

    #[test]
    fn what_there_is_not_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let wrong = of(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err();
        assert!(wrong.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL: http/protobuf: "), "{wrong}");
        let wrong = of(&[endpoint, ("OTEL_TRACES_EXPORTER", "zipkin")]).unwrap_err();
        assert!(wrong.starts_with("OTEL_TRACES_EXPORTER: zipkin: "), "{wrong}");
        let wrong = of(&[endpoint, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem")]).unwrap_err();
        assert!(wrong.ends_with("there is one without the other"), "{wrong}");
    }
}
