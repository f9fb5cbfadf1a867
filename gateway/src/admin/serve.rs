//! The two doors: the admin address and admin.sock.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api;
use super::overview::Overview;

/// Name of the socket in the data directory.
pub const SOCKET: &str = "admin.sock";

/// Bound, not yet served.
pub struct Doors {
    tcp: TcpListener,
    unix: UnixListener,
    path: PathBuf,
}

impl Doors {
    /// Binds both. A socket file that a crash left behind is replaced: the directory lock is ours.
    pub async fn bind(listen: SocketAddr, data_dir: &Path) -> io::Result<Self> {
        let say = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let tcp = TcpListener::bind(listen).await.map_err(say(format!("can't listen on {listen} ([admin] listen)")))?;
        let path = data_dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(say(path.display().to_string())(error));
            }
            _ => {}
        }
        // Linux allows 107 bytes for the path of a socket.
        let unix = UnixListener::bind(&path)
            .map_err(say(format!("can't listen on `{}` (at most 107 bytes long)", path.display())))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { tcp, unix, path })
    }

    /// Where the admin address is, with its port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop` is cancelled.
    pub fn serve(self, overview: Arc<Overview>, tasks: &TaskTracker, stop: &CancellationToken) {
        let Self { tcp, unix, path } = self;
        let (reading, all) = (api::reading(Arc::clone(&overview)), api::all(overview));
        let (tcp_stop, unix_stop) = (stop.clone().cancelled_owned(), stop.clone().cancelled_owned());
        tasks.spawn(async move {
            log_end(axum::serve(tcp, reading).with_graceful_shutdown(tcp_stop).await);
        });
        tasks.spawn(async move {
            log_end(axum::serve(unix, all).with_graceful_shutdown(unix_stop).await);
            log_end(std::fs::remove_file(path));
        });
    }
}

fn log_end(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the admin API ended");
    }
}
