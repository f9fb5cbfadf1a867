//! The stream of a link, shared between the Modbus client that owns the traffic and the link that watches it.
//!
//! tokio-modbus hides its transport. The link needs to know three things of it: how many bytes came in (more than
//! one answer means that requests and answers no longer match), whether the peer has closed, and, while nothing is
//! asked, whether anything arrives at all.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::serial::{self, SerialPort};

/// What carries the bytes: a TCP connection, TLS within one, a serial port.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static {
    /// The serial port that it is.
    fn port(&self) -> Option<Arc<OwnedFd>> {
        None
    }
}

impl Duplex for TcpStream {}

impl Duplex for TlsStream<TcpStream> {}

impl Duplex for SerialPort {
    fn port(&self) -> Option<Arc<OwnedFd>> {
        Some(SerialPort::port(self))
    }
}

/// What the link sees of the stream.
#[derive(Debug)]
pub(crate) struct Tap {
    /// Never contended: the client runs while the link waits for it. Held for one call that doesn't block.
    stream: Mutex<Box<dyn Duplex>>,
    port: Option<Arc<OwnedFd>>,
    received: AtomicUsize,
    ended: AtomicBool,
    /// When bytes were last handed over to be sent.
    sent: Mutex<Option<Instant>>,
}

impl Tap {
    /// Of an open stream.
    pub(crate) fn new(stream: impl Duplex) -> Arc<Self> {
        Arc::new(Self {
            port: stream.port(),
            stream: Mutex::new(Box::new(stream)),
            received: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            sent: Mutex::new(None),
        })
    }

    /// Bytes received since the last call.
    pub(crate) fn take_received(&self) -> usize {
        self.received.swap(0, Ordering::Relaxed)
    }

    /// When the last bytes were sent: on a busy machine this may be long after it was decided to send them.
    pub(crate) fn sent(&self) -> Option<Instant> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer has closed its side.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What lies in the receive buffer although nothing was asked: `Ok(true)` bytes, `Ok(false)` nothing.
    pub(crate) fn stray(&self) -> io::Result<bool> {
        match self.poll_disturbed(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(arrived) => arrived.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Waits until something arrives unasked, or the peer closes. What arrives is thrown away. Cancel-safe.
    pub(crate) async fn disturbed(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_disturbed(cx)).await
    }

    /// What came up to now and was not read is gone, where this machine may still hold it: on a serial port.
    pub(crate) async fn forget(&self) -> io::Result<()> {
        let Some(port) = self.port.clone() else { return Ok(()) };
        // It waits for the kernel's thread that hands over what was received.
        spawn_blocking(move || serial::discard(&port)).await.map_err(io::Error::other)?
    }

    fn poll_disturbed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 64];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(self.poll_read(cx, &mut buf))?;
        Poll::Ready(if buf.filled().is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        ready!(Pin::new(&mut **self.lock()).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.received.fetch_add(read, Ordering::Relaxed);
        if read == 0 && room {
            self.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Duplex>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the Modbus client sees of the stream.
#[derive(Debug)]
pub(crate) struct Wire(pub(crate) Arc<Tap>);

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut **self.0.lock()).poll_write(cx, bytes));
        *self.0.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.lock()).poll_shutdown(cx)
    }
}
