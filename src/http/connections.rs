//! The connections of a port: not many, and none that keeps its place without asking anything.

use std::{
    future::{Future as _, pending},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tracing::debug;

/// Open at the same time; others wait in the kernel's queue until one of these ends.
const CONNECTIONS: usize = 64;
/// From the connection, or from the last bytes of an answer, to the next ones.
pub(super) const UNANSWERED_LIMIT: Duration = Duration::from_secs(5);

/// Accepts within these limits.
pub(super) struct Connections {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

impl Connections {
    pub(super) fn of(tcp: TcpListener) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(CONNECTIONS)) }
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
                    return (Connection { stream, limit, _place: place }, address);
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
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn or_out_of_time<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        ready!(self.limit.as_mut().poll(cx));
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
        time::timeout,
    };

    use super::*;
    use crate::{
        http::admin,
        runtime::seams::SystemClock,
        service::{metrics::Metrics, readiness::Readiness},
    };

    #[tokio::test]
    async fn silent_and_half_asking_clients_are_cut_and_hold_nobody_up_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown = (Arc::new(Metrics::new()), Arc::new(SystemClock) as _);
        let served = admin::serve(listener, shown, Readiness::default(), pending());
        let server = tokio::spawn(served);
        let mut idle = Vec::new();
        for number in 0..CONNECTIONS * 2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost").await.unwrap();
            }
            idle.push(stream);
        }
        let answered = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(UNANSWERED_LIMIT * 4, answered).await.expect("an answer after the silent ones are cut");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for stream in &mut idle {
            let ended = timeout(UNANSWERED_LIMIT * 4, stream.read_to_end(&mut Vec::new())).await;
            let _reset_or_closed = ended.expect("a connection that asks nothing is cut").is_ok();
        }
        server.abort();
    }
}
