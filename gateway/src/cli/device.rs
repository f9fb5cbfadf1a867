//! `fieldgate device …`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use fieldgate_certs::{Issued, Role, durable};
use fieldgate_types::{DeviceId, duration};

use super::AddArgs;
use super::bulk;
use super::client::Client;
use super::offline::offline;
use super::show::{date, print_json};
use crate::admin::api::{AddDevice, AddedDevice, MadeToken, MakeToken};
use crate::config::Config;
use crate::identity::{DeviceDetails, Wanted};

/// Adds a device and writes its bundle.
pub async fn add(config: &Config, args: AddArgs) -> anyhow::Result<ExitCode> {
    if let Some(list) = &args.csv {
        return bulk::add(config, list, args.out.as_deref(), args.json.json).await;
    }
    let id = args.id.context("name the device, or a list with --csv FILE")?;
    let wanted = Wanted { role: args.role, validity: args.validity, groups: args.group.into_iter().collect() };
    let out = args.out.unwrap_or_else(|| PathBuf::from(id.as_str()));
    let csr = match &args.csr {
        None => None,
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("can't read `{}`", path.display()))?),
    };
    // Before anything is issued: a key is given once.
    ensure_free(&out, csr.is_none())?;
    let issued: Issued = match Client::connect(&config.data_dir).await? {
        Some(client) => issue(client, &id, &wanted, csr).await?,
        None => offline(config, |authority| Ok(authority.add(&id, &wanted, csr.as_ref().map(String::as_bytes))?))?,
    };
    write_bundle(&issued, &out)?;
    let record = &issued.record;
    if issued.clamped {
        eprintln!("fieldgate: the certificate ends with the CA that issued it, earlier than configured");
    }
    let (id, not_after) = (&record.device, record.not_after);
    if args.json.json {
        print_json(&serde_json::json!({ "id": id, "serial": record.serial, "not_after": not_after, "bundle": out }))?;
    } else {
        println!("device {id} added: {} (valid until {})", files(&out, issued.key_pem.is_some()), date(not_after));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a running gateway for a certificate.
pub async fn issue(client: Client, id: &DeviceId, wanted: &Wanted, csr: Option<String>) -> anyhow::Result<Issued> {
    let Wanted { role, validity, groups } = wanted.clone();
    let validity = validity.map(duration::format);
    let wanted = AddDevice { id: id.clone(), role, csr, validity, groups };
    Ok(client.post::<AddedDevice>("/api/v1/devices", &wanted).await?.into())
}

/// Writes the bundle; durable when this returns.
pub fn write_bundle(issued: &Issued, out: &Path) -> anyhow::Result<()> {
    issued.write_bundle(out).with_context(|| {
        let id = &issued.record.device;
        format!("can't write the bundle to `{}`; `fieldgate device revoke {id}` and add it again", out.display())
    })
}

fn files(out: &Path, key: bool) -> String {
    let names = if key { "ca.pem, cert.pem, key.pem" } else { "ca.pem, cert.pem" };
    format!("{names} in {}", out.display())
}

/// Makes the folder, which must hold no key yet.
pub fn ensure_free(out: &Path, key: bool) -> anyhow::Result<()> {
    let key_file = out.join("key.pem");
    if key && key_file.exists() {
        anyhow::bail!("`{}` exists already; name another folder with --out DIR", key_file.display());
    }
    durable::make_private_folder(out).with_context(|| format!("can't make the folder `{}`", out.display()))
}

/// Makes a one-time token. It is the last word that is printed.
pub async fn token(config: &Config, id: DeviceId, role: Option<Role>, json: bool) -> anyhow::Result<ExitCode> {
    let made: MadeToken = match Client::connect(&config.data_dir).await? {
        Some(client) => client.post(&format!("/api/v1/devices/{id}/token"), &MakeToken { role }).await?,
        None => offline(config, |authority| Ok(authority.token(&id, role)?))?.into(),
    };
    if config.enrolment.is_none() {
        eprintln!("fieldgate: nobody takes the token: set [enrolment] listen and restart the gateway");
    }
    if json {
        print_json(&made)?;
    } else {
        println!("token of {} ({}), good once and until {}: {}", made.id, made.role, date(made.expires), made.token);
    }
    Ok(ExitCode::SUCCESS)
}

/// All devices.
pub async fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let devices: Vec<DeviceDetails> = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/devices").await?,
        None => offline(config, |authority| Ok(authority.all_details()))?,
    };
    if json {
        print_json(&devices)?;
        return Ok(ExitCode::SUCCESS);
    }
    if devices.is_empty() {
        println!("no devices yet; add one with `fieldgate device add ID`");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<32} {:<8} {:<12} CERTIFICATE UNTIL", "ID", "ROLE", "STATE");
    for device in devices {
        let none = || if device.entry.external { "of another CA, or pinned" } else { "none" }.to_owned();
        let until = device.certificates.first().map_or_else(none, |record| date(record.not_after));
        let state = if device.entry.revoked.is_some() { "revoked" } else { "active" };
        println!("{:<32} {:<8} {state:<12} {until}", device.entry.id, device.entry.role);
    }
    Ok(ExitCode::SUCCESS)
}

/// One device.
pub async fn show(config: &Config, id: &DeviceId, json: bool) -> anyhow::Result<ExitCode> {
    let device: DeviceDetails = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get(&format!("/api/v1/devices/{id}")).await?,
        None => offline(config, |authority| Ok(authority.details(id)?))?,
    };
    if json {
        print_json(&device)?;
        return Ok(ExitCode::SUCCESS);
    }
    let since = if device.entry.external {
        "known by the configuration".to_owned()
    } else {
        format!("added {}", date(device.entry.added))
    };
    println!("{} ({}), {since}", device.entry.id, device.entry.role);
    if let Some(revoked) = device.entry.revoked {
        println!("revoked {}", date(revoked));
    }
    let listed = config.groups.iter().filter(|group| group.members.contains(id)).map(|group| &group.name);
    let groups: BTreeSet<&str> = device.entry.groups.iter().chain(listed).map(String::as_str).collect();
    if !groups.is_empty() {
        println!("groups: {}", groups.into_iter().collect::<Vec<_>>().join(", "));
    }
    if let Some(validity) = device.entry.validity {
        println!("its certificates are good for {}", duration::format(validity));
    }
    for record in &device.certificates {
        let state = match (record.revoked, record.superseded) {
            (Some(at), _) => format!("revoked {}", date(at)),
            (None, Some(at)) => format!("replaced, accepted until {}", date(at)),
            (None, None) => "valid".to_owned(),
        };
        println!("certificate {}: {state}, {} to {}", record.serial, date(record.not_before), date(record.not_after));
        println!("  SHA-256 {}", record.fingerprint);
    }
    Ok(ExitCode::SUCCESS)
}

/// Revokes a device.
pub async fn revoke(config: &Config, id: &DeviceId, json: bool) -> anyhow::Result<ExitCode> {
    match Client::connect(&config.data_dir).await? {
        Some(client) => {
            let _: DeviceDetails = client.post(&format!("/api/v1/devices/{id}/revoke"), &()).await?;
        }
        None => {
            offline(config, |authority| {
                authority.revoke(id)?;
                authority.renew_lists();
                Ok(())
            })?;
        }
    }
    if json {
        print_json(&serde_json::json!({ "id": id, "revoked": true }))?;
    } else {
        println!("device {id} revoked");
    }
    Ok(ExitCode::SUCCESS)
}
