//! As much of HTTP/1.1 as asking the gateway takes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The value of the header `name`, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Asks over TCP, with a token or without.
pub async fn tcp(to: SocketAddr, token: Option<&str>, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("can't reach {to}"))?;
    timeout(PATIENCE, ask(stream, token, method, path, body)).await.context("no HTTP answer")?
}

/// Says `text` as it is, and takes what comes back until the end of the connection.
pub async fn raw(to: SocketAddr, text: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(to).await.with_context(|| format!("can't reach {to}"))?;
    timeout(PATIENCE, exchange(&mut stream, text)).await.context("no HTTP answer")?
}

/// Asks over TLS: the server must be `localhost` by a certificate of `ca` (PEM).
pub async fn tls(to: SocketAddr, ca: &[u8], token: Option<&str>, method: &str, path: &str) -> anyhow::Result<Answer> {
    let stream = secured(to, ca).await?;
    timeout(PATIENCE, ask(stream, token, method, path, "")).await.context("no HTTP answer")?
}

/// As [`raw`], over TLS as with [`tls`].
pub async fn raw_tls(to: SocketAddr, ca: &[u8], text: &str) -> anyhow::Result<Answer> {
    let mut stream = secured(to, ca).await?;
    timeout(PATIENCE, exchange(&mut stream, text)).await.context("no HTTP answer")?
}

async fn secured(to: SocketAddr, ca: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(to).await.with_context(|| format!("can't reach {to}"))?;
    Ok(TlsConnector::from(Arc::new(config)).connect("localhost".try_into()?, stream).await?)
}

/// Asks through a Unix socket.
pub async fn unix(to: &Path, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    let stream = UnixStream::connect(to).await.with_context(|| format!("can't reach {}", to.display()))?;
    timeout(PATIENCE, ask(stream, None, method, path, body)).await.context("no HTTP answer")?
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let length = body.len();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    exchange(&mut stream, &request).await
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> anyhow::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    // A refusal may come before all of the request has gone, and an end without close_notify is one too.
    if let Err(error) = stream.read_to_end(&mut bytes).await
        && bytes.is_empty()
    {
        return Err(error.into());
    }
    parse(&String::from_utf8(bytes)?)
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the HTTP header")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no HTTP status")?.parse()?;
    let header = |line: &str| line.split_once(':').map(|(k, v)| (k.to_lowercase(), v.trim().to_owned()));
    let headers: Vec<(String, String)> = lines.filter_map(header).collect();
    let chunked = headers.iter().any(|(key, value)| key == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunk(body).context("the chunks are broken")? } else { body.to_owned() };
    Ok(Answer { status, headers, body })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers() {
        let plain = parse("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno\n").unwrap();
        assert_eq!(
            (plain.status, plain.header("content-type"), plain.body.as_str()),
            (404, Some("text/plain"), "no\n")
        );
        let chunked =
            parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!(chunked.body, "abcde");
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }
}
