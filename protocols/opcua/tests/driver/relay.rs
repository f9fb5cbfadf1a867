//! A TCP relay that a test can cut, or make swallow everything.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub struct Relay {
    pub address: SocketAddr,
    mute: watch::Sender<bool>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accept: AbortHandle,
}

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mute, muted) = watch::channel(false);
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let set = Arc::clone(&connections);
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(target).await else { continue };
                let (client, server) = (client.into_split(), server.into_split());
                let mut set = set.lock().unwrap();
                set.spawn(copy(client.0, server.1, muted.clone()));
                set.spawn(copy(server.0, client.1, muted.clone()));
            }
        });
        Self { address, mute, connections, accept: accept.abort_handle() }
    }

    pub fn endpoint(&self) -> String {
        format!("opc.tcp://{}/", self.address)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }

    /// Swallows everything, and leaves connections open, as a dead switch does.
    pub fn mute(&self, mute: bool) {
        self.mute.send_replace(mute);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn copy(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, muted: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !*muted.borrow() && to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}
