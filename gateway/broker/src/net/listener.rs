//! Accepting, always and at once: each socket gets a task of its own with deadlines, so that a silent or stuck one
//! is nobody else's problem. Sockets before their CONNECT are bounded; the oldest goes for the newest.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fieldgate_types::{Current, Pulse};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::doors::Door;
use super::greet::greet;
use super::handshake::{Arrived, Credentials, Lost, Workshop, identify, in_time, shake};
use super::pace::Pace;
use super::websocket;
use crate::core::Core;

/// Sockets that may wait in the kernel between two accepts.
const BACKLOG: i32 = 1_024;
/// When accepting fails (out of file descriptors) there is nothing better to do than to try again a little later.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// A turn at least this often, so that it can be seen that the loop turns.
const TURN: Duration = Duration::from_secs(5);

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

impl PendingGuard {
    /// What `work` gives; `None` too when a newcomer needs the place before it is done.
    pub(super) async fn unless_evicted<T>(&self, work: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            () = self.evicted.cancelled() => None,
            done = work => done,
        }
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

/// What a newcomer at a listening address meets.
#[derive(Clone)]
pub(super) struct Entrance {
    pub core: Arc<Core>,
    pub door: Door,
    pub workshop: Workshop,
    pub pace: Arc<Pace>,
}

/// Accepts at an address.
pub(super) struct Listener {
    pub entrance: Arc<Current<Entrance>>,
    pub socket: TcpListener,
    pub pending: Arc<Pending>,
    pub pulse: Pulse,
    /// Ends it; those that came in stay.
    pub stop: CancellationToken,
    /// Cancelled once the address is free again.
    pub closed: DropGuard,
}

impl Listener {
    /// Accepts until it is stopped.
    pub(super) async fn run(self) {
        loop {
            self.pulse.rest(TURN);
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
                () = tokio::time::sleep(TURN) => continue,
            };
            match accepted {
                Ok((stream, peer)) => self.welcome(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        self.pulse.end();
        // Before anybody hears of it.
        drop(self.socket);
        drop(self.closed);
    }

    fn welcome(&self, stream: TcpStream, peer: SocketAddr) {
        let entrance = Entrance::clone(&self.entrance.get());
        let core = Arc::clone(&entrance.core);
        core.counters.accepted.one();
        if let Err(error) = tune(&stream) {
            // The socket is dead already, or soon found to be.
            tracing::debug!(%peer, %error, "can't set socket options");
        }
        let (guard, evicted) = self.pending.enter(core.limits.get().pending_sockets.max(1));
        if evicted {
            core.counters.pending_evicted.one();
        }
        core.tasks.spawn(entrance.receive(stream, peer, guard));
    }
}

impl Entrance {
    /// From the accept to the end of the connection. What only a few get to is boxed: a pending socket is this
    /// future's size.
    async fn receive(self, stream: TcpStream, peer: SocketAddr, guard: PendingGuard) {
        let core = Arc::clone(&self.core);
        match self.door.clone() {
            Door::Plain => self.go_on(Arrived { stream, peer, credentials: Credentials::Password }, guard).await,
            Door::Users(tls) => {
                let shaking = in_time(&core, peer, shake(stream, tls, self.workshop.clone()));
                if let Some(stream) = guard.unless_evicted(shaking).await {
                    self.go_on(Arrived { stream, peer, credentials: Credentials::Password }, guard).await;
                }
            }
            Door::Certificate(tls) => {
                let shaking = in_time(&core, peer, shake(stream, tls, self.workshop.clone()));
                if let Some(stream) = guard.unless_evicted(shaking).await {
                    let credentials = identify(&core, &stream, peer);
                    self.go_on(Arrived { stream, peer, credentials }, guard).await;
                }
            }
            Door::Websocket(tls, origins) => {
                let opening = async {
                    let stream = shake(stream, tls, self.workshop.clone()).await?;
                    let credentials = identify(&core, &stream, peer);
                    let stream = Box::new(Box::pin(websocket::open(stream, &origins, &core.limits.get())).await?);
                    Ok::<_, Lost>(Arrived { stream, peer, credentials })
                };
                if let Some(arrived) = guard.unless_evicted(in_time(&core, peer, opening)).await {
                    self.go_on(arrived, guard).await;
                }
            }
        }
    }

    /// Behind the handshake.
    async fn go_on<S>(self, arrived: Arrived<S>, guard: PendingGuard)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let turn = async { Some(self.pace.turn().await) };
        let Some(waited) = guard.unless_evicted(turn).await else { return };
        if waited {
            self.core.counters.handshakes_paced.one();
        }
        Box::pin(greet(self.core, arrived, guard)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tcp_finds_peers_that_vanished_where_mqtt_has_no_keep_alive() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }
}
