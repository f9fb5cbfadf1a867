//! `fieldgate user hash`

use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::identity::password::PasswordHash;

/// Longest password that a CONNECT can carry.
const LONGEST: u64 = 65_535;

/// Reads a password and writes its hash, for `password_hash_file`.
pub fn hash(out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let password = password()?;
    let hash = PasswordHash::make(password.as_bytes())?.expose();
    match out {
        None => println!("{hash}"),
        Some(path) => write(&path, &hash).with_context(|| format!("can't write `{}`", path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of standard input; from a terminal without echo, and twice.
fn password() -> anyhow::Result<String> {
    let password = if std::io::stdin().is_terminal() {
        let _quiet = Quiet::new()?;
        let password = asked("password: ")?;
        if asked("again: ")? != password {
            bail!("the two passwords differ");
        }
        password
    } else {
        line()?
    };
    if password.is_empty() {
        bail!("the password is empty: give it on standard input, one line");
    }
    Ok(password)
}

fn asked(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    let line = line();
    // The line's end was not echoed.
    eprintln!();
    line
}

fn line() -> anyhow::Result<String> {
    let mut text = String::new();
    let mut input = std::io::Read::take(std::io::stdin().lock(), LONGEST + 2);
    input.read_line(&mut text).context("can't read the password")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.len() as u64 > LONGEST {
        bail!("the password is longer than {LONGEST} bytes");
    }
    Ok(line.to_owned())
}

/// A terminal without echo, until dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> anyhow::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0) {
            eprintln!("fieldgate: the terminal's echo can't be switched on again ({error}); `stty echo` does");
        }
    }
}

/// Whole or not at all, for its owner alone.
fn write(path: &Path, hash: &str) -> anyhow::Result<()> {
    let name = path.file_name().context("it names no file")?.to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = writeln!(file, "{hash}").and_then(|()| file.sync_all());
    let moved = written.and_then(|()| std::fs::rename(&temporary, path));
    if moved.is_err() {
        std::fs::remove_file(&temporary)?;
    }
    Ok(moved?)
}
