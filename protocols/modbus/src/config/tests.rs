//! Good and bad configurations, the bad ones with the text they must give.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use fieldgate_protocol::{Access, Deadband};
use fieldgate_types::Sources;

use super::*;
use crate::Table;
use crate::codec::Kind;

const MAP: &str = r#"
[[point]]
name = "energy"
at = 30001
type = "u32"
"#;

fn read(text: &str) -> (Option<ModbusConfig>, Vec<String>) {
    let sources = Sources::new(Box::new(|path| {
        if path == Path::new("/etc/maps/meter.toml") {
            Ok(MAP.to_owned())
        } else {
            Err(std::io::Error::other("not there"))
        }
    }));
    let config = first(&sources, text);
    (config, sources.problems().iter().map(ToString::to_string).collect())
}

fn first(sources: &Rc<Sources>, text: &str) -> Option<ModbusConfig> {
    let root = sources.root("f.toml", Path::new("/etc"), text);
    let configs: Vec<_> = root.sections("modbus").iter().map(ModbusConfig::read).collect();
    configs.into_iter().next().flatten()
}

#[test]
fn reads_every_key() {
    let (config, problems) = read(
        r#"
[[modbus]]
url = "tcp://192.0.2.10"
timeout = "250ms"
pause = "5ms"
max_block = 100
max_gap = 4
[[modbus.device]]
id = "press-1"
unit = 7
interval = "2s"
points_from = "maps/meter.toml"
report = "always"
heartbeat = "10s"
deadband = "1%"
[[modbus.device.point]]
name = "temperature"
at = "holding:100"
type = "f32"
order = "CDAB"
scale = 0.1
offset = -5
unit = "°C"
interval = "500ms"
deadband = 0.5
report = "on-change"
heartbeat = "60s"
access = "rw"
range = [0.0, 90.0]
[[modbus.device.point]]
name = "lamp"
at = "coil:3"
access = "rw"
"#,
    );
    assert_eq!(problems, [""; 0]);
    let config = config.unwrap();
    assert_eq!(config.link.endpoint.to_string(), "tcp://192.0.2.10:502");
    assert_eq!((config.link.timeout, config.link.pause), (Duration::from_millis(250), Duration::from_millis(5)));
    assert_eq!(config.limits, Limits { max_block: 100, max_gap: 4 });
    assert_eq!(config.device_ids().map(DeviceId::as_str).collect::<Vec<_>>(), ["press-1"]);
    let device = &config.devices[0];
    assert_eq!(device.unit, UnitId(7));
    let [energy, temperature, lamp] = &device.points[..] else { panic!("{:?}", device.points) };
    assert_eq!((energy.at.table, energy.at.offset, energy.interval), (Table::Input, 0, Duration::from_secs(2)));
    assert!(energy.point.report.always);
    assert_eq!(energy.point.report.deadband, Some(Deadband::Percent(1.0)));
    assert_eq!(temperature.interval, Duration::from_millis(500));
    assert_eq!(temperature.point.range, Some((0.0, 90.0)));
    assert!(!temperature.point.report.always);
    assert_eq!((lamp.codec.kind(), lamp.point.access), (Kind::Bool, Access::ReadWrite));
}

#[test]
fn fills_in_defaults() {
    let (config, problems) = read(
        "[[modbus]]\nurl = \"tcp://plc\"\n[[modbus.device]]\nid = \"a\"\n[[modbus.device.point]]\nname = \"p\"\nat = \"input:0\"\ntype = \"i16\"\n",
    );
    assert_eq!(problems, [""; 0]);
    let config = config.unwrap();
    assert_eq!((config.link.timeout, config.link.pause), (Duration::from_secs(1), Duration::ZERO));
    assert_eq!(config.limits, Limits { max_block: 125, max_gap: 8 });
    assert_eq!((config.devices[0].unit, config.devices[0].points[0].interval), (UnitId(1), Duration::from_secs(1)));
}

