//! The TCP connection below a session.
//!
//! The library has a connector of its own, which tries the first address of a host name alone, waits without end,
//! and leaves Nagle's algorithm on (40 ms for each small request). Hence this one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opcua::client::ConnectionSource;
use opcua::client::transport::{
    Connector, RequestRecv, SecureChannelState, StreamConnection, StreamConnector, StreamTransport,
    TransportConfiguration,
};
use opcua::core::comms::tcp_codec::TcpCodec;
use opcua::types::{DecodingOptions, EndpointDescription, Error, StatusCode};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_util::codec::FramedRead;

use crate::endpoint::Endpoint;
use crate::fault::Fault;

/// How long one address of the server may take to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

type Reader = ReadHalf<TcpStream>;
type Writer = WriteHalf<TcpStream>;
/// Makes connections to one server, and keeps what went wrong: the library hands on a status code alone.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    endpoint: Endpoint,
    unreachable: Arc<Mutex<Option<String>>>,
}

impl Source {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, unreachable: Arc::default() }
    }

    /// A connection for the library, ready for its first message.
    async fn open(&self, url: String, options: DecodingOptions) -> Result<StreamConnection<Reader, Writer>, Error> {
        let stream = self.dial().await.map_err(|reason| {
            let error = Error::new(StatusCode::BadCommunicationError, reason.as_str());
            *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
            error
        })?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(StreamConnection::new(FramedRead::new(reader, TcpCodec::new(options)), writer, url))
    }

    /// Tries each address of the host in turn.
    async fn dial(&self) -> Result<TcpStream, String> {
        let target = (self.endpoint.host(), self.endpoint.port());
        let lookup = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(target)).await;
        let addresses = lookup.map_err(|_| "the name service does not answer".to_owned())?;
        let mut reason = "the name has no address".to_owned();
        for address in addresses.map_err(|error| error.to_string())? {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(|error| error.to_string())?;
                    return Ok(stream);
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => "no answer".clone_into(&mut reason),
            }
        }
        Err(reason)
    }

    /// The fault behind a status code of the library.
    pub(crate) fn fault(&self, step: &'static str, status: StatusCode) -> Fault {
        match self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => {
                Fault::Unreachable { host: self.endpoint.host().to_owned(), port: self.endpoint.port(), reason }
            }
            None => Fault::Status { step, status, mend: None },
        }
    }
}

impl Connector for Source {
    type Transport = StreamTransport<Reader, Writer>;

    async fn connect(
        &self,
        channel: Arc<SecureChannelState>,
        outgoing: RequestRecv,
        config: TransportConfiguration,
    ) -> Result<Self::Transport, Error> {
        let open = |url, options| self.open(url, options);
        StreamConnector::new(open, self.endpoint.url().to_owned()).connect(channel, outgoing, config).await
    }

    fn default_endpoint(&self) -> EndpointDescription {
        EndpointDescription::from(self.endpoint.url())
    }
}

impl ConnectionSource for Source {
    type Builder = Self;

    fn get_connector(&self, _: &EndpointDescription) -> Result<Self, Error> {
        Ok(self.clone())
    }
}
