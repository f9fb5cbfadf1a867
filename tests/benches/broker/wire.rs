//! A client made for speed: packets by hand over TCP or TLS, whatever came together read and written in one go, so
//! that the client's side of a measurement is cheap. It knows what the benches need of MQTT 3.1.1 and 5 and no more.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Protocol version of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

impl Version {
    pub const BOTH: [Self; 2] = [Self::V311, Self::V5];

    pub fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// Where and as whom a client connects.
#[derive(Debug, Clone)]
pub struct Seat {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    pub client_id: String,
    /// User name and password.
    pub login: Option<(String, String)>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connected client.
pub struct Connection {
    stream: Stream,
    pub version: Version,
    /// What was read and not yet looked at.
    pub input: BytesMut,
    /// What the next [`Connection::exchange`] writes.
    pub output: BytesMut,
    /// Bytes to ask the socket for.
    pub chunk: usize,
    unflushed: bool,
}

impl Connection {
    /// Connects; the CONNACK accepts.
    pub async fn open(seat: &Seat, version: Version) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let tcp = socket.connect(seat.address).await.context("can't connect")?;
        tcp.set_nodelay(true)?;
        let stream = match &seat.tls {
            None => Stream::Plain(tcp),
            Some(tls) => {
                let name = ServerName::try_from("localhost")?;
                let shaken = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await.context("handshake")?;
                Stream::Tls(Box::new(shaken))
            }
        };
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let mut connection = Self { stream, version, input, output, chunk: 512, unflushed: false };
        connection.connect(seat).await.with_context(|| format!("`{}`", seat.client_id))?;
        Ok(connection)
    }

    async fn connect(&mut self, seat: &Seat) -> anyhow::Result<()> {
        let mut body = BytesMut::new();
        put_text(&mut body, "MQTT");
        body.put_u8(if self.version == Version::V5 { 5 } else { 4 });
        // Clean; user name and password where there are any.
        body.put_u8(if seat.login.is_some() { 0xC2 } else { 0x02 });
        // Keep-alive: long enough that nothing is sent for it.
        body.put_u16(3_600);
        if self.version == Version::V5 {
            body.put_u8(0);
        }
        put_text(&mut body, &seat.client_id);
        if let Some((user, password)) = &seat.login {
            put_text(&mut body, user);
            put_text(&mut body, password);
        }
        packet(&mut self.output, 0x10, &body);
        let (first, answer) = self.next_packet().await?;
        ensure!(first == 0x20, "{first:#04x} in place of a CONNACK");
        ensure!(answer.get(1) == Some(&0), "refused: {answer:?}");
        Ok(())
    }

    /// Subscribes to one filter.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> anyhow::Result<()> {
        let mut body = BytesMut::new();
        body.put_u16(1);
        if self.version == Version::V5 {
            body.put_u8(0);
        }
        put_text(&mut body, filter);
        body.put_u8(qos);
        packet(&mut self.output, 0x82, &body);
        let (first, answer) = self.next_packet().await?;
        ensure!(first == 0x90, "{first:#04x} in place of a SUBACK");
        ensure!(answer.last() == Some(&qos), "`{filter}` is not granted: {answer:?}");
        Ok(())
    }

    /// Asks for a PINGRESP and waits for it.
    pub async fn ping(&mut self) -> anyhow::Result<()> {
        self.output.put_slice(&[0xC0, 0]);
        let (first, _) = self.next_packet().await?;
        ensure!(first == 0xD0, "{first:#04x} in place of a PINGRESP");
        Ok(())
    }

