//! The TLS handshake, with a deadline from the accept and a turn to compute.
//!
//! A handshake costs about a millisecond of computing. The permit is held for one poll only, never while a peer is
//! waited for: a stuck handshake holds nothing. With at most that many handshakes runnable at a time, the tasks of
//! connected clients get between them even while a thousand devices come back at once.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::PollSemaphore;

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
}

impl Lost {
    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self { words: words.into() }
    }
}

/// The handshake, within the deadline of [`in_time`]. Boxed: only those with a ClientHello pay for its size.
pub(super) async fn shake(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    computing: PollSemaphore,
) -> Result<Box<TlsStream<TcpStream>>, Lost> {
    hello::complete(&stream).await?;
    let shaking = Box::pin(async move {
        let shaken = in_turn(TlsAcceptor::from(tls).accept(stream), computing).await;
        shaken.map(Box::new).map_err(|error| Lost::failed(format!("TLS: {error}")))
    });
    shaking.await
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
    match tokio::time::timeout(core.limits.client_hello_timeout, work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(Lost { words })) => {
            core.counters.handshake_failures.one();
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
