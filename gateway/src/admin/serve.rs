//! The two doors: the admin address and admin.sock, and the bounds of both: so many connections at a time, deadlines for
//! the handshake, for headers, for a body and for taking an answer. A connection that was slow is closed; the next
//! gets its place.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::access::{Bounds, Door};
use super::overview::Overview;
use super::patience::Patience;
use super::routes;
use crate::config::AdminConfig;

/// Name of the socket in the data directory.
pub const SOCKET: &str = "admin.sock";
/// Connections at a time, at each door. Full: newcomers wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Bytes of headers, and their number.
const HEADER_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// For a TLS handshake; from then or from the last answer on to the end of the next headers; for a body; for taking a
/// part of an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// After an accept that failed, for lack of files most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Bound, not yet served.
pub struct Doors {
    tcp: TcpListener,
    tls: bool,
    unix: UnixListener,
    path: PathBuf,
}

impl Doors {
    /// Binds both. A socket file that a crash left behind is replaced: the directory lock is ours.
    pub async fn bind(admin: &AdminConfig, data_dir: &Path) -> io::Result<Self> {
        let AdminConfig { listen, tls } = *admin;
        let say = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let tcp = TcpListener::bind(listen).await.map_err(say(format!("can't listen on {listen} ([admin] listen)")))?;
        let path = data_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(say(path.display().to_string())(error));
            }
            _ => {}
        }
        // Linux allows 107 bytes for the path of a socket.
        let unix = UnixListener::bind(&path)
            .map_err(say(format!("can't listen on `{}` (at most 107 bytes long)", path.display())))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { tcp, tls, unix, path })
    }

    /// Where the admin address is, with its port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop` is cancelled; handshakes compute on `threads`.
    pub fn serve(
        self,
        overview: &Arc<Overview>,
        threads: Option<Handle>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Self { tcp, tls, unix, path } = self;
        let acceptor = if tls {
            let certificate = Arc::clone(&overview.server_certificate);
            let config = overview.authority.ca.web_config(certificate)?;
            Some((TlsAcceptor::from(Arc::new(config)), threads.unwrap_or_else(Handle::current)))
        } else {
            None
        };
        let refused = Arc::clone(&overview.refused_requests);
        let bounds = Bounds { names: Arc::clone(&overview.names), body_within: DEADLINE, refused };
        let router = routes::router(overview, bounds);
        let hall = || Hall::new(router.clone(), DEADLINE, tasks.clone(), stop.clone());
        tasks.spawn(hall().serve_tcp(tcp, acceptor));
        let hall = hall();
        tasks.spawn(async move {
            hall.serve_unix(unix).await;
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "the socket can't be removed");
            }
        });
        Ok(())
    }
}