    /// Publishes `payload` with QoS 1 and waits for the PUBACK.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> anyhow::Result<()> {
        let mut template = Template::new(self.version, topic, 1, payload.len());
        template.put(&mut self.output, 1, payload);
        let (first, answer) = self.next_packet().await?;
        ensure!(first == 0x40 && answer.get(2).is_none_or(|code| *code < 0x80), "no PUBACK: {first:#04x} {answer:?}");
        Ok(())
    }

    /// Writes what is to be written and reads until one packet is there in full: its first byte and its body.
    pub async fn next_packet(&mut self) -> anyhow::Result<(u8, Bytes)> {
        loop {
            if let Some(packet) = take_packet(&mut self.input)? {
                return Ok(packet);
            }
            self.exchange().await?;
        }
    }

    /// Writes the output, and returns as soon as something was read. May be dropped at any point.
    pub async fn exchange(&mut self) -> anyhow::Result<()> {
        let count = poll_fn(|cx| self.poll_exchange(cx)).await?;
        ensure!(count > 0, "the broker has closed the connection");
        Ok(())
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A full socket must not keep from reading: the other side might wait for that.
        if let Poll::Ready(Err(error)) = self.poll_write_out(cx) {
            return Poll::Ready(Err(error));
        }
        self.input.reserve(self.chunk);
        let room = self.chunk;
        let mut target = (&mut self.input).limit(room);
        pin!(self.stream.read_buf(&mut target)).poll(cx)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            self.output.advance(count);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the output to its end.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(poll_fn(|cx| self.poll_write_out(cx)).await?)
    }

    /// Says goodbye.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.output.put_slice(&[0xE0, 0]);
        self.flush().await?;
        Ok(self.stream.shutdown().await?)
    }
}

/// A PUBLISH in which the packet id and the payload are filled in.
pub struct Template {
    head: BytesMut,
    with_id: bool,
    tail: &'static [u8],
}

impl Template {
    /// For payloads of `length` bytes on `topic`.
    pub fn new(version: Version, topic: &str, qos: u8, length: usize) -> Self {
        let with_id = qos > 0;
        let tail: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        let mut head = BytesMut::new();
        head.put_u8(0x30 | qos << 1);
        put_length(&mut head, 2 + topic.len() + 2 * usize::from(with_id) + tail.len() + length);
        put_text(&mut head, topic);
        Self { head, with_id, tail }
    }

    /// Appends one PUBLISH.
    pub fn put(&mut self, out: &mut BytesMut, id: u16, payload: &[u8]) {
        out.put_slice(&self.head);
        if self.with_id {
            out.put_u16(id);
        }
        out.put_slice(self.tail);
        out.put_slice(payload);
    }
}

/// One received PUBLISH.
pub struct Delivered<'a> {
    pub topic: &'a [u8],
    pub qos: u8,
    pub id: u16,
    pub payload: &'a [u8],
}

/// Reads the body of a PUBLISH; `None` when it is too short for what it says.
pub fn delivered(version: Version, first: u8, body: &[u8]) -> Option<Delivered<'_>> {
    let qos = first >> 1 & 3;
    let mut at = 2 + usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?));
    let topic = body.get(2..at)?;
    let mut id = 0;
    if qos > 0 {
        id = u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?);
        at += 2;
    }
    if version == Version::V5 {
        let (length, used) = length(body.get(at..)?)?;
        at += used + length;
    }
    Some(Delivered { topic, qos, id, payload: body.get(at..)? })
}

/// The packet at the head of `input`: its first byte, where its body begins, where it ends. `None` when it isn't
/// there in full.
pub fn frame(input: &[u8]) -> Option<(u8, usize, usize)> {
    let first = *input.first()?;
    let (length, used) = length(input.get(1..)?)?;
    let end = 1 + used + length;
    (input.len() >= end).then_some((first, 1 + used, end))
}

fn take_packet(input: &mut BytesMut) -> anyhow::Result<Option<(u8, Bytes)>> {
    let Some((first, begin, end)) = frame(input) else {
        if input.len() > 1 << 20 {
            bail!("a packet beyond a megabyte");
        }
        return Ok(None);
    };
    let mut packet = input.split_to(end);
    packet.advance(begin);
    Ok(Some((first, packet.freeze())))
}

/// A variable byte integer and its length.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let low = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

fn packet(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    put_length(out, body.len());
    out.put_slice(body);
}
