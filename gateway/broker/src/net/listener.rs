//! Accepting, always and at once: each socket gets a task of its own with deadlines, so that a silent or stuck one
//! is nobody else's problem. Sockets before their CONNECT are bounded; the oldest goes for the newest.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::{greet, handshake};
use crate::core::Core;

/// Sockets that may wait in the kernel between two accepts.
const BACKLOG: i32 = 1_024;
/// When accepting fails (out of file descriptors) there is nothing better to do than to try again a little later.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Binds an address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted gateway must not wait for the sockets of its predecessor to time out.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "[::]" next to "0.0.0.0" must not collide.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sockets before their CONNECT.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    state: Mutex<PendingState>,
}

#[derive(Debug, Default)]
struct PendingState {
    /// By age.
    evictions: BTreeMap<u64, CancellationToken>,
    last: u64,
}

/// Leaves the pending ones when dropped.
pub(crate) struct PendingGuard {
    pending: Arc<Pending>,
    number: u64,
    /// Cancelled when a newcomer needs the place, or the broker stops.
    pub evicted: CancellationToken,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.pending.lock().evictions.remove(&self.number);
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().evictions.len()
    }

    /// A newcomer. True when the oldest had to go for it.
    fn enter(self: &Arc<Self>, most: usize) -> (PendingGuard, bool) {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        let evicted = CancellationToken::new();
        state.evictions.insert(number, evicted.clone());
        let oldest = if state.evictions.len() > most { state.evictions.pop_first() } else { None };
        drop(state);
        let any = oldest.map(|(_, oldest)| oldest.cancel()).is_some();
        (PendingGuard { pending: Arc::clone(self), number, evicted }, any)
    }

    /// Closes all of them.
    pub(crate) fn close(&self) {
        let evictions = std::mem::take(&mut self.lock().evictions);
        for evicted in evictions.into_values() {
            evicted.cancel();
        }
    }
}

/// One listening address.
pub(crate) struct Listener {
    pub core: Arc<Core>,
    pub socket: TcpListener,
    pub tls: Arc<ServerConfig>,
    pub pending: Arc<Pending>,
    /// Bounds the handshakes that compute at a time; the rest queue in their order.
    pub computing: PollSemaphore,
}

impl Listener {
    /// Accepts until the broker stops.
    pub(crate) async fn run(self) {
        let stopping = self.core.stopping.clone();
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn welcome(&self, stream: TcpStream, peer: SocketAddr) {
        self.core.counters.accepted.one();
        if let Err(error) = tune(&stream) {
            // The socket is dead already, or soon found to be.
            tracing::debug!(%peer, %error, "can't set socket options");
        }
        let (guard, evicted) = self.pending.enter(self.core.limits.pending_sockets.max(1));
        if evicted {
            self.core.counters.pending_evicted.one();
        }
        let core = Arc::clone(&self.core);
        let (tls, computing) = (Arc::clone(&self.tls), self.computing.clone());
        self.core.tasks.spawn(async move {
            let shaking = handshake::shake(&core, stream, peer, tls, computing);
            let shaken = tokio::select! {
                () = guard.evicted.cancelled() => None,
                shaken = shaking => shaken,
            };
            if let Some(shaken) = shaken {
                greet::greet(core, shaken, guard).await;
            }
        });
    }
}

/// No delay: without it each TLS connect costs 31 to 42 ms (measured). Keep-alive and user time-out find peers
/// that vanished while MQTT has no keep-alive of its own.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(120)))?;
    Ok(())
}
