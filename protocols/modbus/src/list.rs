//! Point lists as spreadsheets have them: CSV to the `[[point]]` tables of a `points_from` file, and back.
//!
//! The first line names the keys of a point, in any order and number; `name` and `at` must be among them. Cells are
//! separated by commas, or by semicolons where the first line has those, and quoted as in RFC 4180. In one cell,
//! `invalid` and `range` hold numbers with blanks between them, `enum` holds `0=off 1=on` or, with blanks in the texts,
//! `0=off|1=all on`.

use std::fmt::Write;
use std::path::Path;

use fieldgate_protocol::{Access, Deadband, Report};
use fieldgate_types::{Sources, duration};

use crate::codec::Order;
use crate::config::{DeviceConfig, PointConfig, WriteWith};

/// How a key's cell is written in TOML.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// In quotes.
    Text,
    /// As it stands.
    Number,
    /// A number as it stands, anything else in quotes.
    Either,
    /// An array of numbers.
    Numbers,
    /// A table of texts.
    Names,
}

const KEYS: [(&str, Cell); 17] = [
    ("name", Cell::Text),
    ("at", Cell::Text),
    ("type", Cell::Text),
    ("order", Cell::Text),
    ("scale", Cell::Number),
    ("offset", Cell::Number),
    ("unit", Cell::Text),
    ("description", Cell::Text),
    ("interval", Cell::Text),
    ("access", Cell::Text),
    ("range", Cell::Numbers),
    ("report", Cell::Text),
    ("heartbeat", Cell::Text),
    ("deadband", Cell::Either),
    ("invalid", Cell::Numbers),
    ("enum", Cell::Names),
    ("write", Cell::Text),
];

/// The `[[point]]` tables of the CSV text `csv`, which is called `name`; or everything that is wrong with it, each as
/// `name:LINE: key: what`.
pub fn to_toml(name: &str, csv: &str) -> Result<String, Vec<String>> {
    let mut lines = records(csv).into_iter();
    let Some((_, header)) = lines.next() else {
        return Err(vec![format!("{name}:1: is empty, the first line names the keys: name,at,type,…")]);
    };
    let mut problems = Vec::new();
    let mut columns = Vec::new();
    for title in &header {
        let key = title.trim().to_lowercase();
        let known = KEYS.into_iter().find(|(word, _)| *word == key);
        if known.is_none() {
            let allowed = KEYS.map(|(word, _)| word).join(", ");
            problems.push(format!("{name}:1: `{title}` is not a key of a point, {allowed} is allowed"));
        }
        columns.push(known);
    }
    let mut toml = String::new();
    let mut seen = std::collections::BTreeMap::new();
    for (line, cells) in lines {
        if cells.len() > columns.len() {
            let (got, wanted) = (cells.len(), columns.len());
            problems.push(format!("{name}:{line}: {got} cells, the first line has {wanted}"));
            continue;
        }
        let mut table = String::from("[[point]]\n");
        for (cell, column) in cells.iter().zip(&columns) {
            if let (Some((key, kind)), false) = (column, cell.trim().is_empty()) {
                table.extend([*key, " = ", &written(cell.trim(), *kind), "\n"]);
                if let Some(first) = (*key == "name").then(|| seen.insert(cell.trim().to_owned(), line)).flatten() {
                    problems.push(format!("{name}:{line}: name: `{}` is already in line {first}", cell.trim()));
                }
            }
        }
        problems.extend(wrong(&table).into_iter().map(|wrong| format!("{name}:{line}: {wrong}")));
        toml += &table;
        toml.push('\n');
    }
    if toml.is_empty() && problems.is_empty() {
        problems.push(format!("{name}:2: there is no point, each line after the first is one"));
    }
    if problems.is_empty() { Ok(toml) } else { Err(problems) }
}

/// The points of a device as CSV.
pub fn to_csv(device: &DeviceConfig) -> String {
    let mut csv = KEYS.map(|(key, _)| key).join(",") + "\n";
    for point in &*device.points {
        let cells = KEYS.map(|(key, _)| quoted(&cell(key, point)));
        csv += &(cells.join(",") + "\n");
    }
    csv
}

