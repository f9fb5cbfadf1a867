//! Lists the normative statements of MQTT that bind a server and that no test names, with the reason; with `--all`
//! every statement with its tests. Fails where there is neither test nor reason.
#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../tests/conformance/statements.rs"]
mod statements;

use std::process::ExitCode;

use statements::{Standard, Statements};

fn main() -> ExitCode {
    let all = std::env::args().any(|argument| argument == "--all");
    let statements = Statements::read();
    for (id, statement) in &statements.list {
        match (statements.tests.get(id), &statement.reason, statement.binds_server) {
            (Some(tests), _, _) if all => println!("{id} {}\n    {}", statement.asks, tests.join("\n    ")),
            (None, Some(reason), true) => println!("{id} {}\n    no test: {reason}", statement.asks),
            (None, _, false) if all => println!("{id} {}\n    binds clients", statement.asks),
            _ => {}
        }
    }
    let missing = statements.missing();
    for statement in &missing {
        println!("{statement}\n    NO TEST AND NO REASON");
    }
    for standard in [Standard::V311, Standard::V5] {
        let of = || statements.list.iter().filter(|(id, _)| id.standard == standard);
        let server = of().filter(|(_, statement)| statement.binds_server).count();
        let tested = of().filter(|(id, _)| statements.tests.contains_key(id)).count();
        let excused = of().filter(|(_, statement)| statement.binds_server && statement.reason.is_some()).count();
        println!(
            "{standard}: {} statements, {server} bind a server ({excused} with a reason instead of a test), {tested} named by tests",
            of().count(),
        );
    }
    for mistake in &statements.mistakes {
        println!("{mistake}");
    }
    if missing.is_empty() && statements.mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
