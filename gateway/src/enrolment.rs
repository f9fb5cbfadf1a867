//! The enrolment port (`[enrolment] listen`): EST over HTTPS (RFC 7030), where a device gets its certificate with a
//! one-time token, and renews it by itself; and `/crl/<name>.crl`, the revocation lists.
//!
//! What is answered is `fieldgate_certs::est`'s matter; here are sockets, and the bounds against those who would hold
//! them: so many connections at a time, each with one request and a deadline. Answers are made on threads that may wait
//! for the disk.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fieldgate_certs::est::{LONGEST_BODY, Request};
use fieldgate_certs::{CaError, Refused, ServerCertificate};
use fieldgate_types::DeviceId;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::audit::{Audit, Event, Stranger};
use crate::identity::{Authority, lists};

/// Connections at a time. Full: newcomers wait in the kernel's queue until one of them ends, by its deadline at last.
const CONNECTIONS: usize = 64;
/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// For the TLS handshake, and for the headers after it.
    hello: Duration,
    /// For all of it.
    whole: Duration,
}

const DEADLINES: Deadlines = Deadlines { hello: Duration::from_secs(10), whole: Duration::from_secs(30) };
/// Bytes of headers, and their number. A Basic header with a token takes 150.
const HEADER_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// After an accept that failed, for lack of files most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Bound, not yet served.
pub struct EnrolmentPort {
    listener: TcpListener,
    port: Port,
    tasks: TaskTracker,
}

/// What each connection needs.
#[derive(Clone)]
struct Port {
    acceptor: TlsAcceptor,
    authority: Arc<Authority>,
    audit: Audit,
    /// Where handshakes compute, out of the way of who is connected.
    handshakes: Handle,
    stop: CancellationToken,
    deadlines: Deadlines,
}

