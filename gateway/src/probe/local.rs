//! What can be seen on this machine: files, disk, addresses, limits, the clock.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fieldgate_certs::life;
use fieldgate_types::{Clock, Size, SystemClock, UnixMillis};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::{Finding, Running};
use crate::config::Config;
use crate::moment::date;

/// A certificate that ends sooner is warned of, in milliseconds.
const SOON: u64 = 30 * 86_400_000;

/// Data directory, disk, every file that the configuration names, open files, clock.
pub(super) fn files(config: &Config) -> Vec<Finding> {
    let clock = SystemClock::new();
    let mut findings = vec![folder(&config.data_dir), disk(config)];
    for path in &config.files {
        findings.extend(file(path, clock.now()));
    }
    findings.push(match few_files(config) {
        Some(words) => Finding::warning("broker.limits.connections", "open files", words),
        None => Finding::ok("broker.limits.connections", "open files", "enough are allowed"),
    });
    findings.push(if clock.plausible() {
        Finding::ok("gateway", "clock", date(clock.now()))
    } else {
        let words = "is earlier than this program; time stamps are marked until it is set (timedatectl)";
        Finding::warning("gateway", "clock", words)
    });
    findings
}

fn folder(path: &Path) -> Finding {
    let (key, what) = ("gateway.data_dir", &path.display());
    let data = match std::fs::metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = existing(path);
            return match rustix::fs::access(&above, rustix::fs::Access::WRITE_OK) {
                Ok(()) => Finding::ok(key, what, "isn't there yet, the first start makes it"),
                Err(error) => {
                    Finding::error(key, what, format_args!("can't be made in `{}`: {error}", above.display()))
                }
            };
        }
        Err(error) => return Finding::error(key, what, format_args!("can't be looked at: {error}")),
    };
    let us = rustix::process::geteuid().as_raw();
    if !data.is_dir() {
        return Finding::error(key, what, "is not a folder");
    }
    if us != 0 && data.uid() != us {
        return Finding::error(
            key,
            what,
            format_args!("belongs to user {}, this is user {us}: chown -R {us}", data.uid()),
        );
    }
    if data.permissions().mode() & 0o077 != 0 {
        return Finding::warning(key, what, format_args!("others may look into it: chmod 700 {what}"));
    }
    Finding::ok(key, what, "is ours alone")
}

/// The folder itself, or what there is above it.
fn existing(path: &Path) -> PathBuf {
    let there = path.ancestors().find(|path| path.exists() && *path != Path::new(""));
    there.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn disk(config: &Config) -> Finding {
    let (key, wanted) = ("buffer.max_size", config.buffer.max_size.bytes());
    let place = existing(&config.data_dir);
    match rustix::fs::statvfs(&place) {
        Err(error) => Finding::warning(key, place.display(), format_args!("free space is unknown: {error}")),
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let taken = std::fs::metadata(config.data_dir.join("queue.db")).map_or(0, |data| data.len());
            let shown = |bytes: u64| crate::moment::bytes(bytes);
            if free + taken >= wanted {
                Finding::ok(key, Size(wanted), format_args!("{} are free", shown(free)))
            } else {
                let words = format_args!("only {} are free: the buffer will be smaller", shown(free + taken));
                Finding::warning(key, Size(wanted), words)
            }
        }
    }
}

fn file(path: &Path, now: UnixMillis) -> Vec<Finding> {
    let (key, what) = ("file", &path.display());
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return vec![Finding::error(key, what, format_args!("can't be read: {error}"))],
    };
    let text = String::from_utf8_lossy(&bytes);
    let secret = text.contains("PRIVATE KEY-----") || text.starts_with("$argon2") || is_password(path);
    let open = std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o077 != 0);
    let mut findings = Vec::new();
    if secret && open {
        findings.push(Finding::warning(key, what, format_args!("is a secret that others may read: chmod 600 {what}")));
    }
    for life in life::of_pem(&bytes) {
        let (begins, ends) = (life.not_before, life.not_after);
        if ends <= now {
            findings.push(Finding::error(key, what, format_args!("holds a certificate that ended at {}", date(ends))));
        } else if begins > now {
            let words = format_args!("holds a certificate that is good from {} on; is the clock right?", date(begins));
            findings.push(Finding::error(key, what, words));
        } else if ends.0 - now.0 < SOON {
            findings.push(Finding::warning(key, what, format_args!("holds a certificate that ends at {}", date(ends))));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(key, what, "can be read"));
    }
    findings
}

/// By what files are called that hold one.
fn is_password(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "password" || ending == "hash")
}

/// Each connection is an open file; `run` raises the soft limit to the hard one.
pub fn few_files(config: &Config) -> Option<String> {
    let limits = &config.broker.limits;
    // The rest: the store, the log, links, listeners.
    let needed = (limits.connections + limits.pending_sockets) as u64 + 100;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let allowed = allowed.filter(|allowed| *allowed < needed)?;
    Some(format!(
        "{allowed} open files are allowed, {needed} may be needed; raise the limit (LimitNOFILE=, ulimit -Hn)"
    ))
}

/// An address that is to be listened on.
pub(super) struct Address {
    key: &'static str,
    listen: SocketAddr,
    /// The gateway that runs here has it.
    ours: bool,
}

/// Every address of the configuration, but for those of the machine's choice.
pub(super) fn addresses(config: &Config, running: Option<&Running>) -> Vec<Address> {
    let lists = [
        ("broker.listen", &config.broker.listen),
        ("broker.users_tls", &config.broker.users_tls),
        ("broker.plain", &config.broker.plain),
        ("broker.websocket", &config.broker.websocket),
    ];
    let all = lists.into_iter().flat_map(|(key, list)| list.iter().map(move |address| (key, *address)));
    let all = all.chain(config.enrolment.map(|port| ("enrolment.listen", port.listen)));
    let all = all.chain([("admin.listen", config.admin.listen)]).filter(|(_, address)| address.port() != 0);
    let ours = |key: &str, address: &SocketAddr| {
        running.is_some_and(|running| match key {
            "admin.listen" => running.keeps_admin(),
            _ => running.keeps(key, &address.to_string()),
        })
    };
    all.map(|(key, listen)| Address { key, listen, ours: ours(key, &listen) }).collect()
}

impl Address {
    /// Binds it, without listening: nobody can connect meanwhile.
    pub(super) fn try_it(self) -> Finding {
        let Self { key, listen: address, ours } = self;
        if ours {
            return Finding::ok(key, address, "the gateway that runs here listens there");
        }
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let bound = socket(family, SocketType::STREAM, None).and_then(|socket| {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            bind(&socket, &address)
        });
        match bound {
            Ok(()) => Finding::ok(key, address, "is free"),
            Err(rustix::io::Errno::ADDRINUSE) => {
                let words =
                    format_args!("is in use by another program (ss -ltnp 'sport = :{}' shows it)", address.port());
                Finding::error(key, address, words)
            }
            Err(error) => Finding::error(key, address, format_args!("can't be listened on: {error}")),
        }
    }
}
