//! The socket's side of a connection: reading, writing, deadlines.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::{CHUNK_MAX, CHUNK_MIN, Connection};
use crate::DisconnectReason;

/// The gate is asked again so often about a certificate that has ended and was let on.
const ENDED_RECHECK: Duration = Duration::from_secs(3600);

impl Connection {
    pub(super) fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Result<bool, DisconnectReason> {
        let mut moved = false;
        while !self.output.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, &self.output) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.output.advance(count);
                    self.publisher.core.counters.bytes_out.add(u64::try_from(count).unwrap_or(0));
                    self.unflushed = true;
                    self.taken = Instant::now();
                    moved = true;
                }
                Poll::Ready(Ok(_) | Err(_)) => return Err(DisconnectReason::Network),
            }
        }
        if self.output.is_empty() {
            if self.output.capacity() > CHUNK_MAX {
                self.output = BytesMut::new();
            }
            if self.unflushed {
                match Pin::new(&mut *stream).poll_flush(context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => self.unflushed = false,
                    Poll::Ready(Err(_)) => return Err(DisconnectReason::Network),
                }
            }
            if !self.unflushed {
                self.taken = Instant::now();
            }
        }
        Ok(moved)
    }

    pub(super) fn read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Result<bool, DisconnectReason> {
        if self.paused() {
            return Ok(false);
        }
        self.input.reserve(self.chunk);
        let room = self.chunk;
        let mut target = (&mut self.input).limit(room);
        let read = pin!(stream.read_buf(&mut target)).poll(context);
        match read {
            Poll::Pending => {
                if self.input.is_empty() {
                    // An idle client keeps none: this costs a millionth of a second at the next packet.
                    self.input = BytesMut::new();
                }
                Ok(false)
            }
            Poll::Ready(Ok(0) | Err(_)) => Err(DisconnectReason::Network),
            Poll::Ready(Ok(count)) => {
                self.publisher.core.counters.bytes_in.add(u64::try_from(count).unwrap_or(0));
                self.wall = self.publisher.core.clock.now();
                if count == room {
                    self.chunk = (self.chunk * 4).min(CHUNK_MAX);
                } else if count < self.chunk / 8 {
                    self.chunk = (self.chunk / 2).max(CHUNK_MIN);
                }
                Ok(true)
            }
        }
    }

    /// Whether reading waits for something.
    pub(super) fn paused(&self) -> bool {
        self.pipeline.len() + self.answers.len() >= usize::from(self.limits.receive_maximum).max(1)
            || self.slowed_until.is_some()
            || self.output.len() >= self.limits.output_buffer
    }

    pub(super) fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<(), DisconnectReason> {
        loop {
            let now = Instant::now();
            if self.slowed_until.is_some_and(|until| until <= now) {
                self.slowed_until = None;
                // What was read before the pause is still to be handled: another turn.
                context.waker().wake_by_ref();
                return Ok(());
            }
            let next = self.check_deadlines(now)?;
            let Some(next) = next else { return Ok(()) };
            // An earlier alarm than needed is harmless, and moving it at each packet would cost more.
            if self.timer.deadline() > next || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Ok(());
            }
        }
    }

    fn check_deadlines(&mut self, now: Instant) -> Result<Option<Instant>, DisconnectReason> {
        let mut next: Option<Instant> = self.slowed_until;
        let mut at = |deadline: Instant| next = Some(next.map_or(deadline, |next| next.min(deadline)));
        if !self.output.is_empty() || self.unflushed {
            let deadline = self.taken + self.limits.receiver_stall;
            if deadline <= now {
                self.publisher.core.counters.slow_receivers.one();
                return Err(DisconnectReason::SlowReceiver);
            }
            at(deadline);
        }
        if let Some(keep_alive) = self.keep_alive {
            // Silence that we made ourselves, by not reading, is no silence.
            if self.paused() {
                self.heard = now;
            }
            // One and a half times the keep-alive [MQTT-3.1.2-22].
            let deadline = self.heard + keep_alive + keep_alive / 2;
            if deadline <= now {
                return Err(DisconnectReason::KeepAlive);
            }
            at(deadline);
        }
        if let Some(recheck_at) = self.recheck_at {
            if recheck_at <= now {
                if self.publisher.core.gate.still_valid(&self.publisher.who).is_err() {
                    return Err(DisconnectReason::CertificateEnded);
                }
                self.recheck_at = Some(now + ENDED_RECHECK);
                at(now + ENDED_RECHECK);
            } else {
                at(recheck_at);
            }
        }
        Ok(next)
    }

    /// What is still to be written, DISCONNECT included.
    pub(crate) fn take_output(&mut self) -> BytesMut {
        std::mem::take(&mut self.output)
    }
}
