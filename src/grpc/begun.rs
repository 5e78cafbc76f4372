//! Connections that have begun HTTP/2. A client that has nothing to say gets no place.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

/// Each HTTP/2 connection begins with it (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A peer that says nothing gives its place up soon: this covers the preface, and a TLS handshake before it.
pub(super) const BEGIN_LIMIT: Duration = Duration::from_secs(3);

/// A connection whose peer has begun to speak.
#[derive(Debug)]
pub(super) struct Begun<S, I> {
    stream: S,
    /// What services are told of the connection.
    info: I,
    /// What was read already, and is to be read again.
    early: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin, I> Begun<S, I> {
    /// Waits for the preface, or the beginning of something else, which the server refuses by itself. `place` is kept as long as
    /// the connection.
    pub(super) async fn by(mut stream: S, info: I, place: OwnedSemaphorePermit) -> io::Result<Self> {
        let mut early = Vec::with_capacity(PREFACE.len());
        while early.len() < PREFACE.len() && PREFACE.starts_with(&early) {
            let mut some = vec![0; PREFACE.len() - early.len()];
            let count = stream.read(&mut some).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            early.extend(some.iter().take(count));
        }
        Ok(Self { stream, info, early, _place: place })
    }
}

impl<S, I: Clone + Send + Sync + 'static> Connected for Begun<S, I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin, I: Unpin> AsyncRead for Begun<S, I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            self.early.drain(..count).for_each(|byte| buf.put_slice(&[byte]));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Begun<S, I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
