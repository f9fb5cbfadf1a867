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

use crate::core::Core;
use crate::{Event, Identity, Refusal};

/// What a device talks through.
pub(crate) type Stream = TlsStream<TcpStream>;

/// A connection whose handshake is done.
pub(crate) struct Shaken {
    pub stream: Stream,
    pub peer: SocketAddr,
    /// A refusal is told after the CONNECT, where the client can see it.
    pub identity: Result<Arc<Identity>, Refusal>,
}

pub(super) async fn shake(
    core: &Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
    computing: PollSemaphore,
) -> Option<Shaken> {
    let accept = TlsAcceptor::from(tls).accept(stream);
    let paced = in_turn(accept, computing);
    match tokio::time::timeout(core.limits.client_hello_timeout, paced).await {
        Err(_) => {
            core.counters.handshake_timeouts.one();
            None
        }
        Ok(Err(error)) => {
            core.counters.handshake_failures.one();
            core.gate.event(Event::Refused { who: None, peer, code: None, words: format!("TLS: {error}") });
            None
        }
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let identity = core.gate.identify(chain, peer).map(Arc::new);
            Some(Shaken { stream, peer, identity })
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
