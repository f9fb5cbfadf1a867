//! MQTT over WebSocket, against the binary: the certificate decides, as on the other port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use fieldgate_testkit::{Bundle, Gateway};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::stage::{BINARY, Told};

async fn start() -> anyhow::Result<(Gateway, SocketAddr)> {
    let mut gateway = Gateway::new(BINARY, "line-1", "")?;
    gateway.configure_broker("websocket = [\"127.0.0.1:0\"]", "")?;
    gateway.start().await?;
    let address = gateway.status().await?["broker"]["websocket"][0].as_str().context("no address")?.parse()?;
    Ok((gateway, address))
}

async fn tls(bundle: &Bundle, address: SocketAddr) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(&bundle.ca()?) {
        // The bundle holds the issuing CA too.
        roots.add(ca?)?;
    }
    let chain = CertificateDer::pem_slice_iter(&bundle.certificate()?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&bundle.key()?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    let stream = TcpStream::connect(address).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?)
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

async fn open(bundle: &Bundle, address: SocketAddr) -> anyhow::Result<Socket> {
    let mut request = "wss://localhost/mqtt".into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    Ok(tokio_tungstenite::client_async(request, tls(bundle, address).await?).await?.0)
}

async fn frame(socket: &mut Socket) -> anyhow::Result<Vec<u8>> {
    let message = tokio::time::timeout(Duration::from_secs(10), socket.next()).await?;
    match message.context("closed")?? {
        Message::Binary(bytes) => Ok(bytes.to_vec()),
        other => bail!("{other:?}"),
    }
}

/// A CONNECT of MQTT 5 with a clean start.
fn connect(id: &str) -> Message {
    let mut bytes = vec![0x10, 13 + u8::try_from(id.len()).unwrap_or(0), 0, 4];
    bytes.extend(b"MQTT\x05\x02\0\x3c\0\0");
    bytes.push(u8::try_from(id.len()).unwrap_or(0));
    bytes.extend(id.as_bytes());
    Message::binary(bytes)
}

/// The reason code of a CONNACK, whose length takes one byte, or two with a long reason string.
fn connack_code(packet: &[u8]) -> Option<u8> {
    match packet {
        [0x20, length, _, code, ..] if *length < 0x80 => Some(*code),
        [0x20, _, _, _, code, ..] => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn a_device_publishes_over_websocket_and_is_gone_when_it_is_revoked() -> Told {
    let (gateway, address) = start().await?;
    let bundle = gateway.add_device("press-1").await?;
    let mut socket = open(&bundle, address).await?;
    socket.send(connect("press-1")).await?;
    let connack = frame(&mut socket).await?;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    let topic = b"devices/press-1/telemetry/t";
    let mut publish = vec![0x32, u8::try_from(topic.len() + 6)?, 0, u8::try_from(topic.len())?];
    publish.extend(topic);
    publish.extend([0, 7, 0, b'1']);
    // A packet may be spread over frames.
    let rest = publish.split_off(5);
    socket.send(Message::binary(publish)).await?;
    socket.send(Message::binary(rest)).await?;
    let puback = frame(&mut socket).await?;
    assert_eq!((puback[0], &puback[2..4]), (0x40, &[0, 7][..]), "{puback:02x?}");
    gateway.verb(&["device", "revoke", "press-1"]).await?.ok()?;
    let goodbye = frame(&mut socket).await?;
    assert_eq!((goodbye[0], goodbye[2]), (0xE0, 0x87), "{goodbye:02x?}");
    let mut again = open(&bundle, address).await?;
    again.send(connect("press-1")).await?;
    assert_eq!(connack_code(&frame(&mut again).await?), Some(0x87));
    Ok(())
}

#[tokio::test]
async fn another_client_id_is_refused_over_websocket_too() -> Told {
    let (gateway, address) = start().await?;
    let bundle = gateway.add_device("press-1").await?;
    let mut socket = open(&bundle, address).await?;
    socket.send(connect("press-2")).await?;
    assert_eq!(connack_code(&frame(&mut socket).await?), Some(0x85));
    Ok(())
}
