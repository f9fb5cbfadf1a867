//! The gateway under test: its binary in a folder of its own, with a generated configuration.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use fieldgate_testkit::Gateway;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::identities::Identities;
use crate::peers::{PER_APP, Who, client_id, identity};
use crate::settings::{Key, Settings, Transport};
use crate::wire::Seat;

/// Program users of the plain listener have up to eight connections each, as apps with certificates have.
const PASSWORD: &str = "bench";

/// What a bench needs of the gateway.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Devices `p0`, `p1`, …
    pub publishers: usize,
    /// Connections of apps that subscribe.
    pub receivers: usize,
    /// Keys that are not at their defaults, beyond the message rate.
    pub keys: Vec<Key>,
    /// Its cloud.
    pub upstream: Option<SocketAddr>,
}

/// A gateway and how to reach it.
pub struct Site {
    gateway: Gateway,
    transport: Transport,
    plain: Option<SocketAddr>,
    /// What was configured, for the report.
    pub configuration: String,
}

impl Site {
    /// Starts a gateway and gives everybody a certificate.
    pub async fn start(settings: &Settings, wanted: &Wanted, identities: &mut Identities) -> anyhow::Result<Self> {
        let keys = keys(wanted, settings);
        let mut sections = String::new();
        let policy = |who: &str, allow: &str| {
            format!("[[policy]]\nwho = \"{who}\"\nallow = \"{allow}\"\nfilter = \"devices/#\"\n\n")
        };
        sections += &policy("role:app", "subscribe");
        let mut plain = None;
        let mut gateway = Gateway::new(settings.binary(), "bench", "")?.quiet();
        if settings.transport == Transport::Plain {
            sections += &policy("role:app", "publish");
            let address = fieldgate_testkit::port::free_address()?;
            plain = Some(address);
            sections += &users(&gateway, wanted).await?;
        }
        for (table, keys) in &keys {
            writeln!(sections, "[{table}]")?;
            for (name, value) in keys {
                writeln!(sections, "{name} = {value}")?;
            }
            writeln!(sections)?;
        }
        let broker = plain.map(|address| format!("plain = [\"{address}\"]")).unwrap_or_default();
        gateway.configure_broker(&broker, &sections)?;
        gateway.start().await?;
        let shown = if broker.is_empty() { String::new() } else { "[broker] plain; ".to_owned() };
        let configuration = shown + &words(&keys);
        let mut site = Self { gateway, transport: settings.transport, plain, configuration };
        if settings.transport == Transport::Mtls {
            let publishers = (0..wanted.publishers).map(|number| (identity(Who::Publisher(number)), "device"));
            let apps = (0..wanted.receivers.div_ceil(PER_APP))
                .map(|number| (identity(Who::Receiver(number * PER_APP)), "app"));
            site.add(publishers.chain(apps).collect(), identities).await?;
        }
        Ok(site)
    }

    /// Registers identities, as `fieldgate device add --csr` does it while the gateway runs.
    async fn add(&mut self, wanted: Vec<(String, &str)>, identities: &mut Identities) -> anyhow::Result<()> {
        let (gateway, csr) = (&self.gateway, identities.csr());
        let adding = wanted.into_iter().filter(|(id, _)| !identities.knows(id)).map(async |(id, role)| {
            let body = json!({ "id": id, "role": role, "csr": csr }).to_string();
            let answer = gateway.ask("POST", "/api/v1/devices", &body).await?;
            ensure!(answer.status < 300, "`{id}` is not added: {} {}", answer.status, answer.body);
            anyhow::Ok((id, answer.json()?))
        });
        let added: Vec<_> = futures_util::stream::iter(adding).buffered(16).try_collect().await?;
        for (id, json) in added {
            let text = |key: &str| json.get(key).and_then(|value| value.as_str()).with_context(|| format!("no {key}"));
            identities.add(&id, text("certificate")?, text("ca")?)?;
        }
        Ok(())
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.gateway.pid()
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Ends the process and starts a fresh one on the same data.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.gateway.stop().await?;
        self.gateway.start().await
    }

    pub fn seat(&self, who: Who, identities: &Identities) -> anyhow::Result<Seat> {
        if self.transport == Transport::Mtls {
            let tls = Some(identities.client(&identity(who))?);
            return Ok(Seat { address: self.gateway.broker(), tls, client_id: client_id(who), login: None });
        }
        // Users are numbered through: receivers first.
        let (user, place) = match who {
            Who::Receiver(number) => (identity(who), number % PER_APP),
            Who::Publisher(number) => (format!("source{}", number / PER_APP), number % PER_APP),
        };
        let address = self.plain.context("no plain listener")?;
        let login = Some((user.clone(), PASSWORD.to_owned()));
        Ok(Seat { address, tls: None, client_id: format!("{user}/{place}"), login })
    }
}

type Keys = BTreeMap<String, BTreeMap<String, String>>;

/// By table and name: the command line's go before the bench's.
fn keys(wanted: &Wanted, settings: &Settings) -> Keys {
    let mut keys = Keys::new();
    let rate = Key::new("broker.limits", "message_rate", "0");
    let url = wanted.upstream.map(|cloud| Key::new("upstream", "url", &format!("\"mqtt://{cloud}\"")));
    for Key { table, name, value } in
        [rate].into_iter().chain(url).chain(wanted.keys.clone()).chain(settings.keys.clone())
    {
        keys.entry(table).or_default().insert(name, value);
    }
    keys
}

/// What isn't at its default, for the report.
fn words(keys: &Keys) -> String {
    let table = |(table, keys): (&String, &BTreeMap<String, String>)| {
        let keys = keys.iter().filter(|(name, _)| (table.as_str(), name.as_str()) != ("upstream", "url"));
        let keys: Vec<_> = keys.map(|(name, value)| format!("{name} = {value}")).collect();
        (!keys.is_empty()).then(|| format!("[{table}] {}", keys.join(", ")))
    };
    keys.iter().filter_map(table).collect::<Vec<_>>().join("; ")
}

/// `[[broker.user]]` tables, all with one password: its hash is made once.
async fn users(gateway: &Gateway, wanted: &Wanted) -> anyhow::Result<String> {
    let hash = gateway.verb_with_input(&["user", "hash"], PASSWORD).await?.ok()?;
    let file: PathBuf = gateway.folder().join("bench.hash");
    std::fs::write(&file, hash.trim())?;
    let table = |name: String| {
        let file = file.display();
        format!("[[broker.user]]\nname = \"{name}\"\npassword_hash_file = \"{file}\"\nrole = \"app\"\n\n")
    };
    let receivers = (0..wanted.receivers.div_ceil(PER_APP)).map(|number| format!("watch{number}"));
    let publishers = (0..wanted.publishers.div_ceil(PER_APP)).map(|number| format!("source{number}"));
    Ok(receivers.chain(publishers).map(table).collect())
}
