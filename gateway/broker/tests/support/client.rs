//! A TLS socket that reads packets one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::packets;

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Client<S = TlsStream<TcpStream>> {
    pub stream: S,
    v5: bool,
    next_id: u16,
}

/// A packet from the broker: first byte and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

/// A PUBLISH, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Publish {
    /// Its properties, taken apart.
    pub fn list(&self) -> Vec<(u8, Vec<u8>)> {
        packets::read_properties(&self.properties)
    }

    /// The value of one property.
    pub fn property(&self, id: u8) -> Option<Vec<u8>> {
        self.list().into_iter().find(|(of, _)| *of == id).map(|(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

impl Client {
    pub async fn open(address: SocketAddr, config: ClientConfig) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, v5: true, next_id: 1000 }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` when the broker closes.
    pub async fn read(&mut self) -> Option<Packet> {
        tokio::time::timeout(PATIENCE, self.read_one()).await.expect("no packet in time")
    }

    async fn read_one(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let mut length = 0;
        for shift in 0..4 {
            let byte = usize::from(self.stream.read_u8().await.ok()?);
            length |= (byte & 0x7F) << (7 * shift);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Packet { first, body })
    }

    /// Asserts that nothing comes for a while.
    pub async fn silent(&mut self, for_millis: u64) {
        let quiet = tokio::time::timeout(Duration::from_millis(for_millis), self.read_one()).await;
        assert!(quiet.is_err(), "unexpected: {quiet:?}");
    }

    /// Sends a CONNECT that is accepted; the body of the CONNACK.
    pub async fn connect(&mut self, connect: packets::Connect) -> Vec<u8> {
        self.v5 = connect.level == 5;
        self.send(&connect.build()).await;
        let connack = self.read().await.expect("a CONNACK");
        assert_eq!(connack.first, 0x20);
        assert_eq!(connack.body[1], 0, "refused: {:02x?}", connack.body);
        connack.body
    }

    /// Sends a CONNECT that is refused; its code.
    pub async fn refused(&mut self, connect: packets::Connect) -> u8 {
        self.send(&connect.build()).await;
        let connack = self.read().await.expect("a CONNACK");
        assert_eq!(connack.first, 0x20);
        assert_eq!(self.read().await, None, "a refused connection is closed");
        connack.body[1]
    }

    pub fn list(&self) -> Option<&'static [u8]> {
        self.v5.then_some(&[])
    }

    /// Subscribes; the code of the one filter.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.next_id += 1;
        let packet = packets::subscribe(self.next_id, self.list(), &[(filter, options)]);
        self.send(&packet).await;
        let suback = self.read().await.expect("a SUBACK");
        assert_eq!(suback.first, 0x90);
        assert_eq!(suback.body[..2], self.next_id.to_be_bytes());
        *suback.body.last().unwrap()
    }

    /// Asserts that nothing is on its way: a PINGREQ is answered with a PINGRESP and nothing before it, twice, for
    /// what was queued before the first is written behind it at the latest.
    pub async fn quiet(&mut self) {
        for _ in 0..2 {
            self.send(&[0xC0, 0]).await;
            let packet = self.read().await.expect("a PINGRESP");
            assert_eq!(packet.first, 0xD0, "unexpected: {packet:02x?}");
        }
    }

    /// Publishes and finishes the hand-shake of QoS 1 or 2, so that the message is with its receivers.
    pub async fn deliver(&mut self, flags: u8, topic: &str, list: &[u8], payload: &str) {
        self.next_id += 1;
        let id = self.next_id;
        let list = self.list().map(|_| list);
        self.send(&packets::publish(flags, topic, id, list, payload.as_bytes())).await;
        match flags >> 1 & 3 {
            0 => self.quiet().await,
            1 => assert_eq!(self.acked(0x40).await, (id, 0)),
            _ => {
                assert_eq!(self.acked(0x50).await, (id, 0));
                self.send(&packets::ack(0x62, id)).await;
                assert_eq!(self.acked(0x70).await, (id, 0));
            }
        }
    }

    /// Finishes the hand-shake of a received QoS 2 message.
    pub async fn complete(&mut self, id: u16) {
        self.send(&packets::ack(0x50, id)).await;
        assert_eq!(self.acked(0x62).await, (id, 0));
        self.send(&packets::ack(0x70, id)).await;
    }

    pub async fn publish(&mut self, flags: u8, topic: &str, id: u16, payload: &str) {
        let packet = packets::publish(flags, topic, id, self.list(), payload.as_bytes());
        self.send(&packet).await;
    }

    /// Reads a PUBLISH and acknowledges QoS 1.
    pub async fn receive(&mut self) -> Publish {
        let publish = self.receive_only().await;
        if publish.qos == 1 {
            self.send(&packets::ack(0x40, publish.id)).await;
        }
        publish
    }

    pub async fn receive_only(&mut self) -> Publish {
        let packet = self.read().await.expect("a PUBLISH");
        assert_eq!(packet.first >> 4, 3, "not a PUBLISH: {packet:02x?}");
        let mut rest = &packet.body[..];
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let topic = String::from_utf8(rest[2..2 + length].to_vec()).unwrap();
        rest = &rest[2 + length..];
        let qos = packet.first >> 1 & 3;
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if self.v5 {
            let (length, used) = packets::read_varint(rest);
            properties = rest[used..used + length].to_vec();
            rest = &rest[used + length..];
        }
        Publish {
            dup: packet.first & 8 != 0,
            qos,
            retain: packet.first & 1 != 0,
            topic,
            id,
            properties,
            payload: rest.to_vec(),
        }
    }

    /// Reads an acknowledgement: packet id and code (0 when left out).
    pub async fn acked(&mut self, first: u8) -> (u16, u8) {
        let packet = self.read().await.expect("an acknowledgement");
        assert_eq!(packet.first, first, "{packet:02x?}");
        (u16::from_be_bytes([packet.body[0], packet.body[1]]), packet.body.get(2).copied().unwrap_or(0))
    }

    /// Reads up to the end: the DISCONNECT's code on MQTT 5, then closed.
    pub async fn disconnected(&mut self) -> Option<u8> {
        let mut code = None;
        while let Some(packet) = self.read().await {
            assert_eq!(code, None, "a packet after DISCONNECT: {packet:02x?}");
            if packet.first == 0xE0 {
                code = packet.body.first().copied();
            }
        }
        code
    }

    /// Reads up to the end: how many publishes came, and the DISCONNECT's code on MQTT 5.
    pub async fn disconnected_after_publishes(&mut self) -> (usize, Option<u8>) {
        let (mut publishes, mut code) = (0, None);
        while let Some(packet) = self.read().await {
            match packet.first >> 4 {
                3 => publishes += 1,
                14 => code = packet.body.first().copied(),
                _ => {}
            }
        }
        (publishes, code)
    }
}
