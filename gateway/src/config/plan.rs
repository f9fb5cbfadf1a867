//! What a reload does: the configuration that runs and the one that is wanted, compared part by part. Pure.
//!
//! | part | what happens |
//! |---|---|
//! | links | one that is the same goes on untouched; any change of a link, of a device or point on it, restarts that link alone |
//! | addresses of the broker | opened and closed one by one; connections stay |
//! | limits of the broker | for who connects from now on |
//! | users, groups, policies, maps, external CAs, pins | at once, for live sessions too |
//! | upstream, `replay`, `replay_rate` | the connection is restarted; what waits in the queue stays and goes by the new one |
//! | the rest of `[buffer]`, `[commands]`, `[certs]`, `names` | at once |
//! | `[enrolment]` | its port is opened, closed or moved |
//! | `[admin]` | with the next start of the process |
//! | `[gateway]` | never: that would be another gateway. Nothing of such a file is applied |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

use fieldgate_certs::ExternalTrust;
use fieldgate_types::{DeviceId, Setting};
use serde::{Deserialize, Serialize};

use super::Config;
use crate::southbound::drivers::{LinkConfig, LinkKey, links};

/// What becomes of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is as it was, and not touched.
    Kept,
    /// It is changed while it runs.
    Changed,
    /// It ends and begins again.
    Restarted,
    /// It begins.
    Added,
    /// It ends.
    Removed,
    /// It waits for the next start of the process.
    Waits,
    /// It can't be changed; nothing else is applied then.
    Refused,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Restarted => "restarted",
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Waits => "waits",
            Self::Refused => "refused",
        })
    }
}

/// What becomes of one part, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it stands in the configuration: `broker.listen`, `modbus`.
    pub key: String,
    /// Which, where there are several: an address, a name, a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// What becomes of it.
    pub change: Change,
    /// Why; nothing for what is kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, what, change, reason } = self;
        write!(f, "{change:<10} {key}")?;
        if let Some(what) = what {
            write!(f, " {what}")?;
        }
        if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
    }
}

/// The steps from one configuration to the next.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In the order of the documentation.
    pub steps: Vec<Step>,
    /// Links that go on untouched.
    pub kept_links: BTreeSet<LinkKey>,
    /// Users and other CAs' devices that are gone, or are known by something else now: their sessions end. Whether the id is
    /// known still.
    pub former: BTreeMap<DeviceId, bool>,
    /// Whether links change.
    pub links: bool,
    /// Whether the broker's addresses, web pages or limits change.
    pub broker: bool,
    /// Whether users, groups, policies, maps, or who has a certificate of others change.
    pub rights: bool,
    /// Whether the upstream connection changes, or how it replays.
    pub upstream: bool,
}

impl Plan {
    /// From what `gateway` runs with to what is wanted.
    pub fn between(old: &Config, new: &Config, gateway: &DeviceId) -> Self {
        let mut plan = Self::default();
        plan.gateway(old, new, gateway);
        plan.broker(old, new);
        plan.rights(old, new);
        plan.certificates(old, new);
        plan.upstream(old, new);
        plan.scalars(old, new);
        plan.links(old, new);
        plan
    }

