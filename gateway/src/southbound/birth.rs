//! What a field device has, told locally and upstream on `devices/{id}/birth`, retained: whoever reads its values finds
//! units, types and descriptions there. Sent at each start of the gateway, before the device's first values; for a device that
//! grows, once its points are found, and again when there are more.

use fieldgate_protocol::{Access, FieldDevice, Point};
use serde_json::{Map, Value as Json, json};

use super::outlet::Document;
use crate::pipeline::topic;

/// The birth of `device`, which is reached by `protocol` on `link`.
pub fn of(device: &FieldDevice, protocol: &str, link: &str) -> Document {
    let names: Vec<&str> = device.methods.iter().map(fieldgate_protocol::PointName::as_str).collect();
    let methods = if names.is_empty() { String::new() } else { format!("\"methods\":{},", json!(names)) };
    // One after the other: as a tree, ten thousand points take twenty times the room of their text.
    let mut points = String::new();
    for one in &device.points {
        points.extend([if points.is_empty() { "" } else { "," }, &point(one).to_string()]);
    }
    let (link, via) = (json!(link), json!(protocol));
    let payload = format!(r#"{{"link":{link},{methods}"points":[{points}],"v":1,"via":{via}}}"#).into_bytes();
    Document { device: device.id.clone(), topic: topic::birth(&device.id), payload, retain: true, history: false }
}

fn point(point: &Point) -> Json {
    let Point { name, unit, description, kind, access, range, report: _ } = point;
    let mut told = Map::new();
    told.insert("name".to_owned(), json!(name.as_str()));
    for (key, value) in [("type", kind), ("unit", unit), ("description", description)] {
        if let Some(value) = value {
            told.insert(key.to_owned(), json!(value));
        }
    }
    let access = match access {
        Access::Read => "r",
        Access::ReadWrite => "rw",
    };
    told.insert("access".to_owned(), json!(access));
    if let Some((low, high)) = range {
        told.insert("range".to_owned(), json!([low, high]));
    }
    Json::Object(told)
}

#[cfg(test)]
mod tests {
    use fieldgate_protocol::{PointName, Report};
    use fieldgate_types::DeviceId;

    use super::*;

    #[test]
    fn says_what_is_known_and_leaves_out_the_rest() {
        let bare = Point {
            name: PointName::new("level").unwrap(),
            unit: None,
            description: None,
            kind: None,
            access: Access::Read,
            range: None,
            report: Report::default(),
        };
        let full = Point {
            name: PointName::new("setpoint").unwrap(),
            unit: Some("°C".to_owned()),
            description: Some("of the oven".to_owned()),
            kind: Some("i16".to_owned()),
            access: Access::ReadWrite,
            range: Some((0.0, 90.5)),
            ..bare.clone()
        };
        let id = DeviceId::new("oven-1").unwrap();
        let mut device = FieldDevice { id, points: vec![bare.into(), full.into()], methods: Vec::new(), grows: false };
        let document = of(&device, "modbus", "tcp://h:502");
        assert_eq!((document.topic.as_str(), document.retain), ("devices/oven-1/birth", true));
        let told: Json = serde_json::from_slice(&document.payload).unwrap();
        let expected = json!({
            "v": 1, "via": "modbus", "link": "tcp://h:502",
            "points": [
                { "name": "level", "access": "r" },
                { "name": "setpoint", "type": "i16", "unit": "°C", "description": "of the oven", "access": "rw", "range": [0.0, 90.5] },
            ],
        });
        assert_eq!(told, expected);
        device.methods.push(PointName::new("start").unwrap());
        let told: Json = serde_json::from_slice(&of(&device, "opcua", "l").payload).unwrap();
        assert_eq!(told["methods"], json!(["start"]));
    }
}
