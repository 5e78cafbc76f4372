//! The connections of a port: not many, of no source more than a part of these, and none that keeps its place without asking anything.

use std::{
    collections::{BTreeMap, VecDeque},
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

/// Open at the same time; others wait in the kernel's queue until one of these ends.
const CONNECTIONS: usize = 64;
/// Of one source: beyond these its oldest is closed, so that it takes no place from others, and its next one may ask.
const OF_ONE_SOURCE: usize = CONNECTIONS / 4;
/// From the connection, or from the last bytes of an answer, to the next ones.
pub(super) const UNANSWERED_LIMIT: Duration = Duration::from_secs(5);

/// Accepts within these limits.
pub(super) struct Connections {
    tcp: TcpListener,
    places: Arc<Semaphore>,
    /// Those of each source that are open, the oldest first: each is closed when its sender is dropped.
    sources: BTreeMap<IpAddr, VecDeque<oneshot::Sender<Infallible>>>,
}

impl Connections {
    pub(super) fn of(tcp: TcpListener) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(CONNECTIONS)), sources: BTreeMap::new() }
    }

    fn room_for(&mut self, source: IpAddr) -> oneshot::Receiver<Infallible> {
        self.sources.retain(|_, open| {
            open.retain(|one| !one.is_closed());
            !open.is_empty()
        });
        let (close, closed) = oneshot::channel();
        let open = self.sources.entry(source).or_default();
        if open.len() >= OF_ONE_SOURCE {
            open.pop_front();
        }
        open.push_back(close);
        closed
    }
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
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return pending().await };
            match self.tcp.accept().await {
                Ok((stream, address)) => {
                    let limit = Box::pin(sleep(UNANSWERED_LIMIT));
                    let closed = self.room_for(source_of(address));
                    return (Connection { stream, limit, closed, _place: place }, address);
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

/// One connection. Only an answer gives it more time: who asks slowly is cut as well.
pub(super) struct Connection {
    stream: TcpStream,
    limit: Pin<Box<Sleep>>,
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
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.or_out_of_time(read, cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.limit.as_mut().reset(Instant::now() + UNANSWERED_LIMIT);
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
        time::timeout,
    };

    use super::*;
    use crate::{
        http::admin,
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

    #[tokio::test]
    async fn silent_and_half_asking_clients_are_cut_and_hold_nobody_up_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = (Arc::new(Metrics::new()), Arc::new(SystemClock) as _);
        let served = admin::serve(listener, shown, Readiness::default(), pending());
        let server = tokio::spawn(served);
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS * 2 {
            let mut stream = connect(address, 1 + u8::try_from(number % 8).unwrap()).await;
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost").await.unwrap();
            }
            idle.push(stream);
        }
        let answer = timeout(UNANSWERED_LIMIT * 4, answer(connect(address, 9).await))
            .await
            .expect("an answer after the silent ones are cut");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for stream in &mut idle {
            let ended = timeout(UNANSWERED_LIMIT * 4, stream.read_to_end(&mut Vec::new())).await;
            let _reset_or_closed = ended.expect("a connection that asks nothing is cut").is_ok();
        }
        server.abort();
    }

    #[tokio::test]
    async fn one_source_that_says_nothing_takes_no_place_from_others_nor_from_its_own_later_ones() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = (Arc::new(Metrics::new()), Arc::new(SystemClock) as _);
        let server = tokio::spawn(admin::serve(listener, shown, Readiness::default(), pending()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            silent.push(connect(address, 1).await);
        }
        for from in [2, 1] {
            let answer = timeout(UNANSWERED_LIMIT / 2, answer(connect(address, from).await)).await;
            let answer = answer.expect("an answer before the silent ones are cut for their silence");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        server.abort();
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_version_6() {
        let source = |text: &str| source_of(format!("{text}:1").parse().unwrap()).to_string();
        assert_eq!(source("10.0.0.1"), "10.0.0.1");
        assert_eq!(source("[::ffff:10.0.0.1]"), "10.0.0.1");
        assert_eq!(source("[2001:db8:1:2:3:4:5:6]"), "2001:db8:1:2::");
    }
}