    /// Steps that do something.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.change != Change::Kept)
    }

    /// Whether it does nothing.
    pub fn is_empty(&self) -> bool {
        self.changes().next().is_none()
    }

    /// What can't be changed.
    pub fn refused(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.change == Change::Refused)
    }

    /// What waits for the next start of the process.
    pub fn waits(&self) -> Vec<Step> {
        self.steps.iter().filter(|step| step.change == Change::Waits).cloned().collect()
    }

    fn step(&mut self, key: &str, what: Option<String>, change: Change, reason: impl Into<String>) {
        self.steps.push(Step { key: key.to_owned(), what, change, reason: reason.into() });
    }

    fn gateway(&mut self, old: &Config, new: &Config, gateway: &DeviceId) {
        if let Some(id) = new.id.as_ref().filter(|id| *id != gateway) {
            let reason = format!(
                "`{id}` is another gateway than `{gateway}`, which runs; a gateway of that id needs a data_dir of its own and `fieldgate run`"
            );
            self.step("gateway.id", None, Change::Refused, reason);
        }
        if new.data_dir != old.data_dir {
            let (wanted, running) = (new.data_dir.display(), old.data_dir.display());
            let reason = format!(
                "`{wanted}` is another folder than `{running}`, where this gateway runs; stop it, move the folder, and start it again"
            );
            self.step("gateway.data_dir", None, Change::Refused, reason);
        }
    }

    fn broker(&mut self, old: &Config, new: &Config) {
        let (old_broker, new_broker) = (&old.broker, &new.broker);
        let lists = [
            ("broker.listen", &old_broker.listen, &new_broker.listen),
            ("broker.users_tls", &old_broker.users_tls, &new_broker.users_tls),
            ("broker.plain", &old_broker.plain, &new_broker.plain),
            ("broker.websocket", &old_broker.websocket, &new_broker.websocket),
        ];
        for (key, before, after) in lists {
            let mut before = before.clone();
            for address in after {
                let stays = before.iter().position(|other| other == address).map(|at| before.remove(at)).is_some();
                self.broker |= !stays;
                self.step(key, Some(address.to_string()), if stays { Change::Kept } else { Change::Added }, "");
            }
            for address in before {
                self.broker = true;
                let reason = "connections that came in there stay until they end";
                self.step(key, Some(address.to_string()), Change::Removed, reason);
            }
        }
        if old_broker.websocket_origins != new_broker.websocket_origins {
            self.broker = true;
            self.keys(old, new, "broker.websocket_origins", Change::Changed, "for who connects from now on");
        }
        if old_broker.limits != new_broker.limits {
            self.broker = true;
            self.keys(old, new, "broker.limits.", Change::Changed, "for who connects from now on");
        }
        if old_broker.names != new_broker.names {
            self.keys(
                old,
                new,
                "broker.names",
                Change::Changed,
                "a new server certificate and other names for the admin address, no session is dropped",
            );
        }
    }

    fn rights(&mut self, old: &Config, new: &Config) {
        let users = |config: &Config| -> BTreeMap<_, _> {
            config.broker.users.iter().map(|user| (user.name.clone(), user.clone())).collect()
        };
        let (before, after) = (users(old), users(new));
        let gone = before.iter().filter(|(name, user)| after.get(*name) != Some(user));
        self.former.extend(gone.map(|(name, _)| (name.clone(), after.contains_key(name))));
        let end = "its sessions end";
        let changed = ("password or role is another, its sessions end", end);
        let mut any = self.table("broker.user", &before, &after, changed);
        let maps = |config: &Config| -> BTreeMap<String, bool> {
            let maps = config.broker.maps.iter();
            maps.map(|map| (format!("{} {} -> {}", map.who, map.topic, map.stream), true)).collect()
        };
        any |= self.table("broker.map", &maps(old), &maps(new), ("", ""));
        // The first that fits is the one that counts.
        let order = |config: &Config| -> Vec<_> {
            config.broker.maps.iter().map(|map| (map.who.clone(), map.topic.clone(), map.stream.clone())).collect()
        };
        any |= order(old) != order(new);
        let groups = |config: &Config| -> BTreeMap<String, BTreeSet<DeviceId>> {
            config.groups.iter().map(|group| (group.name.clone(), group.members.iter().cloned().collect())).collect()
        };
        any |= self.table("group", &groups(old), &groups(new), ("other members", ""));
        let policies = |config: &Config| -> BTreeMap<String, bool> {
            config.policies.iter().map(|policy| (policy.to_string(), true)).collect()
        };
        let (before, after) = (policies(old), policies(new));
        any |=
            self.table("policy", &before, &after, ("", "live subscriptions that nothing else allows get nothing more"));
        self.rights = any;
    }

    fn certificates(&mut self, old: &Config, new: &Config) {
        if old.certs.external == new.certs.external {
            return;
        }
        self.rights = true;
        let pins = |trust: &ExternalTrust| -> BTreeMap<String, String> {
            trust.pins.iter().map(|(print, holder)| (print.to_string(), format!("{holder:?}"))).collect()
        };
        let named = |trust: &ExternalTrust| -> BTreeMap<String, String> {
            let names = trust.authorities.iter().flat_map(|ca| ca.names.iter().map(move |name| (ca, name)));
            names.map(|(ca, (name, who))| (who.device.to_string(), format!("{name:?} {who:?} {ca:?}"))).collect()
        };
        let (before, after) = (&old.certs.external, &new.certs.external);
        let known = |trust: &ExternalTrust| -> BTreeSet<(String, DeviceId)> {
            let pinned = trust.pins.iter().map(|(print, who)| (format!("{print} {who:?}"), who.device.clone()));
            let named = trust.authorities.iter().flat_map(|ca| {
                ca.names.iter().map(move |(name, who)| (format!("{name:?} {who:?} {ca:?}"), who.device.clone()))
            });
            pinned.chain(named).collect()
        };
        let still: BTreeSet<&DeviceId> = after.holders().map(|holder| &holder.device).collect();
        let gone =
            known(before).difference(&known(after)).map(|(_, id)| (id.clone(), still.contains(id))).collect::<Vec<_>>();
        self.former.extend(gone);
        let end = "its sessions end";
        self.table(
            "certs.external",
            &named(before),
            &named(after),
            ("its CA, its name there or its role is another", end),
        );
        self.table("certs.pin", &pins(before), &pins(after), ("id or role is another", end));
    }

    fn upstream(&mut self, old: &Config, new: &Config) {
        let replay = old.buffer.replay != new.buffer.replay;
        let url =
            |config: &Config| config.upstream.as_ref().map(|upstream| format!("{}:{}", upstream.host, upstream.port));
        let waits = "what waits stays in the queue";
        let (change, reason) = match (&old.upstream, &new.upstream) {
            (None, None) => return,
            (None, Some(_)) => (Change::Added, String::new()),
            (Some(_), None) => (Change::Removed, waits.to_owned()),
            (Some(before), Some(after)) if before == after && !replay => (Change::Kept, String::new()),
            (Some(before), Some(after)) => {
                let mut keys: Vec<String> = differing(old, new, "upstream.").map(|(key, ..)| key).collect();
                keys.extend(differing(old, new, "buffer.replay").map(|(key, ..)| key));
                for (key, changed) in [
                    ("[[upstream.forward]]", before.forwards != after.forwards),
                    ("[[upstream.fetch]]", before.fetches != after.fetches),
                ] {
                    keys.extend(changed.then(|| key.to_owned()));
                }
                (Change::Restarted, format!("{}; {waits}", keys.join(", ")))
            }
        };
        self.upstream = change != Change::Kept;
        self.step("upstream", url(new).or_else(|| url(old)), change, reason);
    }

    fn scalars(&mut self, old: &Config, new: &Config) {
        if (old.certs.device_validity, old.certs.est_validity) != (new.certs.device_validity, new.certs.est_validity) {
            self.keys(old, new, "certs.", Change::Changed, "for certificates from now on");
        }
        match (old.enrolment.map(|port| port.listen), new.enrolment.map(|port| port.listen)) {
            (None, None) => {}
            (before, Some(address)) => {
                let change = match before {
                    None => Change::Added,
                    Some(before) if before == address => Change::Kept,
                    Some(_) => Change::Restarted,
                };
                self.step("enrolment.listen", Some(address.to_string()), change, "");
            }
            (Some(address), None) => self.step("enrolment.listen", Some(address.to_string()), Change::Removed, ""),
        }
        if !same(&old.buffer, &new.buffer) {
            self.keys(old, new, "buffer.", Change::Changed, "");
        }
        if old.command_timeout != new.command_timeout {
            self.keys(old, new, "commands.", Change::Changed, "for commands from now on");
        }
        if old.admin != new.admin {
            let reason = format!("{} is in use until the process is started again", old.admin.listen);
            self.step("admin.listen", Some(new.admin.listen.to_string()), Change::Waits, reason);
        }
    }

    fn links(&mut self, old: &Config, new: &Config) {
        let mut before: BTreeMap<LinkKey, LinkConfig> = links(old).into_iter().collect();
        for (key, link) in links(new) {
            let (change, reason) = match before.remove(&key) {
                None => (Change::Added, String::new()),
                Some(same) if same == link => (Change::Kept, String::new()),
                Some(other) => (Change::Restarted, link.difference(&other)),
            };
            self.links |= change != Change::Kept;
            self.step(key.protocol, Some(key.name.clone()), change, reason);
            if change == Change::Kept {
                self.kept_links.insert(key);
            }
        }
        for key in before.into_keys() {
            self.links = true;
            self.step(key.protocol, Some(key.name), Change::Removed, "");
        }
    }

    /// What came, went and is another in tables that have names; whether any. The reasons: of a change, of a removal.
    fn table<K: Ord + fmt::Display, V: PartialEq>(
        &mut self,
        key: &str,
        before: &BTreeMap<K, V>,
        after: &BTreeMap<K, V>,
        (changed, removed): (&str, &str),
    ) -> bool {
        let begin = self.steps.len();
        for (name, value) in after {
            match before.get(name) {
                None => self.step(key, Some(name.to_string()), Change::Added, ""),
                Some(same) if same == value => {}
                Some(_) => self.step(key, Some(name.to_string()), Change::Changed, changed),
            }
        }
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.step(key, Some(name.to_string()), Change::Removed, removed);
        }
        self.steps.len() > begin
    }

    /// A step for each key that begins so and has another value.
    fn keys(&mut self, old: &Config, new: &Config, prefix: &str, change: Change, note: &str) {
        for (key, before, after) in differing(old, new, prefix) {
            let note = if note.is_empty() { String::new() } else { format!(", {note}") };
            self.step(&key, None, change, format!("{before} -> {after}{note}"));
        }
    }
}

