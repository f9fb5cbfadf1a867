//! The command line: verbs, their arguments, exit codes (DESIGN section 7).
//!
//! Verbs talk to a running gateway through admin.sock; those that can, work on the data directory when none runs.
//! Results go to standard output, logs and errors to standard error.

mod audit;
mod backup;
mod bulk;
mod bundle;
mod ca;
mod check;
mod client;
mod completions;
mod config;
mod console;
mod device;
mod diag;
mod direct;
mod drain;
mod explain;
mod lists;
mod offline;
mod opcua;
mod passphrase;
mod plan;
mod point;
mod policy;
mod quarantine;
mod reload;
mod roster;
pub mod screen;
mod show;
mod show_status;
mod token;
mod user;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use fieldgate_certs::Role;
use fieldgate_types::DeviceId;
use tokio::runtime::{Builder, Runtime};

use crate::app;
use crate::config::{Config, LoadError, load};
use crate::identity::explain::Question;
use crate::identity::parse_validity;
use crate::identity::policy::Action;

pub use client::Client;

/// Configuration is wrong (sysexits.h EX_CONFIG).
const BAD_CONFIGURATION: u8 = 78;

/// Edge gateway for factory floors.
#[derive(Debug, Parser)]
#[command(name = "fieldgate", version, arg_required_else_help = false)]
pub struct Cli {
    /// Configuration file; default: gateway.toml here, else /etc/fieldgate/gateway.toml
    #[arg(short = 'c', long = "config", global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway (the default)
    Run,
    /// Check the configuration and report every problem
    Check {
        /// Try what can be tried without effect, too: files, disk, addresses, upstream, devices; within 10 s
        #[arg(long)]
        probe: bool,
        /// Say what a key or table of the configuration is
        #[arg(long, value_name = "KEY", conflicts_with = "probe")]
        explain: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// The configuration that is in force
    #[command(subcommand)]
    Config(Configuration),
    /// What is asked of each Modbus link, and how much of its time that takes
    Plan(Json),
    /// Show the main job with simulated devices and a stand-in cloud
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// How the running gateway is
    Status {
        /// Again and again, on a terminal in place
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        rounds: screen::Rounds,
        #[command(flatten)]
        json: Json,
    },
    /// Have the running gateway read its configuration anew; what didn't change is not touched
    Reload {
        /// Only say what would be done
        #[arg(long)]
        plan: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Add, list, show and revoke leaf devices
    #[command(subcommand)]
    Device(Device),
    /// The certificate authority
    #[command(subcommand)]
    Ca(Ca),
    /// List, read and write points of field devices
    #[command(subcommand)]
    Point(Point),
    /// OPC UA servers: browse them, trust their certificates; our own certificate
    #[command(subcommand)]
    Opcua(opcua::Opcua),
    /// Rights
    #[command(subcommand)]
    Policy(Policy),
    /// Users with passwords
    #[command(subcommand)]
    User(User),
    /// Tokens for the API at the admin address
    #[command(subcommand)]
    Token(token::Token),
    /// The web console at the admin address: its set-up code, its accounts
    #[command(subcommand)]
    Console(console::Console),
    /// The store-and-forward buffer
    #[command(subcommand)]
    Buffer(Buffer),
    /// Write all that is precious, encrypted, to one file; while the gateway runs, too
    Backup(BackupArgs),
    /// Make a gateway of a backup, on an empty data directory
    Restore(RestoreArgs),
    /// What is wrong, in words, and what to do next; exit code 1 where something is
    Diag(Json),
    /// What somebody who helps needs to see, in one tar file, without any secret
    Bundle {
        /// File to write; default: fieldgate-bundle-TIME.tar
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// The script that completes this command line, for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// The last lines of the audit log; whether it is what was written
    Audit {
        /// How many lines
        #[arg(long, default_value_t = 50)]
        lines: usize,
        /// Check the chain of all kept lines: exit code 1 and the first place where it breaks, or from where to where it goes
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        json: Json,
    },
}

/// `--json`
#[derive(Debug, Clone, Copy, Args)]
struct Json {
    /// One JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Configuration {
    /// Every key with its value, defaults included, and where that comes from: file, environment, default
    Show(Json),
}

#[derive(Debug, Subcommand)]
enum Device {
    /// Register a device and write its bundle: ca.pem, cert.pem, key.pem
    Add(AddArgs),
    /// Make a one-time token, good for 24 hours, by which a device enrols itself over EST
    Token {
        /// Device id
        id: DeviceId,
        /// device, app or gateway; default: what it is already, or device
        #[arg(long)]
        role: Option<Role>,
        #[command(flatten)]
        json: Json,
    },
    /// All devices
    List(Json),
    /// One device and its certificates
    Show {
        /// Device id
        id: DeviceId,
        #[command(flatten)]
        json: Json,
    },
    /// End a device's certificates and its live session, within a second
    Revoke {
        /// Device id
        id: DeviceId,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    /// Device id: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(required_unless_present = "csv")]
    id: Option<DeviceId>,
    /// device, app or gateway
    #[arg(long, default_value = "device")]
    role: Role,
    /// How long its certificates are good, such as 365d; default: [certs] device_validity
    #[arg(long, value_name = "TIME", value_parser = parse_validity)]
    validity: Option<Duration>,
    /// A [[group]] of the configuration that it belongs to; may be given several times
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Folder for the bundle; default: ./ID. With --csv: for a folder per device
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Certificate signing request (PEM) for a key made elsewhere
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Many devices: a list with a header and the columns id, role, validity, groups
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with_all = ["id", "role", "validity", "group", "csr"])]
    csv: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
enum Ca {
    /// The CA certificates of this gateway, their generations and what is due
    Show(Json),
    /// Make the next issuing CA; devices of the former ones stay welcome, no session is dropped
    Rotate {
        /// The root key, when it is not kept here
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Take the root key away, to a file or standard output; only the next rotation asks for it
    RemoveRootKey {
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The trust bundle in PEM: valid roots, then issuing CAs
    Export {
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Point {
    /// All points
    List(Json),
    /// Read a point from its device now
    Read {
        /// Field device
        device: DeviceId,
        /// Point name
        point: String,
        #[command(flatten)]
        json: Json,
    },
    /// Make the [[point]] tables of a `points_from` file from a CSV list of Modbus points
    Import {
        /// The list; its first line names the keys: name,at,type,…
        file: PathBuf,
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The points of a configured Modbus device as CSV
    Export {
        /// Field device
        device: DeviceId,
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Live values, read again and again; on a terminal in place, else a line for each change
    Watch {
        /// Field device; default: all
        device: Option<DeviceId>,
        #[command(flatten)]
        rounds: screen::Rounds,
        /// A line of JSON for each device and look
        #[arg(long)]
        json: bool,
    },
    /// Write a point, and read it back
    Write {
        /// Field device
        device: DeviceId,
        /// Point name
        point: String,
        /// A number, true, false or text
        #[arg(allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Say whether somebody may publish or subscribe somewhere, and which rule says so
    Explain {
        /// An id, or user:NAME
        who: String,
        /// publish or subscribe
        #[arg(value_parser = action)]
        action: Action,
        /// A topic to publish on, or a filter to subscribe to
        topic: String,
        #[command(flatten)]
        json: Json,
    },
}

fn action(word: &str) -> Result<Action, &'static str> {
    match word {
        "publish" => Ok(Action::Publish),
        "subscribe" => Ok(Action::Subscribe),
        _ => Err("publish or subscribe is allowed"),
    }
}

#[derive(Debug, Subcommand)]
enum User {
    /// Read a password from standard input and make the file for `password_hash_file`
    Hash {
        /// File; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// File to write
    file: PathBuf,
    /// File whose first line is the passphrase; default: ask on the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The audit log, too
    #[arg(long)]
    with_audit: bool,
    /// Replace the file when it is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// File that `fieldgate backup` wrote
    file: PathBuf,
    /// File whose first line is the passphrase; default: ask on the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
enum Buffer {
    /// What waits, and what became of the rest, per device
    Status {
        /// Again and again: how much is left, how fast it leaves and how long that takes yet; on a terminal in place
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        rounds: screen::Rounds,
        #[command(flatten)]
        json: Json,
    },
    /// Messages that the upstream refused for good, or that damage has spoiled; the youngest 1,000 are kept
    #[command(subcommand)]
    Quarantine(Quarantine),
}

#[derive(Debug, Subcommand)]
enum Quarantine {
    /// What is kept aside, and why
    List {
        #[command(flatten)]
        only: quarantine::Only,
        #[command(flatten)]
        json: Json,
    },
    /// Send messages once more, behind all others and under their old numbers
    Retry(quarantine::Args),
    /// Let go of messages; they stay counted as quarantined
    Drop(quarantine::Args),
}

/// Runs the verb; the exit code of the process.
pub fn main(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fieldgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Here, as a gateway under test has it; else where the package puts it.
fn default_config() -> PathBuf {
    let (here, installed) = (PathBuf::from("gateway.toml"), PathBuf::from("/etc/fieldgate/gateway.toml"));
    if !here.exists() && installed.exists() { installed } else { here }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let path = cli.config.unwrap_or_else(default_config);
    match cli.verb.unwrap_or(Verb::Run) {
        Verb::Check { explain: Some(key), json, .. } => explain::explain(&key, json.json),
        Verb::Check { probe, json, .. } => check::check(&path, probe, json.json),
        Verb::Config(Configuration::Show(json)) => config::show(&path, json.json),
        Verb::Plan(Json { json }) => configured(&path, |config| plan::plan(&config, json)),
        #[cfg(feature = "demo")]
        Verb::Demo(args) => crate::demo::main(args),
        Verb::Run => configured(&path, app::main),
        Verb::Status { watch: false, json, .. } => {
            verb(&path, async |config| show_status::status(config, json.json).await)
        }
        Verb::Status { rounds, json, .. } => {
            verb(&path, async |config| show_status::watch(config, rounds, json.json).await)
        }
        Verb::Reload { plan, json } => runtime()?.block_on(reload::reload(&path, plan, json.json)),
        Verb::Device(device) => verb(&path, async |config| match device {
            Device::Add(args) => device::add(config, args).await,
            Device::Token { id, role, json } => device::token(config, id, role, json.json).await,
            Device::List(json) => device::list(config, json.json).await,
            Device::Show { id, json } => device::show(config, &id, json.json).await,
            Device::Revoke { id, json } => device::revoke(config, &id, json.json).await,
        }),
        Verb::Ca(ca) => verb(&path, async |config| match ca {
            Ca::Show(json) => ca::show(config, json.json).await,
            Ca::Rotate { root_key, json } => ca::rotate(config, root_key, json.json).await,
            Ca::RemoveRootKey { out } => ca::remove_root_key(config, out).await,
            Ca::Export { out } => ca::export(config, out).await,
        }),
        Verb::Point(point) => points(&path, point),
        Verb::Opcua(opcua) => verb(&path, async |config| opcua::run(config, opcua).await),
        Verb::Policy(Policy::Explain { who, action, topic, json }) => {
            verb(&path, async |config| policy::explain(config, Question { who, action, topic }, json.json).await)
        }
        Verb::Console(of) => verb(&path, async |config| console::run(config, of).await),
        Verb::Token(token) => verb(&path, async |config| token::run(config, token).await),
        Verb::User(User::Hash { out }) => user::hash(out),
        Verb::Buffer(Buffer::Status { watch: false, json, .. }) => {
            verb(&path, async |config| show::buffer(config, json.json).await)
        }
        Verb::Buffer(Buffer::Status { rounds, json, .. }) => {
            verb(&path, async |config| drain::watch(config, rounds, json.json).await)
        }
        Verb::Buffer(Buffer::Quarantine(aside)) => verb(&path, async |config| match aside {
            Quarantine::List { only, json } => quarantine::list(config, &only, json.json).await,
            Quarantine::Retry(args) => quarantine::judge(config, quarantine::Verdict::Retry, args).await,
            Quarantine::Drop(args) => quarantine::judge(config, quarantine::Verdict::Drop, args).await,
        }),
        Verb::Backup(args) => verb(&path, async |config| backup::backup(config, &path, args).await),
        Verb::Restore(args) => backup::restore(&path, &args),
        Verb::Diag(Json { json }) => runtime()?.block_on(diag::diag(&path, json)),
        Verb::Bundle { out, json } => runtime()?.block_on(bundle::bundle(&path, out, json.json)),
        Verb::Completions { shell } => Ok(completions::script(shell)),
        Verb::Man { folder } => completions::pages(&folder),
        Verb::Audit { verify: true, json, .. } => verb(&path, async |config| audit::verify(config, json.json).await),
        Verb::Audit { lines, json, .. } => verb(&path, async |config| audit::show(config, lines, json.json)),
    }
}

fn points(path: &std::path::Path, point: Point) -> anyhow::Result<ExitCode> {
    match point {
        Point::List(json) => verb(path, async |config| point::list(config, json.json).await),
        Point::Read { device, point, json } => {
            verb(path, async |config| point::read(config, &device, &point, json.json).await)
        }
        Point::Write { device, point, value, json } => {
            verb(path, async |config| point::write(config, &device, &point, &value, json.json).await)
        }
        Point::Watch { device, rounds, json } => {
            verb(path, async |config| watch::watch(config, device, rounds, json).await)
        }
        Point::Import { file, out } => lists::import(&file, out.as_deref()),
        Point::Export { device, out } => configured(path, |config| lists::export(&config, &device, out.as_deref())),
    }
}

/// Loads the configuration, or explains it.
fn configured(
    path: &std::path::Path,
    run: impl FnOnce(Config) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    match load(path) {
        Ok(config) => run(config),
        Err(error) => {
            if let LoadError::Problems(problems) = &error {
                for problem in problems {
                    eprintln!("{problem}");
                }
            }
            eprintln!("fieldgate: {error}");
            Ok(ExitCode::from(BAD_CONFIGURATION))
        }
    }
}

fn verb(
    path: &std::path::Path,
    run: impl AsyncFnOnce(&Config) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    configured(path, |config| runtime()?.block_on(run(&config)))
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;

    /// What gives a document of another kind, or nothing: PEM, CSV, TOML, a script, a log.
    const OTHERWISE: [&str; 10] = [
        "run",
        "ca remove-root-key",
        "ca export",
        "point import",
        "point export",
        "opcua cert export",
        "user hash",
        "completions",
        "man",
        "help",
    ];

    fn leaves(command: &Command, path: &str, into: &mut Vec<(String, bool)>) {
        for verb in command.get_subcommands() {
            let path = format!("{path} {}", verb.get_name()).trim().to_owned();
            if verb.get_subcommands().next().is_some() {
                leaves(verb, &path, into);
            } else {
                let json = verb.get_arguments().any(|argument| argument.get_long() == Some("json"));
                into.push((path, json));
            }
        }
    }

    #[test]
    fn every_verb_that_tells_something_tells_it_as_json_too() {
        let mut all = Vec::new();
        leaves(&Cli::command(), "", &mut all);
        assert!(all.len() > 30, "{all:?}");
        let wrong: Vec<_> = all.iter().filter(|(path, json)| *json == OTHERWISE.contains(&path.as_str())).collect();
        assert!(wrong.is_empty(), "with --json and in the list of those without, or neither: {wrong:?}");
        Cli::command().debug_assert();
    }
}
