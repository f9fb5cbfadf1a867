//! What the evidence means, in words, and what to do next. No IO.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use fieldgate_types::UnixMillis;
use serde::Serialize;

use super::ends_soon;
use crate::admin::Status;
use crate::cli::show::{bytes, date};

/// Lives of the gateway's own certificates, as the CA makes them.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 86_400);
const ISSUING_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Less than this is free, or a twentieth of all: the disk is nearly full.
const LITTLE: u64 = 256 << 20;
/// Less than so many hours until the buffer is full.
const FEW_HOURS: f64 = 4.0;
/// Who was refused is named so often.
const NAMED: usize = 5;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Problem,
    /// Something will not work.
    Warning,
    /// Worth knowing.
    Notice,
}

impl Severity {
    /// Whether `diag` ends with exit code 1.
    pub fn is_wrong(self) -> bool {
        self != Self::Notice
    }

    /// Its word, seven letters wide.
    pub fn word(self) -> &'static str {
        match self {
            Self::Problem => "PROBLEM",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE ",
        }
    }
}

/// Something that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// One of a closed set of words, for programs.
    pub code: &'static str,
    /// What is so.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// The file system of the data directory.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Bytes that are free to the gateway.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// Who was refused, and how often for that reason.
#[derive(Debug)]
pub struct Refused {
    /// A device, a token, or an address.
    pub who: String,
    /// In words.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// All that was gathered.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Why there is no configuration.
    pub configuration: Option<String>,
    /// Why the gateway or its data directory can't be asked.
    pub unreadable: Option<String>,
    /// What time it is, as far as that is known.
    pub now: UnixMillis,
    /// The clock is not earlier than this program.
    pub clock_right: bool,
    /// Where its data are.
    pub data_dir: PathBuf,
    /// A gateway ran there once.
    pub begun: bool,
    /// `[buffer] max_size`
    pub max_size: u64,
    /// What queue.db may take now.
    pub capacity: Option<u64>,
    /// Files that the limits of the configuration may take.
    pub files_needed: u64,
    /// Files that the running gateway may open.
    pub files_allowed: Option<u64>,
    /// The disk.
    pub disk: Option<Disk>,
    /// What the running gateway says.
    pub status: Option<Status>,
    /// Records kept aside, by reason.
    pub quarantine: BTreeMap<String, usize>,
    /// Who was refused lately, the most frequent first.
    pub refused: Vec<Refused>,
    /// Without a running gateway: when its issuing CA ends.
    pub issuing_not_after: Option<UnixMillis>,
    /// Without a running gateway: what of the certificates somebody should see to.
    pub certificates: Vec<String>,
}

/// The findings, the worst first.
pub fn findings(evidence: &Evidence) -> Vec<Finding> {
    let mut list = List::default();
    if let Some(words) = &evidence.configuration {
        list.add(Severity::Problem, "configuration", words.clone(), "`fieldgate check` shows all of it");
        return list.0;
    }
    if let Some(words) = &evidence.unreadable {
        let next = "run this as the gateway's own user or as root; `ls -l` shows whose the files are";
        list.add(Severity::Problem, "unreadable", words.clone(), next);
    }
    list.running(evidence);
    list.clock(evidence);
    list.room(evidence);
    if let Some(status) = &evidence.status {
        list.store(evidence, status);
        list.upstream(status);
        list.links(status);
        list.server_certificate(evidence, status);
    }
    list.issuing_ca(evidence);
    for words in &evidence.certificates {
        list.add(Severity::Warning, "certificate", words.clone(), "as it says; `fieldgate ca show` has the CA's");
    }
    list.files(evidence);
    list.quarantine(evidence);
    list.refused(evidence);
    list.0.sort_by_key(|finding| finding.severity);
    list.0
}

#[derive(Default)]
struct List(Vec<Finding>);

impl List {
    fn add(&mut self, severity: Severity, code: &'static str, what: String, next: impl Into<String>) {
        self.0.push(Finding { severity, code, what, next: next.into() });
    }

