//! A TCP relay that can be cut, stalled and mended.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Whole,
    /// Connections end, new ones are closed at once.
    Cut,
    /// Connections stay and are accepted, and nothing passes.
    Stalled,
}

/// A running relay; it ends when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free loopback port and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        // Holds one value: nobody waits.
        let (line, watched) = watch::channel(Line::Whole);
        let task = tokio::spawn(run(listener, target, watched));
        Ok(Self { address, line, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and closes new ones at once.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Keeps connections open, accepts new ones, and passes nothing.
    pub fn stall(&self) {
        self.line.send_replace(Line::Stalled);
    }

    /// Passes everything again; what was held back by a stall first.
    pub fn mend(&self) {
        self.line.send_replace(Line::Whole);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, target: SocketAddr, mut line: watch::Receiver<Line>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted && *line.borrow() != Line::Cut {
                    connections.spawn(connection(near, target, line.clone()));
                }
            }
            changed = line.changed() => {
                if changed.is_err() {
                    return;
                }
                if *line.borrow_and_update() == Line::Cut {
                    connections.shutdown().await;
                }
            }
        }
    }
}

async fn connection(near: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    let Some(()) = whole(&mut line).await else { return };
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Without it each small packet waits for the acknowledgement of the one before.
    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let (up, down) = (pass(near_read, far_write, line.clone()), pass(far_read, near_write, line));
    // Either end closing closes both: half-open connections are no part of these tests.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let Some(()) = whole(&mut line).await else { return };
        let written = match buffer.get(..count) {
            Some(bytes) => to.write_all(bytes).await,
            None => return,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Waits for a whole line; `None` when the relay is gone.
async fn whole(line: &mut watch::Receiver<Line>) -> Option<()> {
    line.wait_for(|line| *line == Line::Whole).await.ok().map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// An echo server and a relay before it.
    async fn echo() -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        Relay::start(target).await.unwrap()
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && stream.read(&mut byte).await.is_ok_and(|count| count == 1)
    }

    #[tokio::test]
    async fn cuts_and_mends() {
        let relay = echo().await;
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        relay.cut();
        assert!(!answers(&mut stream).await, "a cut connection ends");
        let mut refused = TcpStream::connect(relay.address()).await.unwrap();
        assert!(!answers(&mut refused).await, "a new one is closed");
        relay.mend();
        let mut again = TcpStream::connect(relay.address()).await.unwrap();
        assert!(answers(&mut again).await);
    }

    #[tokio::test]
    async fn a_stall_holds_back_and_keeps_the_connection() {
        let relay = echo().await;
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        relay.stall();
        assert!(timeout(Duration::from_millis(200), answers(&mut stream)).await.is_err());
        relay.mend();
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "what was held back comes");
    }
}
