//! Good and bad configurations, the bad ones with the text they must give.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use fieldgate_protocol::{Access, Deadband};
use fieldgate_types::Sources;

use super::*;
use crate::Table;
use crate::codec::{Codec, Kind, Order};

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
type = "string:0"
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
            "f.toml:37:8: modbus.device.point.type: `bcd16` is no bit of a register: bit is allowed",
            "f.toml:41:8: modbus.device.point.type: `u15` is not a type, bool, i16, u16, i32, u32, i64, u64, f32, f64, bcd16, bcd32, bit, string:N is allowed",
            "f.toml:42:1: modbus.device.point.oder: unknown key, did you mean `order`?",
            "f.toml:46:8: modbus.device.point.type: `f64` takes 4 registers, more than the link's max_block = 2",
            "f.toml:47:9: modbus.device.point.order: `ABDC` is unknown, \"ABCD\", \"CDAB\", \"BADC\" or \"DCBA\" is allowed, did you mean \"ABCD\"?",
            "f.toml:53:8: modbus.device.point.type: `string:0` is not possible, string:1 to string:246 is allowed, in bytes",
        ]
    );
}

#[test]
fn reads_types_and_notations_of_the_field() {
    let point = |keys: &str| {
        let device =
            "[[modbus]]\nurl = \"tcp://h\"\n[[modbus.device]]\nid = \"a\"\n[[modbus.device.point]]\nname = \"p\"\n";
        let (config, problems) = read(&format!("{device}{keys}"));
        config.filter(|_| problems.is_empty()).map(|config| config.devices[0].points[0].clone()).ok_or(problems)
    };
    let good = |keys: &str| point(keys).unwrap();
    assert_eq!(good("at = \"holding:10.3\"").codec.kind(), Kind::Bit(3));
    assert_eq!(good("at = \"30011.15\"\ntype = \"bit\"").codec.kind(), Kind::Bit(15));
    let combined = good("at = \"1!400001#CDAB\"\ntype = \"bcd32\"");
    assert_eq!(combined.codec, Codec::new(Kind::Bcd32, Order::Cdab, 1.0, 0.0));
    assert_eq!(good("at = 40001\ntype = \"string:11\"").extent().width, 6);
    let named = good("at = 40001\ntype = \"u16\"\nenum = { 0 = \"off\", 0x10 = \"on\" }\nwrite = \"multiple\"");
    assert_eq!(named.codec.decode(&[16]), Ok(fieldgate_protocol::Value::Text("on".into())));
    assert_eq!(named.write, WriteWith::Multiple);
    assert!(good("at = 40001\ntype = \"i16\"\ninvalid = [0x8000, 0x7FFF]").codec.decode(&[0x8000]).is_err());
    for (keys, problem) in [
        ("at = \"holding:1\"\ntype = \"bit\"", "f.toml:8:8: modbus.device.point.type: which bit?"),
        ("at = \"holding:1.16\"\ntype = \"u16\"", "names no bit of a register"),
        ("at = \"holding:1.2\"\ntype = \"u16\"", "`u16` is no bit of a register"),
        ("at = \"2!40001\"\ntype = \"u16\"", "`2!` is another unit than the device's, which is 1"),
        ("at = \"40001#CDAB\"\ntype = \"u32\"\norder = \"DCBA\"", "is another one than behind the `#`"),
        ("at = 40001\ntype = \"string:247\"", "string:1 to string:246 is allowed"),
        ("at = 40001\ntype = \"string:4\"\norder = \"CDAB\"", "ABCD or BADC is allowed"),
        ("at = 40001\ntype = \"f32\"\nenum = { 0 = \"off\" }", "has no meaning for a f32"),
        ("at = 40001\ntype = \"u16\"\nenum = { x = \"off\" }", "`x` is not a whole number"),
        ("at = 40001\ntype = \"u16\"\nscale = 2\nenum = { 0 = \"off\" }", "not together with scale"),
        ("at = 40001\ntype = \"string:4\"\ninvalid = [1]", "has no meaning for a string"),
        ("at = 40001\ntype = \"u16\"\nwrite = \"both\"", "`both` is unknown"),
    ] {
        let problems = point(keys).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(problem), "{keys}: {problems:?}");
    }
}

#[test]
fn keys_of_tls_and_of_a_line_stand_where_they_mean_something() {
    let link = |keys: &str| {
        let device =
            "[[modbus.device]]\nid = \"a\"\nunit = 0\n[[modbus.device.point]]\nname = \"p\"\nat = \"coil:0\"\n";
        read(&format!("[[modbus]]\n{keys}\n{device}")).1
    };
    assert_eq!(link("url = \"mbaps://h\"\nca = \"ca.pem\"\ncert = \"c.pem\"\nkey = \"k.pem\""), [""; 0]);
    for (keys, problem) in [
        ("url = \"mbaps://h\"", "modbus.ca: is missing"),
        ("url = \"mbaps://h\"\nca = \"c\"\ncert = \"c\"", "modbus.cert: its private key is missing"),
        ("url = \"mbaps://h\"\nca = \"c\"\nkey = \"c\"", "modbus.key: its certificate is missing"),
        ("url = \"tcp://h\"\nca = \"c\"", "modbus.ca: has a meaning for mbaps:// links alone"),
        ("url = \"rtu:///dev/ttyS0\"", "modbus.device.unit: `0` speaks to all units of a line"),
    ] {
        let problems = link(keys);
        assert!(problems.len() == 1 && problems[0].contains(problem), "{keys}: {problems:?}");
    }
}

