//! Passwords and passphrases: from a terminal without echo and twice, or from a file. Never from the command line or the
//! environment, where others can read them.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use anyhow::{Context, bail};
use fieldgate_types::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Longest password that a CONNECT can carry.
const LONGEST: u64 = 65_535;
/// A backup holds the keys of a plant, and may lie where anybody can try at leisure.
const SHORTEST: usize = 10;

/// Whether a passphrase is being chosen or was chosen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passphrase {
    /// Asked for twice, and not too short.
    New,
    /// Asked for once.
    Known,
}

/// The passphrase: the first line of `file`, or asked for on the terminal.
pub fn passphrase(file: Option<&Path>, kind: Passphrase) -> anyhow::Result<Secret> {
    let passphrase = match file {
        Some(path) => {
            let opened = std::fs::File::open(path);
            let opened = opened.with_context(|| format!("can't read the passphrase from `{}`", path.display()))?;
            line(std::io::BufReader::new(opened))?
        }
        None if !std::io::stdin().is_terminal() => {
            bail!("there is no terminal to ask for the passphrase; name a file with --passphrase-file FILE")
        }
        None => ask("passphrase", kind == Passphrase::New)?,
    };
    if kind == Passphrase::New && passphrase.chars().count() < SHORTEST {
        bail!("the passphrase is too short, at least {SHORTEST} characters are needed");
    }
    Ok(Secret::new(passphrase))
}

/// A password: one line of standard input; from a terminal without echo, and twice.
pub fn password() -> anyhow::Result<String> {
    let password = if std::io::stdin().is_terminal() { ask("password", true)? } else { line(std::io::stdin().lock())? };
    if password.is_empty() {
        bail!("the password is empty: give it on standard input, one line");
    }
    Ok(password)
}

fn ask(what: &str, twice: bool) -> anyhow::Result<String> {
    let _quiet = Quiet::new()?;
    let first = asked(&format!("{what}: "))?;
    if twice && asked("again: ")? != first {
        bail!("the two {what}s differ");
    }
    Ok(first)
}

fn asked(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    let line = line(std::io::stdin().lock());
    // The line's end was not echoed.
    eprintln!();
    line
}

fn line(input: impl BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut input = std::io::Read::take(input, LONGEST + 2);
    input.read_line(&mut text).context("can't read it")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.len() as u64 > LONGEST {
        bail!("it is longer than {LONGEST} bytes");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_of_a_file_and_a_new_one_is_not_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "correct horse\r\nsecond line\n").unwrap();
        assert_eq!(passphrase(Some(&path), Passphrase::New).unwrap().expose(), "correct horse");
        std::fs::write(&path, "short\n").unwrap();
        let refused = passphrase(Some(&path), Passphrase::New).unwrap_err().to_string();
        assert!(refused.contains("at least 10"), "{refused}");
        assert_eq!(passphrase(Some(&path), Passphrase::Known).unwrap().expose(), "short");
        let missing = passphrase(Some(&dir.path().join("none")), Passphrase::New).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