    fn running(&mut self, evidence: &Evidence) {
        if evidence.status.is_some() || evidence.unreadable.is_some() {
            return;
        }
        let dir = evidence.data_dir.display();
        let what = if evidence.begun {
            format!("no gateway runs on `{dir}`")
        } else {
            format!("no gateway runs on `{dir}`, nor ever has")
        };
        let next = "start it: `fieldgate run`, or `systemctl start fieldgate`; if it ends again, its last log lines say why (`journalctl -u fieldgate -n 50`)";
        self.add(Severity::Problem, "not-running", what, next);
    }

    fn clock(&mut self, evidence: &Evidence) {
        if !evidence.clock_right {
            let what = format!("the clock says {}, which is before this program was made", date(evidence.now));
            let next = "set it: `timedatectl set-ntp true`, or `date -s`; until then time stamps are marked, nothing is refused for it";
            self.add(Severity::Problem, "clock-behind", what, next);
        }
    }

    fn room(&mut self, evidence: &Evidence) {
        let Some(Disk { free, total }) = evidence.disk else { return };
        if free < LITTLE.min(total / 4) || free < total / 20 {
            let what =
                format!("the disk of the data directory is nearly full: {} of {} are free", bytes(free), bytes(total));
            let next = "make room: `journalctl --vacuum-size=100M`, `du -xh / | sort -h | tail`; or a smaller [buffer] max_size";
            self.add(Severity::Warning, "disk-nearly-full", what, next);
        }
        if let Some(capacity) = evidence.capacity.filter(|capacity| *capacity < evidence.max_size / 10 * 9) {
            let what = format!(
                "the buffer is smaller than configured: the disk leaves it {} of {}",
                bytes(capacity),
                bytes(evidence.max_size)
            );
            let next = "make room on the disk, or lower [buffer] max_size to what it may count on";
            self.add(Severity::Warning, "buffer-shrunk", what, next);
        }
    }

    fn store(&mut self, evidence: &Evidence, status: &Status) {
        let buffer = &status.buffer;
        if let Some(reason) = &buffer.reason {
            let what = format!("the store takes no messages, so nothing is acknowledged: {reason}");
            let next =
                "it goes on by itself once the cause is gone: make room, or look for disk errors with `dmesg | tail`";
            self.add(Severity::Problem, "store-refuses", what, next);
        }
        if let Some(kept) = &buffer.set_aside {
            let what = format!("the buffer was damaged; its file is kept as `{}`", kept.display());
            let next = "`fieldgate buffer status` says what was lost (`damaged-file`); check the disk, then remove that file and restart";
            self.add(Severity::Warning, "buffer-damaged", what, next);
        }
        let full = evidence.capacity.is_some_and(|capacity| buffer.bytes >= capacity / 10 * 9);
        let soon = buffer.left_hours.is_some_and(|left| left < FEW_HOURS);
        if full {
            let what = format!("the buffer is full: {} messages, {}", buffer.messages, bytes(buffer.bytes));
            let next =
                "the oldest give way, or senders wait ([buffer] overflow): bring the upstream back, or raise max_size";
            self.add(Severity::Problem, "buffer-full", what, next);
        } else if soon && status.upstream.as_ref().is_some_and(|upstream| upstream.state != "up") {
            let left = buffer.left_hours.unwrap_or_default();
            let what = format!("the buffer is full in {left:.1} hours at the present rate");
            self.add(Severity::Warning, "buffer-ends", what, "bring the upstream back, or raise [buffer] max_size");
        }
        // What has no finding of its own: loops that hang, certificates that end.
        let own = ["the buffer ", "the upstream ", "the clock ", "the server certificate "];
        let link = |words: &str| status.links.iter().any(|link| words.starts_with(&link.link));
        for words in
            status.problems.iter().filter(|words| !own.iter().any(|own| words.starts_with(own)) && !link(words))
        {
            self.add(Severity::Warning, "status", words.clone(), "as it says");
        }
    }

