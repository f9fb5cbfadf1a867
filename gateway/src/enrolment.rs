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

use crate::audit::{Audit, Event};
use crate::identity::{Authority, lists};

/// Connections at a time. Full: newcomers wait in the kernel's queue until one of them ends, by its deadline at last.
const CONNECTIONS: usize = 64;
/// For the TLS handshake, and for the headers after it.
const HELLO: Duration = Duration::from_secs(10);
/// For all of a connection.
const WHOLE: Duration = Duration::from_secs(30);
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
        Ok(Self { listener, port: Port { acceptor, authority, audit, handshakes, stop }, tasks })
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
                        let _ended = stop.run_until_cancelled(timeout(WHOLE, port.serve(socket, peer))).await;
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
        let stream = match timeout(HELLO, handshake).await {
            Ok(Ok(Ok(stream))) => stream,
            Ok(Ok(Err(error))) => return self.refuse_handshake(&error, peer),
            // Too slow, or the gateway is stopping.
            Ok(Err(_)) | Err(_) => return,
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Arc<[CertificateDer<'static>]> =
            chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let answer = service_fn(|request| self.answer(request, Arc::clone(&chain), peer));
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HELLO)
            .max_buf_size(HEADER_BYTES)
            .max_headers(HEADERS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, %peer, "an enrolment connection broke");
        }
    }

    /// A certificate that is not good ends the handshake: one audit line, as on the broker's port.
    fn refuse_handshake(&self, error: &io::Error, peer: SocketAddr) {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(refused) = tls.and_then(Refused::in_handshake) {
            let device = refused.device().map(ToString::to_string);
            let reason = refused.to_string();
            self.audit.record(Event::ConnectionRefused { device, peer: peer.to_string(), reason });
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
                self.audit.record(Event::EnrolmentRefused {
                    device: None,
                    peer: peer.to_string(),
                    reason: format!("the request is longer than {LONGEST_BODY} bytes"),
                });
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
