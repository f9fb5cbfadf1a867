//! `fieldgate point watch`: live values, read from the devices again and again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use anyhow::bail;
use fieldgate_protocol::Status;
use fieldgate_types::{Clock, DeviceId, SystemClock, UnixMillis};
use serde_json::{Value as Json, json};

use super::direct::Field;
use super::screen::Rounds;
use super::show::date;
use crate::admin::api::PointEntry;
use crate::config::Config;

/// Points of a device that are read with one command.
const AT_ONCE: usize = 100;

/// Shows the points of `device`, or of all field devices: on a terminal a table, else a line for each change; with
/// `json` a line of JSON for each device and look.
pub async fn watch(config: &Config, device: Option<DeviceId>, rounds: Rounds, json: bool) -> anyhow::Result<ExitCode> {
    let wanted = |id: &DeviceId| device.as_ref().is_none_or(|device| device == id);
    let field = Field::reach(config, |id, _| wanted(id)).await?;
    let shown = show(&field, wanted, device.as_ref(), rounds, json).await;
    field.close().await;
    shown
}

async fn show(
    field: &Field,
    wanted: impl Fn(&DeviceId) -> bool,
    device: Option<&DeviceId>,
    rounds: Rounds,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let points: Vec<PointEntry> = field.points().await?.into_iter().filter(|point| wanted(&point.device)).collect();
    if points.is_empty() {
        match device {
            Some(device) => bail!("`{device}` is no field device with points; `fieldgate point list` shows all"),
            None => bail!("there are no field devices in the configuration"),
        }
    }
    let table = stdout().is_terminal() && !json;
    let clock = SystemClock::new();
    let mut shown: BTreeMap<(DeviceId, String), String> = BTreeMap::new();
    let look = async || {
        let mut text = String::new();
        let mut values = BTreeMap::new();
        for (device, names) in by_device(&points) {
            let mut read = BTreeMap::new();
            for names in names.chunks(AT_ONCE) {
                read.extend(ask(field, device, names).await?);
            }
            if json {
                text.push_str(&json!({ "ts": clock.now(), "device": device, "points": read }).to_string());
                text.push('\n');
            }
            values.extend(read.into_iter().map(|(name, value)| ((device.clone(), name), value)));
        }
        if table {
            text = as_table(&points, &values, clock.now());
        } else if !json {
            text = changes(&values, &mut shown, clock.now());
        }
        Ok(text)
    };
    rounds.show(!table, look).await?;
    Ok(ExitCode::SUCCESS)
}

fn by_device(points: &[PointEntry]) -> BTreeMap<&DeviceId, Vec<&str>> {
    let mut devices: BTreeMap<&DeviceId, Vec<&str>> = BTreeMap::new();
    for point in points {
        devices.entry(&point.device).or_default().push(&point.point);
    }
    devices
}

/// `{"value":…}` or `{"error":"…"}` for each name.
async fn ask(field: &Field, device: &DeviceId, names: &[&str]) -> anyhow::Result<BTreeMap<String, Json>> {
    let outcome = field.ask(device, "read", &json!({ "points": names })).await?;
    let values = outcome.value.as_ref();
    let failed = outcome.reason.as_deref().unwrap_or("no value");
    let answer = |name: &&str| {
        let value = values.and_then(|values| values.get(*name)).filter(|_| outcome.status == Status::Ok);
        let told = value.map_or_else(|| json!({ "error": failed }), |value| json!({ "value": value }));
        ((*name).to_owned(), told)
    };
    Ok(names.iter().map(answer).collect())
}

type Values = BTreeMap<(DeviceId, String), Json>;

fn words(value: Option<&Json>) -> String {
    let Some(told) = value else { return "?".to_owned() };
    match (told.get("value"), told.get("error").and_then(Json::as_str)) {
        (Some(Json::String(text)), _) => text.clone(),
        (Some(value), _) => value.to_string(),
        (None, error) => format!("({})", error.unwrap_or("no value")),
    }
}

fn as_table(points: &[PointEntry], values: &Values, now: UnixMillis) -> String {
    let mut text = format!("{}\n{:<24} {:<32} VALUE\n", date(now), "DEVICE", "POINT");
    for PointEntry { device, point, unit, .. } in points {
        let value = words(values.get(&(device.clone(), point.clone())));
        let unit = unit.as_deref().unwrap_or_default();
        text.extend([&format!("{:<24} {point:<32} {value}", device.as_str()), " ", unit, "\n"]);
    }
    text
}

fn changes(values: &Values, shown: &mut BTreeMap<(DeviceId, String), String>, now: UnixMillis) -> String {
    let mut text = String::new();
    for (key, value) in values {
        let value = words(Some(value));
        if shown.get(key) != Some(&value) {
            let (device, point) = key;
            text.extend([&date(now), " ", device.as_str(), " ", point, " ", &value, "\n"]);
            shown.insert(key.clone(), value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line_and_what_stays_is_none() {
        let key = |point: &str| (DeviceId::new("press-1").unwrap(), point.to_owned());
        let mut values: Values =
            [(key("a"), json!({ "value": 1.5 })), (key("b"), json!({ "error": "no answer" }))].into();
        let mut shown = BTreeMap::new();
        let now = UnixMillis(1_793_491_200_000);
        let first = changes(&values, &mut shown, now);
        assert_eq!(first, "2026-11-01T00:00:00Z press-1 a 1.5\n2026-11-01T00:00:00Z press-1 b (no answer)\n");
        assert_eq!(changes(&values, &mut shown, now), "");
        values.insert(key("b"), json!({ "value": "on" }));
        assert_eq!(changes(&values, &mut shown, now), "2026-11-01T00:00:00Z press-1 b on\n");
    }
}