fn cell(key: &str, config: &PointConfig) -> String {
    let (point, codec, plain) = (&config.point, &config.codec, Report::default());
    let numbers = |numbers: &[f64]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let unless = |default: bool, text: String| if default { String::new() } else { text };
    match key {
        "name" => point.name.to_string(),
        "at" => codec.bit().map_or_else(|| config.at.to_string(), |bit| format!("{}.{bit}", config.at)),
        "type" => unless(config.at.table.is_bits() || codec.bit().is_some(), codec.kind().to_string()),
        "order" => unless(codec.order() == Order::Abcd, word(&Order::WORDS, codec.order())),
        "scale" => codec.scale().map(|(scale, _)| scale.to_string()).unwrap_or_default(),
        "offset" => codec.scale().map(|(_, offset)| offset.to_string()).unwrap_or_default(),
        "unit" => point.unit.clone().unwrap_or_default(),
        "description" => point.description.clone().unwrap_or_default(),
        "interval" => duration::format(config.interval),
        "access" => if point.access == Access::ReadWrite { "rw" } else { "r" }.to_owned(),
        "range" => point.range.map(|(low, high)| numbers(&[low, high])).unwrap_or_default(),
        "report" => unless(!point.report.always, "always".to_owned()),
        "heartbeat" => unless(point.report.heartbeat == plain.heartbeat, duration::format(point.report.heartbeat)),
        "deadband" => match point.report.deadband {
            None => String::new(),
            Some(Deadband::Absolute(by)) => by.to_string(),
            Some(Deadband::Percent(share)) => format!("{share}%"),
        },
        "invalid" => numbers(codec.invalid()),
        "enum" => codec.texts().iter().map(|(number, text)| format!("{number}={text}")).collect::<Vec<_>>().join("|"),
        _ => unless(config.write == WriteWith::Auto, word(&WriteWith::WORDS, config.write)),
    }
}

fn word<T: PartialEq>(words: &[(&str, T)], wanted: T) -> String {
    words.iter().find(|(_, one)| *one == wanted).map(|(word, _)| (*word).to_owned()).unwrap_or_default()
}

/// What is wrong with one point, without a place: this is known better here.
fn wrong(table: &str) -> Vec<String> {
    let sources = Sources::new(Box::new(|_| Err(std::io::ErrorKind::NotFound.into())));
    for section in sources.root("", Path::new("."), table).sections("point") {
        PointConfig::alone(&section);
    }
    let key = |key: &str| key.trim_start_matches("point.").to_owned();
    sources.problems().iter().map(|problem| format!("{}: {}", key(&problem.key), problem.message)).collect()
}

