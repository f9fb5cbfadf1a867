//! The TLS handshake, with a deadline from the accept and a turn to compute.
//!
//! A handshake costs about a millisecond of computing. The permit is held for one poll only, never while a peer is
//! waited for: a stuck handshake holds nothing. With at most that many handshakes runnable at a time, the tasks of
//! connected clients get between them even while a thousand devices come back at once; better still on threads of
//! their own, with a lower priority ([`crate::Config::handshakes_on`]).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;

use super::hello;
use crate::core::Core;
use crate::{Event, Identity, Refusal};

/// A newcomer that can be asked for its CONNECT.
pub(super) struct Arrived<S> {
    pub stream: S,
    pub peer: SocketAddr,
    pub credentials: Credentials,
}

/// What says who a newcomer is.
pub(super) enum Credentials {
    /// Its certificate. A refusal is told after the CONNECT, where the client can see it.
    Certificate(Result<Arc<Identity>, Refusal>),
    /// The user name and password of its CONNECT.
    Password,
}

/// Why a newcomer didn't get as far as that.
pub(super) struct Lost {
    words: String,
    /// What TLS says, which the gate may know better words for.
    error: Option<io::Error>,
}

impl Lost {
    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self { words: words.into(), error: None }
    }
}

/// Where handshakes compute.
#[derive(Debug, Clone)]
pub(super) struct Workshop {
    /// Bounds how many compute at a time; the rest queue in their order.
    pub turns: PollSemaphore,
    /// Threads of their own, where there are some.
    pub threads: Option<Handle>,
}

/// The handshake, within the deadline of [`in_time`]. In a task of its own: only those with a ClientHello pay for its
/// size. It ends when nobody waits for it any more.
pub(super) async fn shake(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    workshop: Workshop,
) -> Result<Box<TlsStream<TcpStream>>, Lost> {
    hello::complete(&stream).await?;
    let Workshop { turns, threads } = workshop;
    let shaking = in_turn(TlsAcceptor::from(tls).accept(stream), turns);
    let task = threads.unwrap_or_else(Handle::current).spawn(shaking);
    match AbortOnDropHandle::new(task).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(Lost { words: format!("TLS: {error}"), error: Some(error) }),
        Err(error) => Err(Lost::failed(format!("the handshake did not end: {error}"))),
    }
}

/// Who the certificate says that this is.
pub(super) fn identify(core: &Core, stream: &TlsStream<TcpStream>, peer: SocketAddr) -> Credentials {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Credentials::Certificate(core.gate.identify(chain, peer).map(Arc::new))
}

/// Gives `work` until the deadline for handshakes; counts and reports what doesn't end well.
pub(super) async fn in_time<T>(
    core: &Core,
    peer: SocketAddr,
    work: impl Future<Output = Result<T, Lost>>,
) -> Option<T> {
    match tokio::time::timeout(core.limits.get().client_hello_timeout, work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(Lost { words, error })) => {
            core.counters.handshake_failures.one();
            let words = error.and_then(|error| core.gate.explain_handshake(&error)).unwrap_or(words);
            core.gate.event(Event::Refused { who: None, peer, code: None, words });
            None
        }
        Err(_) => {
            core.counters.handshake_timeouts.one();
            None
        }
    }
}

/// Polls `work` with a permit of `turns` in hand, given back after each poll.
async fn in_turn<F: Future>(work: F, mut turns: PollSemaphore) -> F::Output {
    let mut work = pin!(work);
    poll_fn(move |context| match turns.poll_acquire(context) {
        Poll::Pending => Poll::Pending,
        // The semaphore is never closed; without a permit it would just be polled.
        Poll::Ready(_permit) => work.as_mut().poll(context),
    })
    .await
}
