//! What a section reads, and what it complains about.

use std::path::PathBuf;

use super::*;
use crate::{DeviceId, Size};

fn read(text: &str, check: impl FnOnce(&Section)) -> Vec<String> {
    let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("no such file"))));
    check(&sources.root("gateway.toml", Path::new("/etc/fieldgate"), text));
    sources.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn reads_values_and_defaults() {
    let problems = read("a = 1\nb = \"5s\"\n[t]\npath = \"x.pem\"\n[[l]]\nn = 1.5\n[[l]]\nn = 2\n", |root| {
        assert_eq!(root.number("a", 1..=5_u8, 3), 1);
        assert_eq!(root.get_or("b", Duration::ZERO), Duration::from_secs(5));
        assert_eq!(root.get_or("absent", Size(7)), Size(7));
        assert_eq!(root.section("t").and_then(|t| t.path("path")), Some(PathBuf::from("/etc/fieldgate/x.pem")));
        let numbers: Vec<f64> = root.sections("l").iter().filter_map(|l| l.get("n")).collect();
        assert_eq!(numbers, [1.5, 2.0]);
    });
    assert_eq!(problems, [""; 0]);
}

#[test]
fn reports_every_problem_with_its_place() {
    let text = "[up]\nurll = \"x\"\nwindow = 0\nproto = \"five\"\n  keep = 30\nids = [\"a\", \"-b\"]\n[other]\n";
    let problems = read(text, |root| {
        let up = root.section_or_empty("up");
        assert_eq!(up.required::<String>("url"), None);
        up.number("window", 1..=65_535_u32, 100);
        up.choice("proto", &[("four", 4), ("five5", 5)], 5);
        up.get::<Duration>("keep");
        up.get::<Vec<DeviceId>>("ids");
    });
    assert_eq!(
        problems,
        [
            "gateway.toml:1:2: up.url: is missing, it has no default",
            "gateway.toml:2:1: up.urll: unknown key, did you mean `url`?",
            "gateway.toml:3:10: up.window: `0` is out of range, 1 to 65535 is allowed",
            "gateway.toml:4:9: up.proto: `five` is unknown, \"four\" or \"five5\" is allowed, did you mean \"five5\"?",
            "gateway.toml:5:10: up.keep: a duration such as \"500ms\" is expected here, not a whole number",
            "gateway.toml:6:13: up.ids: `-b` is not a device id: 1 to 64 of A-Z a-z 0-9 . _ - are allowed, the first a letter or a digit",
            "gateway.toml:7:2: other: unknown key, `up` is allowed here",
        ]
    );
}

#[test]
fn reports_syntax_errors_and_goes_on() {
    let problems = read("a = = 1\nb = 2\n", |root| {
        assert_eq!(root.get::<u8>("b"), Some(2));
        root.has("a");
    });
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems.iter().all(|p| p.starts_with("gateway.toml:1:5: ")), "{problems:?}");
}

#[test]
fn reads_files_and_says_where_a_section_stands() {
    let text = "a = 1\n[[l]]\nfile = \"x.hash\"\n[[l]]\n[[l]]\nfile = \"gone\"\n";
    let sources = Sources::new(Box::new(|path| match path.to_str() {
        Some("/etc/x.hash") => Ok("text".to_owned()),
        _ => Err(std::io::Error::other("no such file")),
    }));
    let root = sources.root("gateway.toml", Path::new("/etc"), text);
    root.has("a");
    let lists = root.sections("l");
    let files: Vec<_> = lists.iter().map(|l| l.required_file("file")).collect();
    assert_eq!(files, [Some((PathBuf::from("/etc/x.hash"), "text".to_owned())), None, None]);
    let lines: Vec<_> =
        lists.iter().map(Section::place).map(|(file, span)| (file, span.map(|span| span.line))).collect();
    assert_eq!(lines, [("gateway.toml", Some(2)), ("gateway.toml", Some(4)), ("gateway.toml", Some(5))]);
    let problems: Vec<String> = sources.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "gateway.toml:4:1: l.file: is missing, it has no default",
            "gateway.toml:6:8: l.file: can't read `/etc/gone`: no such file",
        ]
    );
}

#[test]
fn a_file_that_sections_in_a_row_include_is_read_once_and_complained_about_as_ever() {
    let loads = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&loads);
    let sources = Sources::new(Box::new(move |path| {
        seen.borrow_mut().push(path.display().to_string());
        Ok("n = 1\nm = 2\n".to_owned())
    }));
    let text = ["a", "a", "b", "a"].map(|file| format!("[[l]]\nfile = \"{file}\"\n")).concat();
    let numbers: Vec<Option<u8>> = sources
        .root("gateway.toml", Path::new("/etc"), &text)
        .sections("l")
        .iter()
        .map(|l| l.include("file")?.get("n"))
        .collect();
    assert_eq!(numbers, [Some(1); 4]);
    assert_eq!(*loads.borrow(), ["/etc/a", "/etc/b", "/etc/a"]);
    let problems: Vec<String> = sources.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["/etc/a", "/etc/b"].map(|file| format!("{file}:2:1: m: unknown key, `n` is allowed here")));
}

#[test]
fn unknown_keys_name_the_nearest() {
    let text = "max_connections = 1\nretained = 2\npackt = 3\nother = 4\n";
    let problems = read(text, |root| {
        for key in ["connections", "connections_per_app", "packet", "retained_bytes", "retained_messages"] {
            assert!(!root.has(key));
        }
    });
    assert_eq!(
        problems,
        [
            "gateway.toml:1:1: max_connections: unknown key, did you mean `connections`?",
            "gateway.toml:2:1: retained: unknown key, did you mean `retained_bytes` or `retained_messages`?",
            "gateway.toml:3:1: packt: unknown key, did you mean `packet`?",
            "gateway.toml:4:1: other: unknown key, `connections`, `connections_per_app`, `packet`, `retained_bytes` or `retained_messages` is allowed here",
        ]
    );
}

#[test]
fn overrides_go_before_the_text_and_are_named() {
    let over = |path: &[&str], text: &str| Override {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        name: format!("environment {text}"),
        variable: text.to_owned(),
        text: text.to_owned(),
    };
    let sources = Sources::new(Box::new(|_| Err(std::io::Error::other("no such file"))));
    let overrides =
        [over(&["t", "a"], "5"), over(&["t", "b"], "7"), over(&["t", "c"], "[1, 2]"), over(&["new", "d"], "x")];
    let root = sources.root_with("gateway.toml", Path::new("/etc"), "[t]\na = 1\n", &overrides);
    let t = root.section_or_empty("t");
    assert_eq!(t.get::<u8>("a"), Some(5));
    assert_eq!(t.get::<String>("b"), Some("7".to_owned()), "a string without its quotes");
    assert_eq!(t.get::<Vec<u8>>("c"), Some(vec![1, 2]));
    assert_eq!(t.get_or("e", 9_u8), 9);
    let new = root.section("new").unwrap();
    assert_eq!(new.get::<u8>("d"), None);
    drop((t, new, root));
    let problems: Vec<String> = sources.problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["environment x: new.d: a whole number is expected here, not a string"]);
    let settings: Vec<(String, Option<String>, String)> =
        sources.settings().into_iter().map(|s| (s.key, s.value, s.origin.place().0)).collect();
    let shown = |key: &str| {
        settings
            .iter()
            .find(|(known, ..)| known == key)
            .map(|(_, value, from)| (value.as_deref().unwrap_or("-"), from.as_str()))
    };
    assert_eq!(shown("t.a"), Some(("5", "environment 5")));
    assert_eq!(shown("t.e"), Some(("9", "")));
}
