//! `local` and `fan-out`: messages that live subscribers get.

use std::time::Duration;

use crate::identities::Identities;
use crate::load::{Load, Outcome};
use crate::peers::{FILTER, Mosquitto, Peer, Rumqttd, WINDOW, Who, topic};
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes};
use crate::settings::{Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::Version;

/// Messages that the publisher of a fan-out may be ahead of its receivers.
const LEAD: u64 = 100;

/// 20 publishers to one subscriber.
pub async fn local(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let publishers = 20;
    let mut stage = Stage::set(settings, publishers, 1, report).await?;
    for version in settings.versions() {
        let what = format!(
            "MQTT {}, {}, QoS 1, 64 B, {publishers} publishers (window {WINDOW}) to 1 subscriber",
            version.name(),
            settings.transport.name()
        );
        let times = if settings.transport == Transport::Plain { 5.0 } else { 4.0 };
        let row = Row::new("local", what, "delivered/s", Goal::Times(times));
        stage.measure(settings, report, row, version, 1, None).await?;
    }
    Ok(())
}

/// One publisher to 200 subscribers.
pub async fn fan_out(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let receivers = settings.size(200, 40);
    let mut stage = Stage::set(settings, 1, receivers, report).await?;
    for version in settings.versions() {
        for qos in [0, 1] {
            let what = format!(
                "MQTT {}, {}, QoS {qos}, 64 B, 1 publisher (at most {LEAD} messages ahead of its receivers) to \
                 {receivers} subscribers",
                version.name(),
                settings.transport.name()
            );
            let row = Row::new("fan-out", what, "delivered/s", Goal::Times(5.0));
            stage.measure(settings, report, row, version, qos, Some(LEAD)).await?;
        }
    }
    Ok(())
}

struct Stage {
    peers: Vec<Peer>,
    identities: Identities,
    publishers: usize,
    receivers: usize,
}

impl Stage {
    async fn set(
        settings: &Settings,
        publishers: usize,
        receivers: usize,
        report: &mut Report,
    ) -> anyhow::Result<Self> {
        let mut identities = Identities::new()?;
        let wanted = Wanted { publishers, receivers, ..Wanted::default() };
        let site = Site::start(settings, &wanted, &mut identities).await?;
        report.note(format!("fieldgate: {}, everything else at its default", site.configuration));
        if settings.profile.is_some() {
            println!("fieldgate is process {}", site.pid()?);
            return Ok(Self { peers: vec![Peer::Fieldgate(Box::new(site))], identities, publishers, receivers });
        }
        let mut peers = vec![
            Peer::Fieldgate(Box::new(site)),
            Peer::Mosquitto(Mosquitto::start(settings.transport, &identities).await?),
        ];
        report.note(format!("{}: {}", crate::peers::mosquitto_version(), Mosquitto::SETTINGS));
        if settings.transport == Transport::Plain {
            peers.push(Peer::Rumqttd(Rumqttd::start().await?));
        } else {
            report.note("rumqttd is built without TLS here, so the mTLS rows have no column for it");
        }
        Ok(Self { peers, identities, publishers, receivers })
    }

    async fn measure(
        &mut self,
        settings: &Settings,
        report: &mut Report,
        mut row: Row,
        version: Version,
        qos: u8,
        lead: Option<u64>,
    ) -> anyhow::Result<()> {
        // The goal is for one receiver; a fan-out's 200 may have 256 KiB of output each.
        let goal = if lead.is_none() { Goal::AtMost(64.0) } else { Goal::None };
        let mut memory = Row::new(row.bench, format!("{}: peak memory", row.what), "MiB resident", goal);
        let mut cost = Row::new(row.bench, format!("{}: cost", row.what), "us CPU per delivery", Goal::None);
        for _ in 0..settings.rounds() {
            for peer in &self.peers {
                let pid = peer.pid()?;
                process::forget_peak(pid)?;
                let before = process::cpu_seconds(pid)?;
                let outcome = self.round(settings.load_time(), peer, version, qos, lead).await?;
                let used = process::cpu_seconds(pid)? - before;
                if let Some(problem) = outcome.problem() {
                    let text = format!("{}: {}: {problem}", row.what, peer.name());
                    match peer {
                        Peer::Fieldgate(_) => report.problem(text),
                        Peer::Mosquitto(_) | Peer::Rumqttd(_) => report.note(text),
                    }
                }
                row.add(peer.name(), outcome.delivered_per_second());
                memory.add(peer.name(), mebibytes(process::peak(pid)?));
                #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
                cost.add(peer.name(), used * 1e6 / outcome.delivered.max(1) as f64);
            }
        }
        report.row(row);
        report.row(memory);
        report.row(cost);
        Ok(())
    }

    async fn round(
        &self,
        duration: Duration,
        peer: &Peer,
        version: Version,
        qos: u8,
        lead: Option<u64>,
    ) -> anyhow::Result<Outcome> {
        let seat = |who| peer.seat(who, version, &self.identities);
        let mut publishers = Vec::new();
        for number in 0..self.publishers {
            publishers.push((seat(Who::Publisher(number))?, topic(number)));
        }
        let mut receivers = Vec::new();
        for number in 0..self.receivers {
            receivers.push(seat(Who::Receiver(number))?);
        }
        let filter = FILTER.to_owned();
        Load { version, qos, window: WINDOW, lead, duration, messages: None, publishers, receivers, filter }.run().await
    }
}
