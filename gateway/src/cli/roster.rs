//! The list of devices for `device add --csv`: read and checked as a whole, with the place of each mistake.
//!
//! A header names the columns: `id`, and any of `role`, `validity`, `groups`, in any order. Fields are divided by commas, or
//! by semicolons where the header has them, as some spreadsheets write it; `"…"` around a field keeps what stands in it.
//! Groups in a field are divided by spaces. Empty lines and lines that begin with `#` say nothing.

use fieldgate_certs::Role;
use fieldgate_types::{DeviceId, Problem, Span};
use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{Wanted, parse_validity};

/// A device that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: DeviceId,
    /// As what.
    pub wanted: Wanted,
    /// Where it stands.
    pub line: usize,
}

/// What must hold beyond the file.
pub struct Bounds<'a> {
    /// Groups of the configuration.
    pub groups: &'a BTreeSet<String>,
    /// Ids that are something else.
    pub taken: &'a BTreeSet<DeviceId>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Id,
    Role,
    Validity,
    Groups,
}

const COLUMNS: [(&str, Column); 4] =
    [("id", Column::Id), ("role", Column::Role), ("validity", Column::Validity), ("groups", Column::Groups)];

/// A field and where it begins; columns count characters, from 1.
struct Field {
    text: String,
    span: Span,
}

struct Reading<'a> {
    name: &'a str,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn note(&mut self, span: Span, key: &str, message: impl std::fmt::Display) {
        let problem =
            Problem { file: self.name.to_owned(), span: Some(span), key: key.to_owned(), message: message.to_string() };
        self.problems.push(problem);
    }
}

/// Reads `text`, which problems call `name`: every row, or everything that is wrong.
pub fn read(name: &str, text: &str, bounds: &Bounds<'_>) -> Result<Vec<Row>, Vec<Problem>> {
    let mut reading = Reading { name, problems: Vec::new() };
    // Spreadsheets put a byte order mark before it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((number, header)) = lines.next() else {
        reading.note(Span { line: 1, column: 1 }, "", "is empty, a header is expected: id, role, validity, groups");
        return Err(reading.problems);
    };
    let divider = if header.contains(';') { ';' } else { ',' };
    let header = fields(&mut reading, header, number, divider);
    let columns = columns(&mut reading, &header);
    let mut rows = Vec::new();
    let mut seen: BTreeMap<DeviceId, usize> = BTreeMap::new();
    for (line, text) in lines {
        let fields = fields(&mut reading, text, line, divider);
        if fields.len() != header.len() {
            let (found, wanted) = (fields.len(), header.len());
            reading.note(Span { line, column: 1 }, "", format_args!("has {found} fields, the header has {wanted}"));
            continue;
        }
        if let Some(row) = row(&mut reading, &columns, &fields, line, bounds) {
            if let Some(first) = seen.insert(row.id.clone(), line) {
                let id = &row.id;
                reading.note(Span { line, column: 1 }, "id", format_args!("`{id}` stands in line {first} already"));
            }
            rows.push(row);
        }
    }
    if reading.problems.is_empty() { Ok(rows) } else { Err(reading.problems) }
}

fn columns(reading: &mut Reading<'_>, header: &[Field]) -> BTreeMap<Column, usize> {
    let mut columns = BTreeMap::new();
    for (at, field) in header.iter().enumerate() {
        if let Some((name, column)) = COLUMNS.iter().find(|(name, _)| field.text.eq_ignore_ascii_case(name)) {
            if columns.insert(*column, at).is_some() {
                reading.note(field.span, name, "stands in the header twice");
            }
        } else {
            let text = &field.text;
            reading.note(field.span, "", format_args!("`{text}` is no column: id, role, validity, groups are"));
        }
    }
    if !columns.contains_key(&Column::Id) {
        let span = header.first().map_or(Span { line: 1, column: 1 }, |field| field.span);
        reading.note(span, "id", "is missing in the header: id, role, validity, groups are the columns");
    }
    columns
}

