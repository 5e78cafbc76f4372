//! The connections of a port: not many, none that keeps its place without asking anything, and when there is no place left, the
//! source that has most gives one up.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Future as _, pending},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, Sleep, sleep},
};
use tracing::debug;

/// From the connection, or from the last bytes of an answer, to the next ones.
pub(super) const UNANSWERED_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that a client sends between two answers: what lies here until a handshake or a request is whole.
const UNANSWERED_BYTES: usize = 16 << 10;

/// Accepts within these limits.
pub(super) struct Connections {
    tcp: TcpListener,
    places: Arc<Semaphore>,
    /// The oldest first.
    open: Vec<Open>,
}

struct Open {
    source: IpAddr,
    /// The connection is closed when this is dropped.
    close: oneshot::Sender<Infallible>,
}

impl Connections {
    /// At most so many at the same time.
    pub(super) fn of(tcp: TcpListener, most: usize) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(most)), open: Vec::new() }
    }

    /// Whoever comes is taken before anybody is closed for it: sources that are silent together can shut nobody out.
    async fn place_for(&mut self, source: IpAddr) -> Option<(OwnedSemaphorePermit, oneshot::Receiver<Infallible>)> {
        self.open.retain(|one| !one.close.is_closed());
        let (close, closed) = oneshot::channel();
        self.open.push(Open { source, close });
        if self.places.available_permits() == 0
            && let Some(one) = one_to_close(&self.open)
        {
            self.open.remove(one);
        }
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some((place, closed))
    }
}

/// The oldest of the source that has most; where several have as many, of these.
fn one_to_close(open: &[Open]) -> Option<usize> {
    let mut counts = BTreeMap::<_, usize>::new();
    for one in open {
        *counts.entry(one.source).or_default() += 1;
    }
    let most = counts.values().max().copied();
    open.iter().position(|one| counts.get(&one.source).copied() == most)
}

/// Whoever has an address of version 6 has the 64 bits behind its network's besides.
fn source_of(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, address)) => {
                    let limit = Box::pin(sleep(UNANSWERED_LIMIT));
                    let Some((place, closed)) = self.place_for(source_of(address)).await else {
                        return pending().await;
                    };
                    return (Connection { stream, limit, unanswered: 0, closed, _place: place }, address);
                }
                Err(error) => {
                    // out of descriptors, most likely, which the signing API says: give connections time to close
                    debug!(event = "http_accept_failed", %error);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// One connection. Only an answer gives it more time, and lets it send more: who asks slowly, or much, is cut as well.
pub(super) struct Connection {
    stream: TcpStream,
    limit: Pin<Box<Sleep>>,
    /// Bytes since the last answer.
    unanswered: usize,
    closed: oneshot::Receiver<Infallible>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn or_out_of_time<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        // who was told once that it is closed must not ask again
        if !self.closed.is_terminated() && Pin::new(&mut self.closed).poll(cx).is_pending() {
            ready!(self.limit.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unanswered >= UNANSWERED_BYTES {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unanswered += buf.filled().len() - before;
        self.or_out_of_time(read, cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.limit.as_mut().reset(Instant::now() + UNANSWERED_LIMIT);
            self.unanswered = 0;
        }
        self.or_out_of_time(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpSocket,
        task::JoinHandle,
        time::timeout,
    };

    use super::*;
    use crate::{
        http::admin::{self, CONNECTIONS},
        runtime::seams::SystemClock,
        service::{metrics::Metrics, readiness::Readiness},
    };

    /// From an address of this machine that ends so.
    async fn connect(to: SocketAddr, from: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, from], 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn answer(mut stream: TcpStream) -> String {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn serve() -> (SocketAddr, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = (Arc::new(Metrics::new()), Arc::new(SystemClock) as _);
        (address, tokio::spawn(admin::serve(listener, shown, Readiness::default(), pending())))
    }

    #[tokio::test]
    async fn silent_and_half_asking_clients_are_cut_and_hold_nobody_up() {
        tokio::join!(many_of(1), many_of(8), many_of(CONNECTIONS * 2));
    }

    async fn many_of(sources: usize) {
        let (address, server) = serve().await;
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS * 2 {
            let mut stream = connect(address, 1 + u8::try_from(number % sources).unwrap()).await;
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost").await.unwrap();
            }
            idle.push(stream);
        }
        for from in [254, 1] {
            let answer = timeout(UNANSWERED_LIMIT / 2, answer(connect(address, from).await)).await;
            let answer = answer.expect("an answer before the silent ones are cut for their silence");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{sources} sources, from {from}: {answer}");
        }
        for stream in &mut idle {
            let ended = timeout(UNANSWERED_LIMIT * 4, stream.read_to_end(&mut Vec::new())).await;
            let _reset_or_closed = ended.expect("a connection that asks nothing is cut").is_ok();
        }
        server.abort();
    }

    #[tokio::test]
    async fn who_asks_more_than_is_kept_for_it_is_cut_at_once() {
        let (address, server) = serve().await;
        let mut stream = connect(address, 1).await;
        let _cut_meanwhile = stream.write_all(format!("GET /{}", "x".repeat(4 * UNANSWERED_BYTES)).as_bytes()).await;
        let ended = timeout(UNANSWERED_LIMIT / 2, stream.read_to_end(&mut Vec::new())).await;
        let _reset_or_closed = ended.expect("it is cut before its time is over").is_ok();
        server.abort();
    }

    #[test]
    fn the_oldest_is_closed_of_the_source_that_has_most() {
        let open = |source: &u8| Open { source: [10, 0, 0, *source].into(), close: oneshot::channel().0 };
        for (sources, closed) in
            [(&[1, 2, 2, 3][..], 1), (&[1, 2, 3], 0), (&[3, 1, 2, 1, 2], 1), (&[3, 1, 1, 2, 2, 2], 3)]
        {
            let open: Vec<_> = sources.iter().map(open).collect();
            assert_eq!(one_to_close(&open), Some(closed), "{sources:?}");
        }
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_version_6() {
        let source = |text: &str| source_of(format!("{text}:1").parse().unwrap()).to_string();
        assert_eq!(source("10.0.0.1"), "10.0.0.1");
        assert_eq!(source("[::ffff:10.0.0.1]"), "10.0.0.1");
        assert_eq!(source("[2001:db8:1:2:3:4:5:6]"), "2001:db8:1:2::");
    }
}
