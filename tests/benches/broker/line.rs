//! A line to a cloud: away until it is opened, and as long as a measurement wants it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fieldgate_testkit::port;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Bytes on their way at most: 512 pieces of 64 KiB. Full: nothing more is read.
const PIECES: usize = 512;
const PIECE: usize = 64 << 10;

/// A listener that is there only while the line is open; each byte arrives `delay` after it was read.
pub struct Line {
    pub address: SocketAddr,
    target: SocketAddr,
    delay: Duration,
    open: Option<JoinHandle<()>>,
}

impl Line {
    pub fn new(target: SocketAddr, delay: Duration) -> anyhow::Result<Self> {
        Ok(Self { address: port::free_address()?, target, delay, open: None })
    }

    pub async fn open(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let (target, delay) = (self.target, self.delay);
        self.open = Some(tokio::spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                passing.spawn(pass(near, target, delay));
            }
        }));
        Ok(())
    }

    /// Ends its connections too.
    pub async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            // Cancelled, as asked.
            let _cancelled = open.await.is_err();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, delay: Duration) -> std::io::Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    if delay.is_zero() {
        return tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await.map(drop);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(later(near_in, far_out, delay), later(far_in, near_out, delay)).map(drop)
}

async fn later(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) -> std::io::Result<()> {
    let (put, mut take) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if from.read_buf(&mut buffer).await? == 0
                || put.send((Instant::now() + delay, buffer.split().freeze())).await.is_err()
            {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = take.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
