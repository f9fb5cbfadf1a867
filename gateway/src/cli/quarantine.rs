//! `fieldgate buffer quarantine`

use std::process::ExitCode;

use anyhow::bail;
use clap::Args as ClapArgs;
use fieldgate_types::DeviceId;

use super::client::Client;
use super::show::{bytes, date, print_json};
use crate::admin::quarantine::{Chosen, Entry, Judged, MOST};
use crate::config::Config;

/// Which of them.
#[derive(Debug, Default, ClapArgs)]
pub struct Only {
    /// Only those of this device
    #[arg(long)]
    device: Option<DeviceId>,
    /// Only those whose reason has these words in it
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
}

impl Only {
    fn has(&self, entry: &Entry) -> bool {
        let device = self.device.as_ref().is_none_or(|device| *device == entry.device);
        device && self.reason.as_ref().is_none_or(|words| entry.reason.contains(words.as_str()))
    }
}

/// What is to be retried or dropped.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Numbers, as `list` shows them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "device", "reason"])]
    ids: Vec<u64>,
    /// All of them, or with --device and --reason all of these
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    json: super::Json,
}

/// What becomes of them.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    /// They go to the upstream once more.
    Retry,
    /// They are let go of.
    Drop,
}

async fn all(config: &Config, only: &Only) -> anyhow::Result<Vec<Entry>> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let path = format!("/api/v1/buffer/quarantine?after={after}");
        let page: Vec<Entry> = Client::required(&config.data_dir).await?.get(&path).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.id;
        found.extend(page.into_iter().filter(|entry| only.has(entry)));
    }
}

/// What is kept aside.
pub async fn list(config: &Config, only: &Only, as_json: bool) -> anyhow::Result<ExitCode> {
    let found = all(config, only).await?;
    if as_json {
        print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.is_empty() {
        println!("nothing is kept aside");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>12} {:<24} {:>10} {:>10} {:<20} {:<32} TOPIC", "ID", "DEVICE", "SEQ", "SIZE", "SINCE", "REASON");
    for entry in found {
        let topic = entry.topic.as_deref().unwrap_or("(damaged: can only be dropped)");
        let (size, since) = (bytes(entry.bytes as u64), date(entry.since));
        let Entry { id, device, seq, reason, .. } = &entry;
        println!("{id:>12} {:<24} {seq:>10} {size:>10} {since:<20} {reason:<32} {topic}", device.as_str());
    }
    Ok(ExitCode::SUCCESS)
}

/// Retries or drops them.
pub async fn judge(config: &Config, verdict: Verdict, args: Args) -> anyhow::Result<ExitCode> {
    let ids = if args.all {
        let found = all(config, &args.only).await?;
        // Of all, what can be sent.
        let may = |entry: &Entry| matches!(verdict, Verdict::Drop) || !entry.spoiled;
        found.into_iter().filter(may).map(|entry| entry.id).collect()
    } else {
        args.ids
    };
    let (path, done) = match verdict {
        Verdict::Retry => ("/api/v1/buffer/quarantine/retry", "on their way once more"),
        Verdict::Drop => ("/api/v1/buffer/quarantine/drop", "dropped"),
    };
    let mut records = 0;
    for ids in ids.chunks(MOST) {
        let client = Client::required(&config.data_dir).await?;
        let judged: Judged = client.post(path, &Chosen { ids: ids.to_vec() }).await?;
        records += judged.records;
    }
    if args.json.json {
        print_json(&Judged { records })?;
    } else {
        println!("{records} messages {done}");
    }
    if records < ids.len() {
        bail!("{} of them are not kept aside", ids.len() - records);
    }
    Ok(ExitCode::SUCCESS)
}