#[test]
fn locates_everything_that_is_wrong_at_once() {
    let (config, problems) = read(
        r#"
[[modbus]]
url = "rtu:///dev/ttyUSB0?baud=100"
max_block = 2
[[modbus.device]]
id = "a"
unit = 256
points_from = "maps/none.toml"
[[modbus.device.point]]
name = "p"
at = "holding:65535"
type = "f32"
[[modbus.device.point]]
name = "p"
at = "holding:1"
type = "u16"
[[modbus.device.point]]
name = "q"
at = "discrete:1"
type = "u16"
access = "rw"
[[modbus.device.point]]
name = "r"
at = "holding:2"
type = "f64"
scale = 0
[[modbus.device.point]]
name = "s"
at = "holding:2"
type = "i16"
scale = 0.1
access = "rw"
range = [-10, 4000]
[[modbus.device.point]]
name = "t"
at = "holding:3.1"
type = "bcd16"
[[modbus.device.point]]
name = "u"
at = "holding:4"
type = "u15"
oder = "CDAB"
[[modbus.device.point]]
name = "v"
at = "holding:5"
type = "f64"
order = "ABDC"
[[modbus.device]]
id = "a"
[[modbus.device.point]]
name = "w"
at = "holding:6"
type = "string:8"
"#,
    );
    assert_eq!(config, None);
    assert_eq!(
        problems,
        [
            "f.toml:3:7: modbus.url: `rtu:///dev/ttyUSB0?baud=100`: baud `100` is not possible, 300 to 4000000 is allowed",
            "f.toml:7:8: modbus.device.unit: `256` is out of range, 0 to 255 is allowed",
            "f.toml:8:15: modbus.device.points_from: can't read `/etc/maps/none.toml`: not there",
            "f.toml:11:6: modbus.device.point.at: `holding:65535` leaves no room for the 2 registers of f32: the last address is 65535",
            "f.toml:14:8: modbus.device.point.name: `p` is used twice in this device, each point needs its own",
            "f.toml:20:8: modbus.device.point.type: `u16` can't lie in a discrete, which is one bit: bool is allowed",
            "f.toml:21:10: modbus.device.point.access: `rw` is not possible: a discrete can only be read, coil and holding can be written",
            "f.toml:26:9: modbus.device.point.scale: `0` would make every value the same, any other number is allowed",
            "f.toml:33:9: modbus.device.point.range: goes beyond what i16 with this scale and offset can hold, -3276.8 to 3276.7 is allowed",
            "f.toml:36:6: modbus.device.point.at: `holding:3.1` names a bit of a register, which this version of the driver does not read: give the whole register as u16",
            "f.toml:37:8: modbus.device.point.type: `bcd16` is a type that this version of the driver can't read: read it as u16",
            "f.toml:41:8: modbus.device.point.type: `u15` is not a type, bool, i16, u16, i32, u32, i64, u64, f32, f64 is allowed",
            "f.toml:42:1: modbus.device.point.oder: unknown key, did you mean `order`?",
            "f.toml:46:8: modbus.device.point.type: `f64` takes 4 registers, more than the link's max_block = 2",
            "f.toml:47:9: modbus.device.point.order: `ABDC` is unknown, \"ABCD\", \"CDAB\", \"BADC\" or \"DCBA\" is allowed, did you mean \"ABCD\"?",
            "f.toml:53:8: modbus.device.point.type: `string:8` is a type that this version of the driver can't read: leave the point out",
        ]
    );
}

#[test]
fn devices_of_a_link_have_their_own_id_and_unit() {
    let device = "[[modbus.device]]\nid = \"a\"\n[[modbus.device.point]]\nname = \"p\"\nat = 40001\ntype = \"u16\"\n";
    let (_, problems) = read(&format!("[[modbus]]\nurl = \"tcp://h\"\n{device}{device}"));
    assert_eq!(
        problems,
        [
            "f.toml:9:1: modbus.device.unit: `1` is already the unit of `a` on this link",
            "f.toml:10:6: modbus.device.id: `a` is used twice on this link, each device needs its own id",
        ]
    );
}

#[test]
fn a_link_without_devices_or_a_device_without_points_is_refused() {
    let (config, problems) =
        read("[[modbus]]\nurl = \"tcp://h\"\n[[modbus]]\nurl = \"tcp://h\"\n[[modbus.device]]\nid = \"a\"\n");
    assert_eq!(config, None);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("modbus.device: is missing"), "{problems:?}");
    assert!(problems[1].contains("modbus.device.point: is missing"), "{problems:?}");
}
