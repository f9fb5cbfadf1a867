//! `fieldgate point …`

use std::process::ExitCode;
use std::sync::Arc;

use fieldgate_protocol::{FieldDevice, Outcome, Status};
use fieldgate_types::DeviceId;
use serde_json::{Value as Json, json};

use super::client::Client;
use super::direct::Field;
use super::show::print_json;
use crate::admin::api::PointEntry;
use crate::config::Config;
use crate::southbound::drivers::links;

/// All points.
pub async fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let points: Vec<PointEntry> = match Client::connect(&config.data_dir).await? {
        Some(client) => client.get("/api/v1/points").await?,
        None => configured(config).flat_map(|device| {
            if device.grows {
                let id = &device.id;
                eprintln!("fieldgate: `{id}` has further points, which are found when its server is browsed: `fieldgate point watch {id}` does that");
            }
            PointEntry::of(&device).collect::<Vec<_>>()
        }).collect(),
    };
    if json {
        print_json(&points)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<24} {:<32} {:<8} ACCESS", "DEVICE", "POINT", "UNIT");
    for point in points {
        let access = if point.writable { "rw" } else { "r" };
        println!("{:<24} {:<32} {:<8} {access}", point.device, point.point, point.unit.unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads one point now.
pub async fn read(config: &Config, device: &DeviceId, point: &str, json: bool) -> anyhow::Result<ExitCode> {
    let outcome = ask(config, device, point, ("read", json!({ "points": [point] }))).await?;
    let value = outcome.value.as_ref().and_then(|values| values.get(point)).cloned();
    finish(&outcome, value, json)
}

/// Writes one point.
pub async fn write(
    config: &Config,
    device: &DeviceId,
    point: &str,
    text: &str,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let value: Json = serde_json::from_str(text).unwrap_or_else(|_| Json::from(text));
    let outcome = ask(config, device, point, ("write", json!({ "point": point, "value": value }))).await?;
    let value = outcome.value.clone();
    finish(&outcome, value, json)
}

/// The field devices, with the points that the configuration names.
fn configured(config: &Config) -> impl Iterator<Item = FieldDevice> {
    links(config).into_iter().flat_map(move |(_, link)| Arc::new(link).maker(&config.data_dir)().devices())
}

async fn ask(
    config: &Config,
    device: &DeviceId,
    point: &str,
    (command, body): (&str, Json),
) -> anyhow::Result<Outcome> {
    let mut devices = configured(config).filter(|of| of.id == *device);
    let known = devices.any(|of| of.points.iter().any(|one| one.name.as_str() == point));
    // Looked for only where it isn't in the configuration.
    let wanted = |of: &DeviceId, name: Option<&str>| of == device && name.map_or(!known, |name| name == point);
    let field = Field::reach(config, wanted).await?;
    let outcome = field.ask(device, command, &body).await;
    field.close().await;
    outcome
}

fn finish(outcome: &Outcome, value: Option<Json>, json: bool) -> anyhow::Result<ExitCode> {
    let ok = outcome.status == Status::Ok;
    if json {
        print_json(outcome)?;
    } else if ok {
        println!("{}", value.unwrap_or(Json::Null));
    } else {
        let status = format!("{:?}", outcome.status).to_lowercase();
        eprintln!("fieldgate: {status}: {}", outcome.reason.as_deref().unwrap_or("no reason was given"));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