fn written(cell: &str, kind: Cell) -> String {
    let text = |text: &str| {
        let mut quoted = String::from("\"");
        for c in text.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => _ = write!(quoted, "\\u{:04X}", u32::from(c)),
                c => quoted.push(c),
            }
        }
        quoted + "\""
    };
    let is_number = |cell: &str| cell.parse::<f64>().is_ok_and(f64::is_finite) || hexadecimal(cell);
    let number = |cell: &str| if is_number(cell) { cell.trim_start_matches('+').to_owned() } else { text(cell) };
    match kind {
        Cell::Text => text(cell),
        Cell::Number | Cell::Either => number(cell),
        Cell::Numbers => format!("[{}]", cell.split_whitespace().map(number).collect::<Vec<_>>().join(", ")),
        Cell::Names => {
            let parts: Vec<&str> =
                if cell.contains('|') { cell.split('|').collect() } else { cell.split_whitespace().collect() };
            let pair = |part: &str| {
                let (number, name) = part.split_once('=').unwrap_or((part, ""));
                format!("{} = {}", text(number.trim()), text(name.trim()))
            };
            format!("{{ {} }}", parts.into_iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

fn hexadecimal(cell: &str) -> bool {
    cell.strip_prefix("0x").is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', ';', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

/// The records of a CSV text with the lines that they begin in. Empty lines and a byte order mark are left out.
fn records(csv: &str) -> Vec<(usize, Vec<String>)> {
    let csv = csv.trim_start_matches('\u{FEFF}');
    let first = csv.lines().next().unwrap_or_default();
    let separator = if first.contains(';') { ';' } else { ',' };
    let (mut records, mut cells, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begun, mut inside) = (1, 1, false);
    let mut chars = csv.chars().chain(['\n']).peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => inside = !inside,
            c if c == separator && !inside => cells.push(std::mem::take(&mut cell)),
            '\n' if !inside || chars.peek().is_none() => {
                cells.push(std::mem::take(&mut cell));
                let record = std::mem::take(&mut cells);
                if record.iter().any(|cell| !cell.trim().is_empty()) {
                    records.push((begun, record));
                }
                begun = line + 1;
            }
            '\r' => {}
            c => cell.push(c),
        }
        line += usize::from(c == '\n');
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModbusConfig;

    const CSV: &str = "\u{FEFF}Name;at;type;scale;unit;access;range;enum;invalid;deadband;interval\r\n\
        \"temperature; inside\";40101;i16;0.1;°C;rw;-10 90;;0x8000 32767;2%;500ms\r\n\r\n\
        mode;holding:7;u16;;;;;0=off|1=all on;;;\r\n\
        fault;holding:8.3;;;;;;;;;\r\n\
        \"say \"\"hi\"\"\";400201;string:8;;;;;;;;\r\n";

    fn device(points: &str) -> DeviceConfig {
        let sources = Sources::new(Box::new(|_| Err(std::io::ErrorKind::NotFound.into())));
        let points = points.replace("[[point]]", "[[modbus.device.point]]");
        let text = format!("[[modbus]]\nurl = \"tcp://h\"\n[[modbus.device]]\nid = \"d\"\n{points}");
        let config = sources.root("f", Path::new("."), &text).sections("modbus").first().and_then(ModbusConfig::read);
        assert_eq!(sources.problems(), []);
        config.unwrap().devices.remove(0)
    }

    #[test]
    fn a_list_from_a_spreadsheet_becomes_points_and_comes_back() {
        let imported = device(&to_toml("p.csv", CSV).unwrap());
        assert_eq!(imported.points.len(), 4);
        let first = &imported.points[0];
        assert_eq!((first.point.name.as_str(), first.at.offset), ("temperature; inside", 100));
        assert_eq!(first.point.range, Some((-10.0, 90.0)));
        assert_eq!(imported.points[3].point.name.as_str(), "say \"hi\"");
        let again = device(&to_toml("p.csv", &to_csv(&imported)).unwrap());
        assert_eq!(again, imported);
    }

    #[test]
    fn says_line_and_key_of_everything_that_is_wrong() {
        let csv = "name,at,type,colour\na,holding:1,u15,\n\"b\nc\",holding:2,u16,\nd,40000,u16,\nd,holding:3,u16,,,\nd,,u16\n";
        let problems = to_toml("p.csv", csv).unwrap_err();
        let begins = ["p.csv:1: `colour` is not", "p.csv:2: type: `u15`", "p.csv:3: name: ", "p.csv:5: at: `40000`"];
        for (problem, begin) in problems.iter().zip(begins) {
            assert!(problem.starts_with(begin), "{problem}");
        }
        let rest: Vec<&String> = problems.iter().skip(4).collect();
        assert!(rest[0].starts_with("p.csv:6: 6 cells"), "{rest:?}");
        assert!(rest[1].starts_with("p.csv:7: name: `d` is already in line 5"), "{rest:?}");
        assert!(rest[2].starts_with("p.csv:7: at: is missing"), "{rest:?}");
        assert!(to_toml("p.csv", "").is_err() && to_toml("p.csv", "name,at\n").is_err());
    }
}