/// Behind one door.
#[derive(Clone)]
struct Hall {
    router: Router,
    deadline: Duration,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Hall {
    fn new(router: Router, deadline: Duration, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { router, deadline, places: Arc::new(Semaphore::new(CONNECTIONS)), tasks, stop }
    }

    /// The next connection, and its place; `None` at the stop.
    async fn next<T>(
        &self,
        accept: impl Fn(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Option<(T, OwnedSemaphorePermit)> {
        loop {
            let next = async {
                let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((poll_fn(&accept).await?, place))
            };
            match self.stop.run_until_cancelled(next).await? {
                Ok(accepted) => return Some(accepted),
                Err(error) => {
                    tracing::warn!(%error, "the admin API can't accept");
                    self.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await?;
                }
            }
        }
    }

    async fn serve_unix(self, listener: UnixListener) {
        while let Some(((socket, _), place)) = self.next(|cx| listener.poll_accept(cx)).await {
            let hall = self.clone();
            self.tasks.spawn(async move {
                hall.converse(socket, Door::Socket).await;
                drop(place);
            });
        }
    }

    async fn serve_tcp(self, listener: TcpListener, acceptor: Option<(TlsAcceptor, Handle)>) {
        while let Some(((socket, peer), place)) = self.next(|cx| listener.poll_accept(cx)).await {
            let (hall, acceptor) = (self.clone(), acceptor.clone());
            self.tasks.spawn(async move {
                let door = Door::Tcp { peer, tls: acceptor.is_some() };
                match acceptor {
                    None => hall.converse(socket, door).await,
                    Some((acceptor, threads)) => {
                        let handshake = AbortOnDropHandle::new(threads.spawn(acceptor.accept(socket)));
                        match hall.stop.run_until_cancelled(timeout(hall.deadline, handshake)).await {
                            Some(Ok(Ok(Ok(stream)))) => hall.converse(stream, door).await,
                            Some(Ok(Ok(Err(error)))) => tracing::debug!(%error, %peer, "no TLS at the admin address"),
                            // Too slow, or the gateway is stopping.
                            Some(Err(_) | Ok(Err(_))) | None => {}
                        }
                    }
                }
                drop(place);
            });
        }
    }

    /// One connection, to its end; at the stop, to the end of the request that is being answered.
    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, door: Door) {
        let routes = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(door);
            routes.call(request)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.deadline)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(Patience::new(stream, self.deadline)), service);
        let mut connection = pin!(connection);
        let ended = if let Some(ended) = self.stop.run_until_cancelled(connection.as_mut()).await {
            ended
        } else {
            connection.as_mut().graceful_shutdown();
            connection.await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, ?door, "a connection of the admin API broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use fieldgate_types::Current;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::access::{LONGEST_BODY, bounded};
    use super::*;

    const SOON: Duration = Duration::from_millis(300);
    /// Well beyond it on a machine that is busy.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Served {
        address: SocketAddr,
        stop: CancellationToken,
        tasks: TaskTracker,
    }

    async fn served() -> Served {
        let bounds = Bounds {
            names: Arc::new(Current::new(vec!["line-1".to_owned()])),
            body_within: SOON,
            refused: Arc::default(),
        };
        let big = || async { "x".repeat(32 << 20) };
        let echo = post(|body: String| async move { body.len().to_string() }).get(big);
        let router = Router::new().route("/", echo).layer(from_fn_with_state(bounds, bounded));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(Hall::new(router, SOON, tasks.clone(), stop.clone()).serve_tcp(listener, None));
        Served { address, stop, tasks }
    }

    impl Served {
        /// What comes back until the end of the connection.
        async fn tell(&self, text: &str) -> String {
            let mut socket = TcpStream::connect(self.address).await.unwrap();
            socket.write_all(text.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is still open");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(ended.is_ok() || !text.is_empty(), "{ended:?}");
            text.lines().next().unwrap_or_default().to_owned()
        }
    }

    fn posted(host: &str, claimed: usize, sent: usize) -> String {
        let body = "x".repeat(sent);
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {claimed}\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn bodies_headers_hosts_and_patience_are_limited() {
        let served = served().await;
        let whole = posted("line-1:9080", LONGEST_BODY, LONGEST_BODY);
        assert_eq!(served.tell(&whole).await, "HTTP/1.1 200 OK");
        let long = posted("line-1", LONGEST_BODY + 1, LONGEST_BODY + 1);
        assert_eq!(served.tell(&long).await, "HTTP/1.1 413 Payload Too Large");
        assert_eq!(served.tell(&posted("line-1", 10, 9)).await, "HTTP/1.1 408 Request Timeout");
        assert_eq!(served.tell(&posted("evil.example", 0, 0)).await, "HTTP/1.1 421 Misdirected Request");
        assert_eq!(served.tell("").await, "", "nothing was asked");
        assert_eq!(served.tell("GET / HTTP/1.1\r\nHost: line-1\r\nX-Slow: ").await, "", "half a request");
        let many = "X-Many: 1\r\n".repeat(HEADERS + 1);
        let answer = served.tell(&format!("GET / HTTP/1.1\r\nHost: line-1\r\n{many}\r\n")).await;
        assert_eq!(answer, "HTTP/1.1 431 Request Header Fields Too Large");
        let answer = served.tell(&format!("GET / HTTP/1.1\r\nHost: line-1\r\nX: {}", "x".repeat(HEADER_BYTES))).await;
        assert_eq!(answer, "HTTP/1.1 431 Request Header Fields Too Large");
    }

    #[tokio::test]
    async fn those_who_say_or_take_nothing_hold_their_places_for_a_deadline_and_no_longer() {
        let served = served().await;
        let mut held = Vec::new();
        for n in 0..CONNECTIONS {
            let mut socket = TcpStream::connect(served.address).await.unwrap();
            if n % 2 == 0 {
                socket.write_all(b"GET / HTTP/1.1\r\nHost: line-1\r\n\r\n").await.unwrap();
            }
            held.push(socket);
        }
        // The next one waits for a place, and gets it.
        assert_eq!(served.tell(&posted("line-1", 0, 0)).await, "HTTP/1.1 200 OK");
        drop(held);
        served.stop.cancel();
        served.tasks.close();
        timeout(PATIENCE, served.tasks.wait()).await.expect("it stops");
    }
}
