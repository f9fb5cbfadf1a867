//! From the configured host to a byte stream: name, TCP, TLS.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::config::{TlsFiles, UpstreamConfig};
use super::failure::{Failure, tls_cause};
use super::tls;

/// One address of several may take this long before the next is tried.
const ADDRESS_TIME: Duration = Duration::from_secs(4);

/// What the MQTT client reads from and writes to.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> Stream for T {}

/// A connected stream. The name is looked up each time: the upstream may have moved.
pub(super) async fn dial(config: &UpstreamConfig) -> Result<Box<dyn Stream>, Failure> {
    let prepared = match &config.tls {
        Some(files) => Some(prepare(files.clone(), &config.host).await?),
        None => None,
    };
    let tcp = connect(&config.host, config.port).await?;
    let Some((connector, name)) = prepared else { return Ok(Box::new(tcp)) };
    match connector.connect(name, tcp).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match tls_cause(&error) {
            Some(source) => Failure::Tls { host: config.host.clone(), source: source.clone() },
            None => Failure::Lost(format!("{error}, during the TLS handshake")),
        }),
    }
}

async fn prepare(files: TlsFiles, host: &str) -> Result<(TlsConnector, ServerName<'static>), Failure> {
    let read = tokio::task::spawn_blocking(move || tls::client_config(&files));
    let config = read.await.map_err(|_| Failure::Lost("the runtime is stopping".to_owned()))??;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::Tls {
        host: host.to_owned(),
        source: rustls::Error::General("neither a DNS name nor an address".to_owned()),
    })?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let resolve = |source| Failure::Resolve { host: host.to_owned(), source };
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(resolve)?.collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(ADDRESS_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small packets both ways: without it, Nagle and delayed ACKs cost 40 ms each.
                match stream.set_nodelay(true) {
                    Ok(()) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{address} doesn't answer")),
        }
    }
    Err(Failure::Reach { host: host.to_owned(), port, source: last })
}
