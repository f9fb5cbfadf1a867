//! Binary frames as one stream of bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Most bytes in one frame to the client.
const FRAME: usize = 32 << 10;
/// Frames without data (pings) handled in one go.
const EMPTY_FRAMES: usize = 32;

/// A WebSocket whose frames are just bytes.
pub(in crate::net) struct Frames<S> {
    socket: WebSocketStream<S>,
    /// What is left of the last frame.
    rest: Bytes,
    /// The closing frame is on its way.
    closed: bool,
}

impl<S> Frames<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, rest: Bytes::new(), closed: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for _ in 0..EMPTY_FRAMES {
            if !this.rest.is_empty() {
                let count = this.rest.len().min(into.remaining());
                into.put_slice(&this.rest.split_to(count));
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => this.rest = bytes,
                // The library answers pings and the closing frame.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    // [MQTT-6.0.0-1]
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is not binary")));
                }
                Some(Err(error)) => return Poll::Ready(Err(in_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Ready when the last frame is out: at most one waits in the library.
        ready!(Pin::new(&mut this.socket).poll_ready(context)).map_err(in_io)?;
        let mut rest = bytes;
        let count = rest.len().min(FRAME);
        let frame = Message::Binary(rest.copy_to_bytes(count));
        Pin::new(&mut this.socket).start_send(frame).map_err(in_io)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context).map_err(in_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            ready!(Pin::new(&mut this.socket).poll_close(context)).map_err(in_io)?;
            this.closed = true;
        }
        Pin::new(this.socket.get_mut()).poll_shutdown(context)
    }
}

fn in_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
