//! Threads for TLS handshakes, of lower priority than everything else: when a thousand devices come back at once, who is
//! connected is served first.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much nicer than the rest (`nice(2)`): about a tenth of the time when both want it.
const NICER: i32 = 10;

/// They end when this goes.
pub struct HandshakeThreads {
    runtime: Option<Runtime>,
}

impl HandshakeThreads {
    /// One for each processor.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let lower = || {
            // On Linux this is about the calling thread alone.
            if let Err(error) = rustix::process::nice(NICER) {
                tracing::warn!(%error, "handshakes keep the priority of the rest");
            }
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("handshake")
            .on_thread_start(lower)
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// To spawn on.
    pub fn handle(&self) -> Option<Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for HandshakeThreads {
    fn drop(&mut self) {
        // Dropped on a thread of the other runtime, which must not wait for these.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
