//! A TCP relay that can be cut: the line between the gateway and the cloud.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A running relay; it ends when dropped.
pub struct Relay {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a free loopback port and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (whole, watched) = watch::channel(true);
        let task = tokio::spawn(run(listener, target, watched));
        Ok(Self { address, whole, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and refuses new ones.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, target: SocketAddr, mut whole: watch::Receiver<bool>) {
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                if *whole.borrow() {
                    lines.spawn(pass(near, target));
                }
            }
            changed = whole.changed() => {
                if changed.is_err() {
                    return;
                }
                if !*whole.borrow_and_update() {
                    lines.shutdown().await;
                }
            }
        }
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let nodelay = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    if let Err(error) = nodelay {
        tracing::debug!(%error, "the relay can't set TCP_NODELAY");
    }
    if let Err(error) = copy_bidirectional(&mut near, &mut far).await {
        tracing::debug!(%error, "a relayed connection ended");
    }
}