const LINE: &str =
    "[[modbus]]\nurl = \"rtu:///dev/ttyS0?baud=9600\"\n[[modbus.device]]\nid = \"a\"\ninterval = \"100ms\"\n";

#[test]
fn counts_bytes_and_time_of_each_request() {
    let map = "[[modbus.device.point]]\nname = \"p\"\nat = \"holding:10\"\ntype = \"f32\"\n[[modbus.device.point]]\nname = \"q\"\nat = \"holding:14\"\ntype = \"u16\"\n[[modbus.device.point]]\nname = \"r\"\nat = \"coil:0\"\ninterval = \"1s\"\n";
    let (config, problems) = read(&format!("{LINE}{map}"));
    assert_eq!(problems, [""; 0]);
    let plan = config.unwrap().plan();
    assert_eq!((plan.timed, plan.requests.len(), plan.cycles.len()), (true, 2, 2));
    let [words, bits] = plan.requests.try_into().unwrap();
    assert_eq!(
        (words.function, words.at.as_str(), words.count, words.points),
        (3, "holding:10", 5, vec!["p".to_owned(), "q".to_owned()])
    );
    // Eight bytes out; unit, function, length, ten of data and two of checksum back; eleven bits each, two silences.
    assert_eq!((words.request_bytes, words.answer_bytes), (8, 15));
    assert_eq!(words.bus_us, 26_354 + 2 * 4_010);
    assert_eq!((bits.function, bits.answer_bytes, bits.interval_ms), (1, 6, 1_000));
    assert!((plan.load_percent - (34.374 + 2.406)).abs() < 0.01, "{}", plan.load_percent);
}

#[test]
fn refuses_a_plan_that_does_not_fit_on_the_bus() {
    let point = |at| format!("[[modbus.device.point]]\nname = \"p{at}\"\nat = \"holding:{at}\"\ntype = \"u16\"\n");
    let points = [0, 100, 200, 300].map(point).concat();
    let (_, problems) = read(&format!("{LINE}{points}"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("f.toml:2:7: modbus.url: the points need 101 % of the time on this link"),
        "{problems:?}"
    );
    let (_, problems) = read(&format!("{}{points}", LINE.replace("9600", "19200")));
    assert_eq!(problems, [""; 0]);
    // Over TCP the round trip is unknown, the pause is not.
    let pauses = LINE.replace("rtu:///dev/ttyS0?baud=9600\"", "tcp://h\"\npause = \"30ms\"");
    let (_, problems) = read(&format!("{pauses}{points}"));
    assert!(problems.len() == 1 && problems[0].contains("need 120 %"), "{problems:?}");
}

#[test]
fn what_is_to_be_skipped_is_never_read() {
    let text = |skip: &str| {
        let points = "[[modbus.device.point]]\nname = \"p\"\nat = \"holding:10\"\ntype = \"u16\"\n[[modbus.device.point]]\nname = \"q\"\nat = \"holding:14\"\ntype = \"u16\"\n";
        read(&format!("{LINE}skip = [{skip}]\n{points}"))
    };
    let reads = |skip: &str| text(skip).0.unwrap().plan().requests.len();
    assert_eq!((reads("\"holding:20-30\""), reads("\"holding:11-12\""), reads("\"40013\"")), (1, 2, 2));
    for (skip, problem) in [
        ("\"holding:14-20\"", "`holding:14` lies in what the device's `skip` forbids to read"),
        ("\"holding:12-11\"", "is not a range of addresses"),
        ("\"holding:12.1\"", "is not a range of addresses"),
    ] {
        let problems = text(skip).1;
        assert!(problems.len() == 1 && problems[0].contains(problem), "{problems:?}");
    }
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

#[test]
fn devices_of_a_kind_share_their_points_in_memory() {
    let device = |id: &str, unit: u8, more: &str| {
        format!("[[modbus.device]]\nid = \"{id}\"\nunit = {unit}\npoints_from = \"maps/meter.toml\"\n{more}")
    };
    let text = format!(
        "[[modbus]]\nurl = \"tcp://h\"\n{}{}{}",
        device("a", 1, ""),
        device("b", 2, ""),
        device("c", 3, "interval = \"2s\"")
    );
    let (config, problems) = read(&text);
    assert_eq!(problems, [""; 0]);
    let (mut one, mut lists) = (config.unwrap(), PointLists::default());
    let before = one.clone();
    lists.share(&mut one);
    assert_eq!(one, before);
    let mut other = before.clone();
    lists.share(&mut other);
    let points = [&one.devices[0], &one.devices[1], &one.devices[2], &other.devices[0]].map(|device| &device.points);
    let shared = |left: usize, right: usize| Arc::ptr_eq(points[left], points[right]);
    assert_eq!((shared(0, 1), shared(0, 3), shared(0, 2)), (true, true, false));
}
