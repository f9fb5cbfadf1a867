//! The other side: a device that answers `GET level`, `SET level 5` in lines of text.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What it has besides `level`, and tells when it is asked.
pub const EXTRA: [&str; 2] = ["speed", "pressure"];

pub struct Device {
    pub address: String,
    task: Option<JoinHandle<()>>,
}

impl Device {
    pub async fn start(address: &str, level: f64) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let level = Arc::new(Mutex::new(level));
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, Arc::clone(&level)));
            }
        });
        Self { address, task: Some(task) }
    }

    /// Its connections end with it.
    pub async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

async fn serve(stream: TcpStream, level: Arc<Mutex<f64>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["LIST"] => format!("{}\n", EXTRA.join(" ")),
            ["GET", name] if EXTRA.contains(&name) => format!("{}\n", name.len()),
            ["GET", "level"] => format!("{}\n", level.lock().unwrap()),
            ["SET", "level", value] => {
                *level.lock().unwrap() = value.parse().unwrap();
                "OK\n".to_owned()
            }
            _ => "ERR\n".to_owned(),
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