    fn upstream(&mut self, status: &Status) {
        let Some(upstream) = status.upstream.as_ref().filter(|upstream| upstream.state != "up") else { return };
        let why = upstream.last_error.as_deref().unwrap_or("not connected yet");
        let what = format!(
            "the upstream is not connected, since {}: {why}; {} messages wait",
            date(upstream.since),
            status.buffer.messages
        );
        let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
        let (code, next) = if has(&["refuses the connection"]) {
            (
                "upstream-refuses",
                "the upstream knows why: its log names this client; then `username`, `password_file`, `cert` or `client_id` in [upstream], which are read anew at each try",
            )
        } else if has(&["certificate", "TLS"]) {
            (
                "upstream-tls",
                "`ca` in [upstream] must hold the CA of the upstream's certificate, and `url` a name that stands in it; `openssl s_client -connect HOST:PORT` shows what it presents",
            )
        } else if has(&["unknown host"]) {
            ("upstream-name", "check `url` in [upstream], and this machine's name server: `getent hosts HOST`")
        } else if has(&["can't reach", "no answer"]) {
            (
                "upstream-unreachable",
                "is there a route and no firewall: `ip route`, `nc -vz HOST PORT` from this machine; it is tried again by itself",
            )
        } else {
            ("upstream-down", "it is tried again by itself; if that lasts, look at the upstream's own log")
        };
        self.add(Severity::Problem, code, what, next);
    }

    fn links(&mut self, status: &Status) {
        for link in status.links.iter().filter(|link| link.state != "up") {
            let why = link.last_error.as_deref().unwrap_or("not connected yet");
            let what = format!("the link {} ({}) is {}: {why}", link.link, link.protocol, link.state);
            let (code, next) = match (link.state.as_str(), link.protocol.as_str()) {
                ("refused", "opcua") => (
                    "link-refused",
                    "the server and this gateway must trust each other: `fieldgate opcua trust list` and `accept`, `fieldgate opcua cert export` for the server; then user and password",
                ),
                ("refused", _) => ("link-refused", "its certificate or login is refused: see the reason"),
                (_, "opcua") => (
                    "plc-unreachable",
                    "is it switched on and in this network: `nc -vz HOST 4840`; `fieldgate opcua browse ENDPOINT` tries by itself",
                ),
                _ => (
                    "plc-unreachable",
                    "is it switched on and in this network: `nc -vz HOST 502`, the serial line's parity and rate; many PLCs allow few connections at a time",
                ),
            };
            self.add(Severity::Problem, code, what, next);
        }
        for link in status.links.iter().filter(|link| link.state == "up") {
            let Some((first, others)) = link.notes.split_first() else { continue };
            let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
            let what = format!("the link {} is not all that was asked for: {first}{more}", link.link);
            let next =
                "`fieldgate status` tells all; what can't be had otherwise can be asked for less in the configuration";
            self.add(Severity::Notice, "link-otherwise", what, next);
        }
        for link in status.links.iter().filter(|link| link.state == "up" && link.failures > link.answers / 10) {
            let what = format!(
                "the link {} fails often: {} of {} requests",
                link.link,
                link.failures,
                link.answers + link.failures
            );
            let next = "`fieldgate status` names units that are offline; on serial lines look at cable, termination and `pause`";
            self.add(Severity::Notice, "link-fails-often", what, next);
        }
    }

    fn server_certificate(&mut self, evidence: &Evidence, status: &Status) {
        let (end, now) = (status.certificates.server_not_after, evidence.now);
        if now >= end {
            let what = format!("the server certificate ended at {}: devices refuse to connect", date(end));
            self.add(
                Severity::Problem,
                "server-certificate",
                what,
                "set the clock if it is wrong; else restart the gateway, and see what the log says of certificates",
            );
        } else if ends_soon(end, now, SERVER_LIFE) {
            let what = format!("the server certificate ends at {} and was not replaced", date(end));
            self.add(
                Severity::Warning,
                "server-certificate",
                what,
                "the log says why: a clock in doubt, or a CA that ends (`fieldgate ca show`)",
            );
        }
    }

    fn issuing_ca(&mut self, evidence: &Evidence) {
        let of_status = evidence.status.as_ref().map(|status| status.certificates.issuing_not_after);
        let Some(end) = of_status.or(evidence.issuing_not_after) else { return };
        let now = evidence.now;
        if now >= end {
            let what = format!("the issuing CA ended at {}: no certificate of it is accepted", date(end));
            self.add(
                Severity::Problem,
                "issuing-ca",
                what,
                "set the clock if it is wrong; else `fieldgate ca rotate`, then new certificates for all devices",
            );
        } else if ends_soon(end, now, ISSUING_LIFE) {
            let what = format!("the issuing CA ends at {}", date(end));
            self.add(
                Severity::Warning,
                "issuing-ca",
                what,
                "`fieldgate ca rotate`; with `--root-key FILE` where the root key is kept elsewhere",
            );
        }
    }

