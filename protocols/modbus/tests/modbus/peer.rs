//! A Modbus TCP peer made of raw frames (Modbus Messaging on TCP/IP V1.0b, section 3.1.3), which says whatever a test
//! wants it to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The whole of it.
    pub bytes: Vec<u8>,
    /// Which connection of this peer, from 0.
    pub connection: usize,
    /// Which request of this connection, from 0.
    pub number: usize,
}

/// What to do about a request.
pub enum Reply {
    Bytes(Vec<u8>),
    /// Some bytes now, some later.
    Pieces(Vec<u8>, Duration, Vec<u8>),
    Silence,
    Close,
    BytesAndClose(Vec<u8>),
    Reset,
}

impl Frame {
    pub fn unit(&self) -> u8 {
        self.bytes[6]
    }

    pub fn function(&self) -> u8 {
        self.bytes[7]
    }

    pub fn address(&self) -> u16 {
        u16::from_be_bytes([self.bytes[8], self.bytes[9]])
    }

    pub fn count(&self) -> u16 {
        u16::from_be_bytes([self.bytes[10], self.bytes[11]])
    }

    /// A frame with this request's ids around `pdu`.
    pub fn wrap(&self, pdu: &[u8]) -> Vec<u8> {
        let length = u16::try_from(pdu.len() + 1).unwrap().to_be_bytes();
        [&self.bytes[..2], &[0, 0], &length, &[self.unit()], pdu].concat()
    }

    /// Registers as the answer to a read.
    pub fn registers(&self, words: &[u16]) -> Vec<u8> {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.wrap(&[&[self.function(), u8::try_from(data.len()).unwrap()], &data[..]].concat())
    }

    /// The good answer to any read of registers: each holds its own address plus `add`.
    pub fn honest(&self, add: u16) -> Vec<u8> {
        let words: Vec<u16> = (0..self.count()).map(|i| self.address() + i + add).collect();
        self.registers(&words)
    }

    pub fn exception(&self, code: u8) -> Vec<u8> {
        self.wrap(&[self.function() | 0x80, code])
    }
}

/// A listening peer. Dropping it ends it with all its connections.
pub struct Peer {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Peer {
    /// Answers each request as `behave` says.
    pub async fn start(behave: impl Fn(&Frame) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (count, token, behave) = (Arc::clone(&connections), stop.clone(), Arc::new(behave));
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = token.run_until_cancelled(listener.accept()).await {
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let (behave, token) = (Arc::clone(&behave), token.clone());
                tokio::spawn(async move { token.run_until_cancelled(talk(stream, connection, &*behave)).await });
            }
        });
        Self { address, connections, stop }
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn talk(mut stream: TcpStream, connection: usize, behave: &(impl Fn(&Frame) -> Reply + Send + Sync)) {
    stream.set_nodelay(true).unwrap();
    for number in 0.. {
        let mut bytes = vec![0; 6];
        if stream.read_exact(&mut bytes).await.is_err() {
            return;
        }
        let mut rest = vec![0; u16::from_be_bytes([bytes[4], bytes[5]]).into()];
        if stream.read_exact(&mut rest).await.is_err() {
            return;
        }
        bytes.extend(rest);
        let sent = match behave(&Frame { bytes, connection, number }) {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await,
            Reply::Pieces(first, pause, second) => {
                stream.write_all(&first).await.ok();
                tokio::time::sleep(pause).await;
                stream.write_all(&second).await
            }
            Reply::Silence => Ok(()),
            Reply::Close => return,
            Reply::BytesAndClose(bytes) => {
                stream.write_all(&bytes).await.ok();
                return;
            }
            Reply::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
