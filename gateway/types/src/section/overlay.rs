//! Values from elsewhere, such as the environment, in the place of those in the file.

use std::path::Path;
use std::rc::Rc;

use toml::Spanned;
use toml::de::DeTable;

use super::File;
use super::value::{Entry, Located, Node, Table, located};

/// A value for one key.
#[derive(Debug, Clone)]
pub struct Override {
    /// The key, level by level.
    pub path: Vec<String>,
    /// How problems name the source: `environment FIELDGATE_UPSTREAM__URL`.
    pub name: String,
    /// The variable.
    pub variable: String,
    /// The value: TOML, or a string without its quotes.
    pub text: String,
}

/// `table` with these in it. Where a value stands in the way of a table, it is left for its reader to complain.
pub(super) fn laid_over(mut table: Table, folder: &Path, overrides: &[Override]) -> Table {
    for Override { path, name, variable, text } in overrides {
        let file = Rc::new(File { name: name.clone(), folder: folder.to_owned(), text: variable.clone(), lines: None });
        put(&mut table, path, &file, value(text));
    }
    table
}

fn put(table: &mut Table, path: &[String], file: &Rc<File>, value: Located) {
    let Some((key, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.insert(key.clone(), Entry { key: 0..0, value, file: Some(Rc::clone(file)) });
        return;
    }
    let empty = || Entry {
        key: 0..0,
        value: Located { span: 0..0, node: Node::Table(Rc::default()), bare: None },
        file: Some(Rc::clone(file)),
    };
    if let Node::Table(below) = &mut table.entry(key.clone()).or_insert_with(empty).value.node {
        put(Rc::make_mut(below), rest, file, value);
    }
}

/// TOML where it is a value of TOML, otherwise a string.
fn value(text: &str) -> Located {
    let document = format!("value = {text}");
    let parsed = DeTable::parse(&document).ok().filter(|_| !text.contains('\n')).map(Spanned::into_inner);
    let value = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    let node = value.map_or_else(|| Node::Text(text.to_owned()), |value| located(value).node);
    // Spans are of no use: there are no lines.
    Located { span: 0..0, node, bare: Some(text.to_owned()) }
}