/// Keys of no `[[table]]` that begin so and are shown otherwise.
fn differing<'a>(
    old: &'a Config,
    new: &'a Config,
    prefix: &'a str,
) -> impl Iterator<Item = (String, String, String)> + use<'a> {
    let shown = |settings: &'a [Setting], key: &str| {
        let found = settings.iter().find(|setting| setting.key == key).and_then(|setting| setting.value.clone());
        found.unwrap_or_else(|| "not set".to_owned())
    };
    let keys: BTreeSet<&str> = old.settings.iter().chain(&new.settings).map(|setting| setting.key.as_str()).collect();
    let found = keys.into_iter().filter(move |key| key.starts_with(prefix));
    let values = found.map(move |key| (key.to_owned(), shown(&old.settings, key), shown(&new.settings, key)));
    values.filter(|(_, before, after)| before != after)
}

fn same(one: &impl Debug, other: &impl Debug) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let loaded = super::super::read("gateway.toml", Path::new("/srv"), text);
        let problems = loaded.problems;
        loaded.config.unwrap_or_else(|| panic!("{problems:?}"))
    }

    fn plan(old: &str, new: &str) -> Plan {
        Plan::between(&config(old), &config(new), &DeviceId::new("line-1").unwrap())
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        plan(old, new).changes().map(ToString::to_string).collect()
    }

    fn link(number: usize, points: &str) -> String {
        format!(
            "[[modbus]]\nurl = \"tcp://192.0.2.{number}:502\"\n[[modbus.device]]\nid = \"press-{number}\"\n{points}[[modbus.device.point]]\nname = \"t\"\nat = \"holding:0\"\ntype = \"u16\"\n"
        )
    }

    #[test]
    fn comments_order_of_keys_and_spelling_change_nothing() {
        let one = "[buffer]\nmax_age = \"7d\"\n[commands]\ntimeout = \"5s\"\n".to_owned() + &link(1, "");
        let same =
            "# as before\n".to_owned() + &link(1, "interval = \"1000ms\"\n") + "[commands]\ntimeout = \"5000ms\"\n";
        assert_eq!(changes(&one, &same), Vec::<String>::new());
        let plan = plan(&one, &same);
        let kept = plan.steps.iter().filter(|step| step.change == Change::Kept).count();
        assert_eq!((kept, plan.kept_links.len(), plan.links), (2, 1, false), "{plan:?}");
    }

    #[test]
    fn one_changed_device_restarts_its_link_and_no_other() {
        let links = |changed: usize| -> String {
            (1..=50).map(|n| link(n, if n == changed { "interval = \"5s\"\n" } else { "" })).collect()
        };
        let plan = plan(&links(0), &links(7));
        let changes: Vec<String> = plan.changes().map(ToString::to_string).collect();
        assert_eq!(changes, ["restarted  modbus tcp://192.0.2.7:502: changed `press-7`"]);
        assert_eq!(plan.kept_links.len(), 49);
        let fewer: String = (1..=49).map(|n| link(n, "")).collect();
        let added = link(51, "");
        assert_eq!(
            self::changes(&links(0), &(fewer + &added)),
            ["added      modbus tcp://192.0.2.51:502", "removed    modbus tcp://192.0.2.50:502"]
        );
        let own = link(1, "").replace("502\"", "502\"\ntimeout = \"2s\"");
        assert_eq!(self::changes(&link(1, ""), &own), ["restarted  modbus tcp://192.0.2.1:502: its own keys changed"]);
    }

    #[test]
    fn what_would_be_another_gateway_is_refused() {
        let plan = plan("", "[gateway]\nid = \"line-2\"\ndata_dir = \"elsewhere\"\n");
        let refused: Vec<&str> = plan.refused().map(|step| step.key.as_str()).collect();
        assert_eq!(refused, ["gateway.id", "gateway.data_dir"]);
        assert!(self::plan("", "[gateway]\nid = \"line-1\"\n").is_empty(), "the id that it has");
    }

    #[test]
    fn keys_say_from_what_to_what() {
        assert_eq!(
            changes(
                "",
                "[broker.limits]\npacket = \"1MiB\"\n[buffer]\nmax_size = \"64MiB\"\n[commands]\ntimeout = \"5s\"\n"
            ),
            [
                "changed    broker.limits.packet: \"256KiB\" -> \"1MiB\", for who connects from now on",
                "changed    buffer.max_size: \"1GiB\" -> \"64MiB\"",
                "changed    commands.timeout: \"30s\" -> \"5s\", for commands from now on",
            ]
        );
        let plan = plan("", "[admin]\nlisten = \"127.0.0.1:9999\"\n");
        assert_eq!(plan.waits().len(), 1);
        assert!(plan.refused().next().is_none() && !plan.is_empty());
    }

    #[test]
    fn the_upstream_is_restarted_with_the_keys_that_changed() {
        let with = |more: &str| format!("[upstream]\nurl = \"mqtt://a\"\n{more}");
        assert_eq!(changes("", &with("")), ["added      upstream a:1883"]);
        assert_eq!(
            changes(&with(""), &with("").replace("//a", "//b")),
            ["restarted  upstream b:1883: upstream.url; what waits stays in the queue"]
        );
        let replay = changes(&with(""), &(with("") + "[buffer]\nreplay_rate = 5\n"));
        assert_eq!(
            replay,
            [
                "restarted  upstream a:1883: buffer.replay_rate; what waits stays in the queue",
                "changed    buffer.replay_rate: 0 -> 5"
            ]
        );
        let forward = with("[[upstream.forward]]\nfilter = \"plant/#\"\n");
        let plan = plan(&with(""), &forward);
        assert!(
            plan.upstream && plan.steps.iter().any(|step| step.reason.starts_with("[[upstream.forward]]")),
            "{plan:?}"
        );
    }

    #[test]
    fn listeners_and_rights_are_named_one_by_one() {
        let old = "[broker]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[[policy]]\nwho = \"a\"\nallow = \"subscribe\"\nfilter = \"x\"\n";
        let new = "[broker]\nlisten = [\"127.0.0.1:2\", \"127.0.0.1:3\"]\n\n\n[[policy]]\nwho = \"b\"\nallow = \"subscribe\"\nfilter = \"x\"\n";
        assert_eq!(
            changes(old, new),
            [
                "added      broker.listen 127.0.0.1:3",
                "removed    broker.listen 127.0.0.1:1: connections that came in there stay until they end",
                "added      policy b subscribe x",
                "removed    policy a subscribe x: live subscriptions that nothing else allows get nothing more",
            ]
        );
        let moved = "\n\n".to_owned() + old;
        assert!(plan(old, &moved).is_empty());
    }
}
