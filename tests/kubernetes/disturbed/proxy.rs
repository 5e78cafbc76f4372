//! What stands between a replica and the API server, and disturbs every request, or some kinds of them, for a while.

use std::{
    fs, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    serve::Listener,
};
use futures_util::StreamExt as _;
use kube::Client;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};

use crate::{cluster::Cluster, support::http::loopback};

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    None,
    /// Done, and the answer comes so much later.
    Late(Duration),
    /// Not done, but answered with this code; a conflict only where it can be one, of writes.
    Answered(u16),
    /// Taken, and neither done nor answered until it ends. Watches say nothing more.
    Hanging,
    /// Every connection is closed, and so is each new one.
    Closing,
    /// Writes of Secrets are done so much later, also when nobody waits for the answer any more. All else goes on.
    SecretsLate(Duration),
    /// Writes of objects with this in their path are not done, but answered with this code. All else goes on.
    WritesAnswered(&'static str, u16),
    /// The same writes are neither done nor answered until it ends.
    WritesHang(&'static str),
}

const MOST: usize = 4 << 20;
const SECRETS: &str = "/secrets";

/// Speaks HTTP without TLS to one replica, and forwards what it says.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: Client,
    now: watch::Sender<Disturbance>,
    /// Each request, and each connection that was not taken.
    asked: Mutex<Vec<Asked>>,
}

struct Asked {
    at: Instant,
    /// Where something was to be written.
    write: Option<Box<str>>,
}

impl Proxy {
    /// One on `runtime`, for as long as that runs.
    pub(crate) fn start(cluster: &Cluster, runtime: &Runtime) -> Self {
        Self::start_at(loopback(0), cluster, runtime)
    }

    /// The same elsewhere than on loopback.
    pub(crate) fn start_at(place: SocketAddr, cluster: &Cluster, runtime: &Runtime) -> Self {
        runtime.block_on(async {
            let kubeconfig = cluster.folder().join(cluster.unique("no-one"));
            cluster.write_kubeconfig(&kubeconfig, &json!({}), &cluster.url());
            let server = countersign::k8s::client::client(Some(&kubeconfig)).await.unwrap();
            fs::remove_file(&kubeconfig).unwrap();
            let now = watch::Sender::new(Disturbance::None);
            let shared = Arc::new(Shared { server, now, asked: Mutex::default() });
            let tcp = TcpListener::bind(place).await.unwrap();
            let address = tcp.local_addr().unwrap();
            let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
            let listener = Connections { tcp, shared: Arc::clone(&shared) };
            tokio::spawn(async move { axum::serve(listener, router).await });
            Self { address, shared }
        })
    }

    /// From now on this becomes of requests.
    pub(crate) fn disturb(&self, disturbance: Disturbance) {
        self.shared.now.send_replace(disturbance);
    }

    /// How many requests came since `from` that would write a Secret.
    pub(crate) fn writes_of_secrets_since(&self, from: Instant) -> usize {
        self.writes_since(from, SECRETS)
    }

    /// How many came since `from` that would write an object with this in its path.
    pub(crate) fn writes_since(&self, from: Instant, part: &str) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        let is_such = |asked: &&Asked| asked.at >= from && asked.write.as_ref().is_some_and(|path| path.contains(part));
        asked.iter().filter(is_such).count()
    }

    /// The most that came in one second between these instants.
    pub(crate) fn busiest_second(&self, from: Instant, to: Instant) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        let times: Vec<Instant> = asked.iter().map(|asked| asked.at).filter(|at| (from..to).contains(at)).collect();
        let second = Duration::from_secs(1);
        let in_one =
            |(index, from): (usize, &Instant)| times[index..].iter().take_while(|at| **at < *from + second).count();
        times.iter().enumerate().map(in_one).max().unwrap_or_default()
    }
}

impl Shared {
    fn is(&self, disturbance: Disturbance) -> bool {
        *self.now.borrow() == disturbance
    }

    fn note(&self, write: Option<Box<str>>) {
        self.asked.lock().unwrap().push(Asked { at: Instant::now(), write });
    }

    async fn end_of(&self, disturbance: Disturbance) {
        self.now.subscribe().wait_for(|now| *now != disturbance).await.unwrap();
    }

    async fn forward(self: Arc<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MOST).await.unwrap_or_default();
        let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body));
        match self.server.send(request).await {
            Ok(answer) => {
                let (mut parts, body) = answer.into_parts();
                without_hops(&mut parts.headers);
                let pieces = Body::new(body).into_data_stream().then(move |piece| {
                    let shared = Arc::clone(&self);
                    async move {
                        shared.end_of(Disturbance::Hanging).await;
                        piece
                    }
                });
                Response::from_parts(parts, Body::from_stream(pieces))
            }
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}

async fn pass(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    without_hops(request.headers_mut());
    let is_write = !matches!(*request.method(), Method::GET);
    let path: Box<str> = request.uri().path().into();
    let writes = |part: &str| is_write && path.contains(part);
    let is_write_of_secret = writes(SECRETS);
    shared.note(is_write.then(|| path.clone()));
    let now = *shared.now.borrow();
    match now {
        Disturbance::WritesAnswered(part, code) if writes(part) => refusal(code),
        Disturbance::WritesHang(part) if writes(part) => {
            shared.end_of(now).await;
            shared.forward(request).await
        }
        Disturbance::Answered(code) if code != 409 || is_write => refusal(code),
        Disturbance::None | Disturbance::Closing | Disturbance::Answered(_) => shared.forward(request).await,
        Disturbance::Late(time) => {
            let answer = shared.forward(request).await;
            tokio::time::sleep(time).await;
            answer
        }
        Disturbance::Hanging => {
            shared.end_of(now).await;
            shared.forward(request).await
        }
        Disturbance::SecretsLate(time) if is_write_of_secret => {
            // apart, since the end of this connection would end what runs here
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                shared.forward(request).await
            });
            late.await.unwrap()
        }
        Disturbance::SecretsLate(_) | Disturbance::WritesAnswered(..) | Disturbance::WritesHang(_) => {
            shared.forward(request).await
        }
    }
}

/// As the API server words it.
fn refusal(code: u16) -> Response {
    let status = StatusCode::from_u16(code).unwrap();
    let reason = status.canonical_reason().unwrap().replace(' ', "");
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("disturbed: {code}"), "reason": reason, "code": code,
    });
    let retry = (status == StatusCode::TOO_MANY_REQUESTS).then_some([(header::RETRY_AFTER, "1")]);
    (
        status,
        retry.map(IntoResponse::into_response).map(|it| it.headers().clone()).unwrap_or_default(),
        body.to_string(),
    )
        .into_response()
}

/// What is said of a connection is not for the next one.
fn without_hops(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::HOST] {
        headers.remove(name);
    }
}

/// Takes connections while none is to be closed.
struct Connections {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (stream, from) = self.tcp.accept().await.unwrap();
            if self.shared.is(Disturbance::Closing) {
                self.shared.note(None);
                continue;
            }
            let mut now = self.shared.now.subscribe();
            let cut = Box::pin(async move { drop(now.wait_for(|now| *now == Disturbance::Closing).await) });
            return (Connection { stream, cut }, from);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A connection that ends when all are to be closed.
struct Connection {
    stream: TcpStream,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.cut = Box::pin(async {});
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
