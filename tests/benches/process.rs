//! Processes that are measured: their memory, and their end with the value.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A child process that ends when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let shown = format!("{command:?}");
        // A broker that does not start is noticed by its port; what one says of its clients' ends is not of interest.
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("can't start {shown}"))?))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let (killed, ended) = (self.0.kill(), self.0.wait());
        if let (Err(error), _) | (_, Err(error)) = (killed, ended) {
            eprintln!("a peer could not be ended: {error}");
        }
    }
}

/// Resident memory now, in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    status(pid, "VmRSS:")
}

/// The most resident memory since the last [`forget_peak`].
pub fn peak(pid: u32) -> anyhow::Result<u64> {
    status(pid, "VmHWM:")
}

/// Begins a new peak.
pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).context(path)?;
    Ok(file.write_all(b"5")?)
}

fn status(pid: u32, key: &str) -> anyhow::Result<u64> {
    let text = read(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// User and system time of a process so far, in seconds.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let text = read(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(')').context("no name in stat")?.1;
    let field = |index: usize| anyhow::Ok(after_name.split_whitespace().nth(index).context("stat")?.parse::<f64>()?);
    // utime and stime are fields 14 and 15 of the whole line; Linux reports both in hundredths of a second.
    Ok((field(11)? + field(12)?) / 100.0)
}

fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}