impl EnrolmentPort {
    /// Binds it. It shows the gateway's `certificate`, whichever that is by then.
    pub async fn bind(
        listen: SocketAddr,
        authority: Arc<Authority>,
        certificate: Arc<ServerCertificate>,
        audit: Audit,
        handshakes: Handle,
        stage: (TaskTracker, CancellationToken),
    ) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(listen).await;
        let listener = bound.with_context(|| format!("can't listen on {listen} ([enrolment] listen)"))?;
        let tls = authority.ca.enrolment_config(certificate).map_err(|error: CaError| anyhow::anyhow!(error))?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let (tasks, stop) = stage;
        let port = Port { acceptor, authority, audit, handshakes, stop, deadlines: DEADLINES };
        Ok(Self { listener, port, tasks })
    }

    /// Where it is, with its port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is stopped.
    pub async fn run(self) {
        let Self { listener, port, tasks } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let accept = async || {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(socket, peer)| (place, socket, peer))
        };
        while let Some(accepted) = port.stop.run_until_cancelled(accept()).await {
            match accepted {
                Ok((place, socket, peer)) => {
                    let port = port.clone();
                    tasks.spawn(async move {
                        let stop = port.stop.clone();
                        // Deadline and stop end it alike; what is being issued is finished on its thread.
                        let serving = timeout(port.deadlines.whole, port.clone().serve(socket, peer));
                        if let Some(Err(_)) = stop.run_until_cancelled(serving).await {
                            port.too_slow(peer, "its request was not complete", port.deadlines.whole);
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the enrolment port can't accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Port {
    async fn serve(self, socket: TcpStream, peer: SocketAddr) {
        let handshake = AbortOnDropHandle::new(self.handshakes.spawn(self.acceptor.accept(socket)));
        let stream = match timeout(self.deadlines.hello, handshake).await {
            Ok(Ok(Ok(stream))) => stream,
            Ok(Ok(Err(error))) => return self.refuse_handshake(&error, peer),
            // The gateway is stopping.
            Ok(Err(_)) => return,
            Err(_) => return self.too_slow(peer, "its TLS handshake was not complete", self.deadlines.hello),
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Arc<[CertificateDer<'static>]> =
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let answer = service_fn(|request| self.answer(request, Arc::clone(&chain), peer));
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.deadlines.hello)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADERS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            if error.is_timeout() {
                self.too_slow(peer, "the headers of its request were not complete", self.deadlines.hello);
            }
            tracing::debug!(%error, %peer, "an enrolment connection broke");
        }
    }

    /// Who held a place and did nothing with it.
    fn too_slow(&self, peer: SocketAddr, what: &str, within: Duration) {
        let reason = format!("enrolment port: {what} within {} s", within.as_secs());
        self.audit.refused_connection(None, peer, reason);
    }

    /// A certificate that is not good ends the handshake, as on the broker's port.
    fn refuse_handshake(&self, error: &io::Error, peer: SocketAddr) {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(refused) = tls.and_then(Refused::in_handshake) {
            self.audit.refused_connection(refused.device().map(DeviceId::as_str), peer, refused.to_string());
        }
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        chain: Arc<[CertificateDer<'static>]>,
        peer: SocketAddr,
    ) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
        let (head, body) = request.into_parts();
        if let Some(name) = head.uri.path().strip_prefix("/crl/") {
            return match self.authority.list(name).filter(|_| head.method == Method::GET || head.method == Method::HEAD)
            {
                Some(list) => {
                    let response = Response::builder().header(CONTENT_TYPE, lists::MEDIA_TYPE);
                    response.body(Full::new(Bytes::from(list.to_vec())))
                }
                None => plain(StatusCode::NOT_FOUND, "there is no such list\n"),
            };
        }
        let body = match Limited::new(body, LONGEST_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let reason = format!("the request is longer than {LONGEST_BODY} bytes");
                let event = || Event::EnrolmentRefused { device: None, peer: peer.to_string(), reason: reason.clone() };
                self.audit.record_stranger(Stranger::Enrolment, peer.ip(), &reason, event);
                return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long\n");
            }
            Err(_) => return plain(StatusCode::BAD_REQUEST, "the request's body can't be read\n"),
        };
        let authority = Arc::clone(&self.authority);
        let answered = tokio::task::spawn_blocking(move || {
            let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let request = Request {
                method: head.method.as_str(),
                path: head.uri.path(),
                authorization,
                body: &body,
                peer: &chain,
            };
            authority.answer_enrolment(&request, peer)
        });
        let Ok(answer) = answered.await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping\n");
        };
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(answer.body.into()))
    }
}

fn plain(status: StatusCode, words: &'static str) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    Response::builder().status(status).body(Full::new(Bytes::from_static(words.as_bytes())))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use fieldgate_store::State;
    use fieldgate_types::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::audit::tail;
    use crate::config;

    const SOON: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(3);
    /// Well beyond both on a machine that is busy.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Served {
        folder: tempfile::TempDir,
        address: SocketAddr,
        ca: String,
        audit: Audit,
        stop: CancellationToken,
        tasks: TaskTracker,
    }

    impl Served {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = "[gateway]\nid = \"line-1\"\n";
            let config = config::read("gateway.toml", folder.path(), text).config.unwrap();
            std::fs::create_dir_all(&config.data_dir).unwrap();
            let clock = Arc::new(SystemClock::new());
            let state = Arc::new(State::open(&config.data_dir.join("state.db"), Arc::clone(&clock) as _).unwrap());
            let audit = Audit::open(folder.path(), Arc::clone(&state), Arc::clone(&clock) as _).unwrap();
            let authority = Arc::new(Authority::open(&config, state, audit.clone(), clock).unwrap());
            let names = ["localhost".to_owned()];
            let certificate = Arc::new(authority.ca.server_certificate(&names, &[Ipv4Addr::LOCALHOST.into()]).unwrap());
            let ca = authority.ca.trust_bundle_pem();
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            let stage = (tasks.clone(), stop.clone());
            let listen = (Ipv4Addr::LOCALHOST, 0).into();
            let mut port = EnrolmentPort::bind(listen, authority, certificate, audit.clone(), Handle::current(), stage)
                .await
                .unwrap();
            port.port.deadlines = Deadlines { hello: SOON, whole: LATER };
            let address = port.address().unwrap();
            tasks.spawn(port.run());
            Self { folder, address, ca, audit, stop, tasks }
        }

        async fn tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
            use rustls_pki_types::pem::PemObject;
            let mut roots = rustls::RootCertStore::empty();
            let certificates = CertificateDer::pem_slice_iter(self.ca.as_bytes()).map(Result::unwrap);
            roots.add_parsable_certificates(certificates);
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config =
                rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let config = config.with_root_certificates(roots).with_no_client_auth();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let socket = TcpStream::connect(self.address).await.unwrap();
            connector.connect("localhost".try_into().unwrap(), socket).await.unwrap()
        }

        /// Status line of `GET cacerts`.
        async fn ask(&self) -> String {
            let mut stream = self.tls().await;
            let request = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            // An end without close_notify is one too.
            let read = stream.read_to_end(&mut answer).await;
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(read.is_ok() || !text.is_empty(), "{read:?}");
            text.lines().next().unwrap_or_default().to_owned()
        }

        /// The reasons in the audit log, after all is stopped.
        async fn reasons(self) -> Vec<String> {
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
            let audit = self.audit.clone();
            tokio::task::spawn_blocking(move || audit.close()).await.unwrap();
            let lines = tail(self.folder.path(), 1_000).unwrap();
            let value = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
            lines.iter().map(|line| value(line)["reason"].as_str().unwrap_or_default().to_owned()).collect()
        }
    }

    /// Until the other side ends it.
    async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) {
        let mut rest = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "it is still open");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sixty_four_silent_clients_hold_their_places_for_a_deadline_and_no_longer() {
        let served = Served::start().await;
        assert_eq!(served.ask().await, "HTTP/1.1 200 OK");
        let began = Instant::now();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(served.address).await.unwrap());
        }
        // The next one waits for a place, and gets it.
        assert_eq!(timeout(PATIENCE, served.ask()).await.unwrap(), "HTTP/1.1 200 OK");
        let waited = began.elapsed();
        assert!(waited >= SOON, "more than {CONNECTIONS} were served at a time: {waited:?}");
        for stream in &mut silent {
            ended(stream).await;
        }
        let reasons = served.reasons().await;
        let first = "enrolment port: its TLS handshake was not complete within 1 s";
        let more = format!("63 more connections from 127.0.0.1 were refused in the last minute, the last: {first}");
        assert_eq!(reasons, [first, &more]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_sends_a_byte_now_and_then_is_ended_by_the_deadlines() {
        let served = Served::start().await;
        let drip = async |head: &[u8]| {
            let mut stream = served.tls().await;
            stream.write_all(head).await.unwrap();
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                tokio::time::sleep(SOON / 10).await;
                // What has been closed takes a byte or two more.
                if stream.write_all(b"a").await.is_err() || stream.flush().await.is_err() {
                    break;
                }
            }
            began.elapsed()
        };
        let post = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n";
        let (headers, body) = tokio::join!(drip(b"GET / HTTP/1.1\r\nX: "), drip(post));
        assert!(headers >= SOON && headers < PATIENCE, "{headers:?}");
        assert!(body > SOON && body < PATIENCE, "{body:?}");
        let mut reasons = served.reasons().await;
        reasons.sort();
        let expected = [
            "enrolment port: its request was not complete within 3 s",
            "enrolment port: the headers of its request were not complete within 1 s",
        ];
        assert_eq!(reasons, expected);
    }
}