fn row(
    reading: &mut Reading<'_>,
    columns: &BTreeMap<Column, usize>,
    fields: &[Field],
    line: usize,
    bounds: &Bounds<'_>,
) -> Option<Row> {
    let field = |column| columns.get(&column).and_then(|at| fields.get(*at)).filter(|field| !field.text.is_empty());
    let start = Span { line, column: 1 };
    let before = reading.problems.len();
    let id = match field(Column::Id).map(|field| (field, DeviceId::new(&field.text))) {
        Some((field, Ok(id))) => {
            if bounds.taken.contains(&id) {
                let message = format_args!("`{id}` is a field device or a user of the configuration, or this gateway");
                reading.note(field.span, "id", message);
            }
            Some(id)
        }
        Some((field, Err(error))) => {
            reading.note(field.span, "id", error);
            None
        }
        None if columns.contains_key(&Column::Id) => {
            reading.note(start, "id", "is empty");
            None
        }
        None => None,
    };
    let role = field(Column::Role).map_or(Some(Role::Device), |field| {
        field.text.parse().ok().or_else(|| {
            let message = format_args!("`{}` is not a role, device, app or gateway is allowed", field.text);
            reading.note(field.span, "role", message);
            None
        })
    });
    let validity = field(Column::Validity).and_then(|field| {
        parse_validity(&field.text).map_err(|message| reading.note(field.span, "validity", message)).ok()
    });
    let mut groups = BTreeSet::new();
    if let Some(field) = field(Column::Groups) {
        for group in field.text.split_whitespace() {
            if !bounds.groups.contains(group) {
                reading.note(field.span, "groups", format_args!("there is no [[group]] named `{group}`"));
            }
            groups.insert(group.to_owned());
        }
    }
    let row = Row { id: id?, wanted: Wanted { role: role?, validity, groups }, line };
    (reading.problems.len() == before).then_some(row)
}

fn fields(reading: &mut Reading<'_>, text: &str, line: usize, divider: char) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut characters = text.chars().zip(1..).peekable();
    loop {
        let column = characters.peek().map_or(text.chars().count() + 1, |(_, column)| *column);
        let span = Span { line, column };
        let mut field = String::new();
        let mut quoted = false;
        let mut closed = true;
        while let Some((character, _)) = characters.next_if(|(c, _)| *c != divider || (quoted && !closed)) {
            match character {
                '"' if field.trim().is_empty() && !quoted => {
                    field.clear();
                    (quoted, closed) = (true, false);
                }
                // Two of them stand for one.
                '"' if !closed && characters.next_if(|(c, _)| *c == '"').is_some() => field.push('"'),
                '"' if !closed => closed = true,
                other => field.push(other),
            }
        }
        if !closed {
            reading.note(span, "", "begins with a quotation mark and has no second one in its line");
        }
        fields.push(Field { text: field.trim().to_owned(), span });
        if characters.next().is_none() {
            return fields;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<Vec<Row>, Vec<String>> {
        let groups = BTreeSet::from(["presses".to_owned(), "line-2".to_owned()]);
        let taken = BTreeSet::from([DeviceId::new("hmi").unwrap()]);
        let words = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        read("list.csv", text, &Bounds { groups: &groups, taken: &taken }).map_err(words)
    }

    #[test]
    fn reads_columns_in_any_order_with_defaults() {
        let rows = parse(
            "\u{feff}Groups,id,validity,role\r\npresses line-2,press-1,90d,app\r\n\r\n# one more\n,\"press-2\",,\n",
        )
        .unwrap();
        let [first, second] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((first.id.as_str(), first.line, first.wanted.role), ("press-1", 2, Role::App));
        assert_eq!(first.wanted.validity, Some(Duration::from_secs(90 * 86_400)));
        assert_eq!(first.wanted.groups, BTreeSet::from(["line-2".to_owned(), "presses".to_owned()]));
        assert_eq!((second.id.as_str(), second.line), ("press-2", 5));
        assert_eq!(second.wanted, Wanted::as_role(Role::Device));
        let semicolons = parse("id;groups\na;presses\n").unwrap();
        assert_eq!(semicolons[0].wanted.groups.len(), 1);
        assert_eq!(parse("id\n").unwrap(), []);
    }

    #[test]
    fn names_every_mistake_with_its_place_and_gives_no_row() {
        let text =
            "id,role,validity,groups\nok,,,\na b,king,1h,nobody presses\nok,,,\nhmi,,,\nshort,\n,device,,\n\"x,,,\n";
        let problems = parse(text).unwrap_err();
        let expected = [
            ("list.csv:3:1: id: ", "`a b`"),
            ("list.csv:3:5: role: ", "`king` is not a role"),
            ("list.csv:3:10: validity: ", "\"1d\" to"),
            ("list.csv:3:13: groups: ", "named `nobody`"),
            ("list.csv:4:1: id: ", "line 2 already"),
            ("list.csv:5:1: id: ", "a user of the configuration"),
            ("list.csv:6:1: ", "has 2 fields, the header has 4"),
            ("list.csv:7:1: id: ", "is empty"),
            ("list.csv:8:1: ", "no second one"),
            ("list.csv:8:1: ", "has 1 fields"),
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, (place, words)) in problems.iter().zip(expected) {
            assert!(problem.starts_with(place) && problem.contains(words), "{problem}");
        }
    }

    #[test]
    fn a_header_is_required() {
        for (text, words) in [
            ("", "1:1: is empty"),
            ("press-1,device\n", "`press-1` is no column"),
            ("role,groups\n", "1:1: id: is missing"),
            ("id,id\n", "1:4: id: stands in the header twice"),
        ] {
            let problems = parse(text).unwrap_err().join("\n");
            assert!(problems.contains(words), "{text:?}: {problems}");
        }
    }
}