    fn files(&mut self, evidence: &Evidence) {
        let needed = evidence.files_needed;
        if let Some(allowed) = evidence.files_allowed.filter(|allowed| *allowed < needed) {
            let what = format!("the gateway may open {allowed} files, its limits may take {needed}");
            let next = "LimitNOFILE=65536 in its unit (`systemctl edit fieldgate`), or `ulimit -Hn`; then restart it";
            self.add(Severity::Warning, "file-limit", what, next);
        }
    }

    fn quarantine(&mut self, evidence: &Evidence) {
        let count: usize = evidence.quarantine.values().sum();
        if count > 0 {
            let reasons: Vec<String> =
                evidence.quarantine.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
            let what = format!("{count} or more messages are in quarantine: {}", reasons.join(", "));
            let next =
                "`fieldgate buffer quarantine list`; once the upstream's rights are mended `retry --all`, or `drop`";
            self.add(Severity::Warning, "quarantine", what, next);
        }
    }

    fn refused(&mut self, evidence: &Evidence) {
        for Refused { who, reason, count } in evidence.refused.iter().take(NAMED) {
            let what = format!("{who} was refused {count} times in the last day: {reason}");
            let next = "if it should be let in, the reason says how; `fieldgate device show ID`, `fieldgate audit`";
            self.add(Severity::Notice, "refused", what, next);
        }
        if evidence.refused.len() > NAMED {
            let what = format!("{} more were refused in the last day", evidence.refused.len() - NAMED);
            self.add(Severity::Notice, "refused", what, "`fieldgate audit --lines 1000`");
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldgate_types::DeviceId;

    use super::*;
    use crate::admin::overview::{Buffer, Certificates, Leaves, Link, Upstream};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn status() -> Status {
        Status {
            gateway: DeviceId::new("line-1").unwrap(),
            version: "1".to_owned(),
            started: NOW,
            now: NOW,
            problems: Vec::new(),
            waiting: Vec::new(),
            upstream: None,
            buffer: Buffer {
                messages: 0,
                bytes: 0,
                file_bytes: 0,
                holds_hours: None,
                left_hours: None,
                set_aside: None,
                oldest: None,
                healthy: true,
                reason: None,
            },
            broker: Leaves {
                listen: Vec::new(),
                users_tls: Vec::new(),
                plain: Vec::new(),
                websocket: Vec::new(),
                connections: 0,
                refused: 0,
            },
            links: Vec::new(),
            devices: Vec::new(),
            open_commands: 0,
            certificates: Certificates {
                server_not_after: NOW.plus(SERVER_LIFE),
                issuing_not_after: NOW.plus(ISSUING_LIFE),
            },
        }
    }

    fn sound() -> Evidence {
        Evidence {
            now: NOW,
            clock_right: true,
            begun: true,
            max_size: 1 << 30,
            capacity: Some(1 << 30),
            files_needed: 6_000,
            files_allowed: Some(65_536),
            disk: Some(Disk { free: 50 << 30, total: 100 << 30 }),
            status: Some(status()),
            ..Evidence::default()
        }
    }

    fn with_status(change: impl FnOnce(&mut Status)) -> Evidence {
        let mut status = status();
        change(&mut status);
        Evidence { status: Some(status), ..sound() }
    }

    fn with_upstream(why: &str) -> Evidence {
        with_status(|status| {
            status.upstream = Some(Upstream {
                state: "down".to_owned(),
                since: NOW,
                last_error: Some(why.to_owned()),
                connects: 0,
                published: 0,
                acknowledged: 0,
                in_flight: 0,
                quarantined: 0,
                commands: 0,
            });
        })
    }

    fn with_link(protocol: &str, state: &str) -> Evidence {
        with_status(|status| {
            status.links.push(Link {
                link: "tcp://192.0.2.9:502".to_owned(),
                protocol: protocol.to_owned(),
                state: state.to_owned(),
                last_error: Some("no route".to_owned()),
                connects: 0,
                answers: 0,
                failures: 9,
                overruns: 0,
                notes: Vec::new(),
            });
        })
    }

    fn with_note(note: &str) -> Evidence {
        let mut evidence = with_link("opcua", "up");
        for link in evidence.status.iter_mut().flat_map(|status| &mut status.links) {
            (link.failures, link.notes) = (0, vec![note.to_owned()]);
        }
        evidence
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(findings(&sound()).iter().map(|f| f.code).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn each_trouble_is_found_alone_and_says_what_to_do() {
        let day = Duration::from_secs(86_400);
        let cases: Vec<(&str, Evidence)> = vec![
            ("configuration", Evidence { configuration: Some("no".to_owned()), ..sound() }),
            ("unreadable", Evidence { unreadable: Some("no".to_owned()), ..sound() }),
            ("not-running", Evidence { status: None, ..sound() }),
            ("clock-behind", Evidence { clock_right: false, ..sound() }),
            ("disk-nearly-full", Evidence { disk: Some(Disk { free: 1 << 20, total: 10 << 30 }), ..sound() }),
            ("buffer-shrunk", Evidence { capacity: Some(1 << 29), ..sound() }),
            ("store-refuses", with_status(|s| s.buffer.reason = Some("full".to_owned()))),
            ("buffer-damaged", with_status(|s| s.buffer.set_aside = Some("q".into()))),
            ("buffer-full", with_status(|s| s.buffer.bytes = 1 << 30)),
            ("upstream-refuses", with_upstream("the upstream refuses the connection: not authorized")),
            ("upstream-tls", with_upstream("the certificate of `x` is not trusted")),
            ("upstream-name", with_upstream("unknown host `x`")),
            ("upstream-unreachable", with_upstream("can't reach x:1: refused")),
            ("upstream-down", with_upstream("nothing was heard for 45s")),
            ("plc-unreachable", with_link("modbus", "down")),
            ("plc-unreachable", with_link("opcua", "connecting")),
            ("link-refused", with_link("opcua", "refused")),
            ("link-fails-often", with_link("modbus", "up")),
            ("link-otherwise", with_note("boiler-7: 4 variables below `i=85` are left out")),
            ("server-certificate", with_status(|s| s.certificates.server_not_after = NOW)),
            ("server-certificate", with_status(|s| s.certificates.server_not_after = NOW.plus(day))),
            ("issuing-ca", with_status(|s| s.certificates.issuing_not_after = NOW)),
            ("issuing-ca", with_status(|s| s.certificates.issuing_not_after = NOW.plus(day * 300))),
            ("certificate", Evidence { certificates: vec!["x".to_owned()], ..sound() }),
            ("status", with_status(|s| s.problems.push("the link x has made no turn for 60 s".to_owned()))),
            ("file-limit", Evidence { files_allowed: Some(1_024), ..sound() }),
            ("quarantine", Evidence { quarantine: BTreeMap::from([("not authorized".to_owned(), 3)]), ..sound() }),
        ];
        for (code, evidence) in cases {
            let found = findings(&evidence);
            let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
            assert_eq!(codes, [code], "{found:?}");
            assert!(!found[0].what.is_empty() && !found[0].next.is_empty());
        }
    }

    #[test]
    fn the_worst_comes_first_and_refusals_alone_are_no_fault_of_the_gateway() {
        let refused = |n: u64| Refused { who: format!("press-{n}"), reason: "revoked".to_owned(), count: n };
        let refusals = Evidence { refused: (1..=7).map(refused).collect(), ..sound() };
        let found = findings(&refusals);
        assert_eq!(found.len(), NAMED + 1);
        assert!(found.iter().all(|finding| finding.code == "refused" && !finding.severity.is_wrong()));
        let both = Evidence { clock_right: false, files_allowed: Some(1), ..refusals };
        let severities: Vec<_> = findings(&both).iter().map(|finding| finding.severity).collect();
        assert_eq!(severities[..3], [Severity::Problem, Severity::Warning, Severity::Notice]);
    }
}
