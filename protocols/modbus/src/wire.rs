//! A TCP stream that keeps count, shared between the Modbus client that owns the traffic and the link that watches it.
//!
//! tokio-modbus hides its transport. The link needs to know three things of it: how many bytes came in (more than
//! one answer means that requests and answers no longer match), whether the peer has closed, and, while nothing is
//! asked, whether anything arrives at all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the link sees of the stream.
#[derive(Debug)]
pub(crate) struct Tap {
    stream: TcpStream,
    received: AtomicUsize,
    ended: AtomicBool,
}

impl Tap {
    /// Bytes received since the last call.
    pub(crate) fn take_received(&self) -> usize {
        self.received.swap(0, Ordering::Relaxed)
    }

    /// Whether the peer has closed its side.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What lies in the receive buffer although nothing was asked: `Ok(true)` bytes, `Ok(false)` nothing.
    pub(crate) fn stray(&self) -> io::Result<bool> {
        match self.stream.try_read(&mut [0; 1]) {
            Ok(0) => {
                self.ended.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until something arrives unasked, or the peer closes. Cancel-safe.
    pub(crate) async fn disturbed(&self) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            if self.stray()? {
                return Ok(());
            }
        }
    }
}

/// What the Modbus client sees of the stream.
#[derive(Debug)]
pub(crate) struct Wire(Arc<Tap>);

impl Wire {
    /// Both ends of `stream`.
    pub(crate) fn new(stream: TcpStream) -> (Self, Arc<Tap>) {
        let tap = Arc::new(Tap { stream, received: AtomicUsize::new(0), ended: AtomicBool::new(false) });
        (Self(Arc::clone(&tap)), tap)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = &*self.0;
        loop {
            ready!(tap.stream.poll_read_ready(cx))?;
            match tap.stream.try_read_buf(buf) {
                Ok(0) => {
                    tap.ended.store(true, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Ok(read) => {
                    tap.received.fetch_add(read, Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&self.0.stream).shutdown(std::net::Shutdown::Write))
    }
}
