//! The admin port: `/livez`, `/readyz` and `/metrics`. It only shows; nothing can be changed here.

use std::{io, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use super::connections::Connections;
use crate::{
    domain::clock::Clock,
    service::{metrics::Metrics, readiness::Readiness},
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Open at the same time.
pub(super) const CONNECTIONS: usize = 64;

/// Answers on `listener` until `shutdown` ends, then finishes what it has begun.
///
/// # Errors
///
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    (metrics, clock): (Arc<Metrics>, Arc<dyn Clock>),
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics_page).with_state((metrics, clock)));
    axum::serve(Connections::of(listener, CONNECTIONS), routes).with_graceful_shutdown(shutdown).await
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report();
    let status = if report.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report.to_string()).into_response()
}

async fn metrics_page(State((metrics, clock)): State<(Arc<Metrics>, Arc<dyn Clock>)>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.page(clock.now())).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;
    use crate::runtime::seams::SystemClock;

    async fn ask(address: SocketAddr, request_line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_what_it_has_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let latch = readiness.latch("ca", "no term yet");
        let (stop, stopped) = oneshot::channel::<()>();
        let shown = (Arc::new(Metrics::new()), Arc::new(SystemClock) as _);
        let server = tokio::spawn(serve(listener, shown, readiness, async {
            let _sender_gone = stopped.await;
        }));

        assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200 "));
        let answer = ask(address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("ca: not ready (no term yet)\n"), "{answer}");
        latch.ready("term 1");
        let answer = ask(address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ca: ready (term 1)\n"), "{answer}");
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.contains(OPEN_METRICS) && answer.ends_with("# EOF\n"), "{answer}");
        for (request_line, status) in [
            ("GET /", "404"),
            ("GET /livez/", "404"),
            ("GET /debug/pprof", "404"),
            ("POST /livez", "405"),
            ("PUT /readyz", "405"),
            ("DELETE /metrics", "405"),
        ] {
            assert!(ask(address, request_line).await.starts_with(&format!("HTTP/1.1 {status} ")), "{request_line}");
        }

        drop(stop);
        server.await.unwrap().unwrap();
    }
}
