//! `fieldgate device add --csv FILE --out DIR`: many devices, one bundle each in `DIR/ID`.
//!
//! Nothing is issued before the whole list was found right. Each device is then on its own: one that fails is said at the
//! end, the others are added. Running it again does what is left: who is registered and has the matching bundle is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fieldgate_certs::{Fingerprint, Issued};
use fieldgate_types::{DeviceId, UnixMillis};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::client::Client;
use super::device::{self, issue};
use super::offline::offline;
use super::roster::{self, Bounds, Row};
use super::show::{date, print_json};
use crate::config::Config;
use crate::identity::{Authority, DeviceDetails};

/// A longer list is no list of devices.
const LARGEST: u64 = 16 << 20;
/// Where nobody watches, a line is said after so many.
const EACH: usize = 100;

/// What became of the list.
#[derive(Debug, Default, Serialize)]
struct Report {
    added: Vec<Added>,
    /// Registered, with the bundle in its place.
    skipped: Vec<DeviceId>,
    failed: Vec<Failed>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Added {
    id: DeviceId,
    serial: String,
    not_after: UnixMillis,
    /// Whether the certificate ends with its issuer, earlier than was asked for.
    clamped: bool,
    bundle: PathBuf,
}

#[derive(Debug, Serialize)]
struct Failed {
    id: DeviceId,
    line: usize,
    error: String,
}

/// Adds every device of the list that isn't there yet.
pub async fn add(config: &Config, list: &Path, out: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let Some(out) = out else { bail!("name the folder for the bundles with --out DIR") };
    let name = list.display().to_string();
    let reading = || format!("can't read `{name}`");
    if std::fs::metadata(list).with_context(reading)?.len() > LARGEST {
        bail!("`{name}` is larger than {} MiB, which is no list of devices", LARGEST >> 20);
    }
    let text = std::fs::read_to_string(list).with_context(reading)?;
    let groups = config.groups.iter().map(|group| group.name.clone()).collect();
    let taken: BTreeSet<DeviceId> = config
        .field_devices()
        .chain(config.users())
        .chain(config.external_devices())
        .chain(&config.id)
        .cloned()
        .collect();
    let rows = match roster::read(&name, &text, &Bounds { groups: &groups, taken: &taken }) {
        Ok(rows) => rows,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            if json {
                print_json(&serde_json::json!({ "problems": problems }))?;
            }
            bail!("{} in the list; nobody was added", count(problems.len(), "problem"));
        }
    };

    let began = Instant::now();
    let mut run = Run::new(out, rows.len(), json);
    if let Some(client) = Client::connect(&config.data_dir).await? {
        let known = known(client.get("/api/v1/devices").await?);
        for row in &rows {
            match run.wanted(row, &known) {
                Wish::Nothing => {}
                Wish::Issue => {
                    let issued = match Client::required(&config.data_dir).await {
                        Ok(client) => issue(client, &row.id, &row.wanted, None).await,
                        Err(error) => Err(error),
                    };
                    run.issued(row, issued);
                }
            }
        }
    } else {
        offline(config, |authority: &Authority| {
            let known = known(authority.all_details());
            for row in &rows {
                match run.wanted(row, &known) {
                    Wish::Nothing => {}
                    Wish::Issue => run.issued(row, authority.add(&row.id, &row.wanted, None).map_err(Into::into)),
                }
            }
            Ok(())
        })?;
    }
    run.end(began.elapsed())
}

fn known(devices: Vec<DeviceDetails>) -> BTreeMap<DeviceId, DeviceDetails> {
    devices.into_iter().map(|details| (details.entry.id.clone(), details)).collect()
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

enum Wish {
    Issue,
    Nothing,
}

/// One pass over the list.
struct Run<'a> {
    out: &'a Path,
    all: usize,
    done: usize,
    json: bool,
    report: Report,
}

impl<'a> Run<'a> {
    fn new(out: &'a Path, all: usize, json: bool) -> Self {
        Self { out, all, done: 0, json, report: Report::default() }
    }

