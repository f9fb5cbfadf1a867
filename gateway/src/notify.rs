//! What the service manager is told (sd_notify(3)): that the gateway is ready, stops, and that its loops turn.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything. With `WATCHDOG_USEC` a datagram goes out three times
//! within that time, for as long as no loop hangs; then the manager ends the process and starts it anew. That the store
//! refuses is no reason: a full disk is not mended by a restart.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::Overview;

/// A way to the service manager.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    /// The one of the environment, where there is one.
    pub fn of_environment() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        match Self::at(name.as_bytes()) {
            Ok(manager) => Some(manager),
            Err(error) => {
                tracing::warn!(%error, "the service manager can't be told anything (NOTIFY_SOCKET)");
                None
            }
        }
    }

    /// At a path, or with `@` in front at an abstract name.
    fn at(name: &[u8]) -> io::Result<Self> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that doesn't read must not hold anything up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Tells it: lines of `NAME=value`.
    pub fn tell(&self, lines: &str) {
        if let Err(error) = self.socket.send_to_addr(lines.as_bytes(), &self.address) {
            tracing::debug!(%error, lines, "the service manager was not told");
        }
    }
}

/// The listeners serve and the store accepts.
pub fn ready() {
    tell("READY=1\nSTATUS=running");
}

/// The stop has begun.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(lines: &str) {
    if let Some(manager) = Manager::of_environment() {
        manager.tell(lines);
    }
}

/// How often the manager wants to hear of us; `None` when it doesn't.
fn interval(usec: Option<String>, of_pid: Option<String>, pid: u32) -> Option<Duration> {
    let ours = of_pid.is_none_or(|of| of.parse() == Ok(pid));
    let micros: u64 = usec?.parse().ok().filter(|micros| *micros > 0 && ours)?;
    Some(Duration::from_micros(micros) / 3)
}

/// Feeds the manager's watchdog until `stop` is cancelled, while no loop hangs.
pub async fn feed(overview: Arc<Overview>, stop: CancellationToken) {
    let variable = |name| std::env::var(name).ok();
    let every = interval(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
    let (Some(every), Some(manager)) = (every, Manager::of_environment()) else { return };
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    let mut said = false;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let stuck = overview.stuck();
        if stuck.is_empty() {
            said = false;
            manager.tell("WATCHDOG=1");
        } else if !said {
            said = true;
            let words: Vec<String> = stuck.into_iter().map(|(_, words)| words).collect();
            let words = words.join("; ");
            tracing::error!(words, "the service manager's watchdog is not fed any more");
            manager.tell(&format!("STATUS={words}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_what_it_is_told_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@fieldgate-{}", std::process::id());
        let abstracted = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstracted).unwrap(), name),
        ];
        for (heard, name) in sockets {
            Manager::at(name.as_bytes()).unwrap().tell("READY=1");
            let mut bytes = [0; 64];
            heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let count = heard.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"READY=1", "{name}");
        }
        // Nobody there: said in the log alone.
        Manager::at(folder.path().join("nobody").as_os_str().as_bytes()).unwrap().tell("READY=1");
    }

    #[test]
    fn a_watchdog_is_fed_three_times_within_its_time_where_it_is_ours() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(interval(text("30000000"), None, 7), Some(Duration::from_secs(10)));
        assert_eq!(interval(text("30000000"), text("7"), 7), Some(Duration::from_secs(10)));
        assert_eq!(interval(text("30000000"), text("8"), 7), None);
        assert_eq!(interval(text("0"), None, 7), None);
        assert_eq!(interval(text("soon"), None, 7), None);
        assert_eq!(interval(None, None, 7), None);
    }
}
