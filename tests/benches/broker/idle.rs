//! `idle`: what a connected client costs that says nothing, and whether ten thousand of them work.

use std::time::Duration;

use anyhow::Context;

use crate::identities::Identities;
use crate::peers::{Mosquitto, Peer, Who, open_all};
use crate::process;
use crate::report::{Goal, Report, Row, mebibytes};
use crate::settings::{Key, Settings, Transport};
use crate::site::{Site, Wanted};
use crate::wire::{Connection, Version};

/// Handshakes at a time.
const AT_A_TIME: usize = 32;
/// Until what a handshake has freed is given back.
const SETTLE: Duration = Duration::from_secs(2);

pub async fn idle(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let settings = Settings { transport: Transport::Mtls, ..settings.clone() };
    let (few, most) = (settings.size(1_000, 100), settings.size(settings.most_idle, 200));
    let mut identities = Identities::new()?;
    let keys = vec![Key::new("broker.limits", "connections", "20000")];
    let wanted = Wanted { publishers: most.max(few), keys, ..Wanted::default() };
    let mut site = Site::start(&settings, &wanted, &mut identities).await?;
    report.note(format!("fieldgate: {}, everything else at its default", site.configuration));

    if settings.profile.is_some() {
        site.restart().await?;
        println!("fieldgate is process {}", site.pid()?);
        let peer = Peer::Fieldgate(Box::new(site));
        let (connections, _, per_thousand) = hold(&peer, few, &identities).await?;
        println!("{per_thousand:.2} MiB per 1,000, held with {} connections", connections.len());
        tokio::time::sleep(settings.load_time()).await;
        return Ok(());
    }
    let what = format!("{few} idle mTLS clients, growth of the process");
    let mut row = Row::new("idle", what, "MiB resident per 1,000", Goal::Share(0.8));
    let mut ours = Peer::Fieldgate(Box::new(site));
    for _ in 0..settings.rounds() {
        fresh(&mut ours).await?;
        row.add(ours.name(), round(&ours, few, &identities).await?);
        // A new process each time: memory that an earlier round has freed would hide what this one needs.
        let theirs = Peer::Mosquitto(Mosquitto::start(settings.transport, &identities).await?);
        row.add(theirs.name(), round(&theirs, few, &identities).await?);
    }
    report.row(row);

    fresh(&mut ours).await?;
    curve(&ours, &settings, most, &identities, report).await?;
    drop(ours);
    let theirs = Peer::Mosquitto(Mosquitto::start(settings.transport, &identities).await?);
    curve(&theirs, &settings, most, &identities, report).await
}

async fn fresh(peer: &mut Peer) -> anyhow::Result<()> {
    match peer {
        Peer::Fieldgate(site) => site.restart().await,
        Peer::Mosquitto(_) | Peer::Rumqttd(_) => Ok(()),
    }
}

async fn round(peer: &Peer, count: usize, identities: &Identities) -> anyhow::Result<f64> {
    let (connections, _, per_thousand) = hold(peer, count, identities).await?;
    close(connections).await?;
    Ok(per_thousand)
}

/// Connects so many clients, which all answer; them, the memory, and its growth per 1,000.
async fn hold(peer: &Peer, count: usize, identities: &Identities) -> anyhow::Result<(Vec<Connection>, u64, f64)> {
    let before = process::resident(peer.pid()?)?;
    let connections = open(peer, 0..count, identities).await?;
    tokio::time::sleep(SETTLE).await;
    let after = process::resident(peer.pid()?)?;
    #[expect(clippy::cast_precision_loss, reason = "a count of clients")]
    let per_thousand = mebibytes(after.saturating_sub(before)) * 1000.0 / count as f64;
    Ok((connections, after, per_thousand))
}

async fn open(peer: &Peer, range: std::ops::Range<usize>, identities: &Identities) -> anyhow::Result<Vec<Connection>> {
    let seats = range.map(|number| peer.seat(Who::Publisher(number), Version::V5, identities));
    open_all(&seats.collect::<anyhow::Result<Vec<_>>>()?, Version::V5, AT_A_TIME).await
}

async fn close(connections: Vec<Connection>) -> anyhow::Result<()> {
    for connection in connections {
        connection.close().await?;
    }
    Ok(())
}

/// Memory at growing numbers of clients; at the end all of them still answer.
async fn curve(
    peer: &Peer,
    settings: &Settings,
    most: usize,
    identities: &Identities,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut steps: Vec<usize> = [1_000, 2_000, 5_000].into_iter().filter(|step| *step < most).collect();
    if settings.short {
        steps = vec![most / 2];
    }
    steps.push(most);
    let empty = process::resident(peer.pid()?)?;
    let mut points = vec![format!("0: {:.1} MiB", mebibytes(empty))];
    let mut connections = Vec::new();
    let begin = std::time::Instant::now();
    let mut opening = Duration::ZERO;
    for step in steps {
        let begin = std::time::Instant::now();
        connections.extend(open(peer, connections.len()..step, identities).await?);
        opening += begin.elapsed();
        tokio::time::sleep(SETTLE).await;
        points.push(format!("{step}: {:.1} MiB", mebibytes(process::resident(peer.pid()?)?)));
    }
    for connection in &mut connections {
        tokio::time::timeout(Duration::from_secs(10), connection.ping()).await.context("no PINGRESP")??;
    }
    let peak = mebibytes(process::peak(peer.pid()?)?);
    report.note(format!(
        "idle: {}: resident memory by connected mTLS clients: {}; peak {peak:.1} MiB; connecting took {:.1} s; after {:.0} s \
         all answer a ping",
        peer.name(),
        points.join(", "),
        opening.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ));
    close(connections).await
}
