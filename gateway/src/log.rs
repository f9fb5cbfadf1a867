//! Logs: one line per event on standard error. `FIELDGATE_LOG` sets the level, such as `debug` or
//! `info,fieldgate_modbus=debug`. What a running gateway logs is kept for a while in [`lines`], for the console.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::screen::coloured;

pub mod lines;

/// Starts logging; a second call changes nothing.
pub fn init() {
    // The libraries' own lines repeat what ours say in plainer words.
    start(
        "warn,fieldgate=info,fieldgate_broker=info,fieldgate_store=info,fieldgate_certs=info,fieldgate_modbus=info,fieldgate_opcua=info,opcua=off,rumqttd=off",
    );
}

/// As [`init`], with errors alone by default: for programs that show something else.
pub fn init_quiet() {
    start("off,fieldgate=error");
}

fn start(default: &str) {
    let filter = EnvFilter::try_from_env("FIELDGATE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let on_screen =
        fmt::layer().with_writer(std::io::stderr).with_ansi(coloured(&std::io::stderr())).with_target(false);
    if tracing_subscriber::registry().with(filter).with(on_screen).with(lines::Keep).try_init().is_err() {
        tracing::debug!("logging was started before");
    }
}

/// An error with its causes, on one line.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