    /// Whether the device of `row` needs a certificate. What stands against it is noted.
    fn wanted(&mut self, row: &Row, known: &BTreeMap<DeviceId, DeviceDetails>) -> Wish {
        let folder = self.out.join(row.id.as_str());
        let id = &row.id;
        let against = match known.get(id) {
            // Rows come from lists that are older than a revocation.
            Some(details) if details.entry.revoked.is_some() => {
                format!("`{id}` was revoked; `fieldgate device add {id}` takes it back")
            }
            Some(details) if holds_bundle(&folder, details) => {
                self.report.skipped.push(id.clone());
                self.said(id);
                return Wish::Nothing;
            }
            found => match (device::ensure_free(&folder, true), found) {
                (Ok(()), _) => return Wish::Issue,
                (Err(_), Some(details)) if details.certificates.iter().any(|held| held.revoked.is_none()) => {
                    let folder = folder.display();
                    format!(
                        "`{id}` is registered, but `{folder}` doesn't hold the whole bundle, and its key was given once: remove the folder, `fieldgate device revoke {id}` and `fieldgate device add {id}`"
                    )
                }
                (Err(error), _) => format!("{error:#}"),
            },
        };
        self.failed(row, against);
        Wish::Nothing
    }

    fn issued(&mut self, row: &Row, issued: anyhow::Result<Issued>) {
        let bundle = self.out.join(row.id.as_str());
        let written = issued.and_then(|issued| {
            device::write_bundle(&issued, &bundle)?;
            Ok(issued)
        });
        match written {
            Ok(Issued { record, clamped, .. }) => {
                if clamped {
                    let (id, end) = (&row.id, date(record.not_after));
                    eprintln!("fieldgate: warning: {id}: the certificate ends with the CA that issued it, at {end}");
                }
                let (id, serial) = (record.device, record.serial.to_string());
                self.report.added.push(Added { id, serial, not_after: record.not_after, clamped, bundle });
                self.said(&row.id);
            }
            Err(error) => self.failed(row, format!("{error:#}")),
        }
    }

    fn failed(&mut self, row: &Row, error: String) {
        self.report.failed.push(Failed { id: row.id.clone(), line: row.line, error });
        self.said(&row.id);
    }

    fn said(&mut self, id: &DeviceId) {
        self.done += 1;
        let (done, all) = (self.done, self.all);
        let mut terminal = std::io::stderr().lock();
        let written = if terminal.is_terminal() {
            // Back to the line's beginning, and erase what stood there.
            write!(terminal, "\r\x1b[K{done}/{all} {id}").and_then(|()| terminal.flush())
        } else if done.is_multiple_of(EACH) {
            writeln!(terminal, "{done}/{all}")
        } else {
            Ok(())
        };
        // Nobody is there to be told; the work goes on.
        drop(written);
    }

    fn end(mut self, took: Duration) -> anyhow::Result<ExitCode> {
        self.report.seconds = took.as_secs_f64();
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        let Report { added, skipped, failed, seconds } = &self.report;
        for Failed { line, error, .. } in failed {
            eprintln!("fieldgate: line {line}: {error}");
        }
        if self.json {
            print_json(&self.report)?;
        } else {
            println!("{} added in {seconds:.1} s, bundles in {}", count(added.len(), "device"), self.out.display());
            if !skipped.is_empty() {
                println!("{} left alone: registered, with the bundle in its place", skipped.len());
            }
            if !failed.is_empty() {
                println!("{} failed", failed.len());
            }
        }
        Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Whether `folder` holds a whole bundle with a certificate of this device that works.
fn holds_bundle(folder: &Path, details: &DeviceDetails) -> bool {
    let Ok(certificate) = CertificateDer::from_pem_file(folder.join("cert.pem")) else { return false };
    let fingerprint = Fingerprint::of(&certificate);
    let works = details.certificates.iter().any(|held| held.fingerprint == fingerprint && held.revoked.is_none());
    works && folder.join("key.pem").is_file() && folder.join("ca.pem").is_file()
}
