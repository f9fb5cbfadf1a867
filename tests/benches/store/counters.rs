//! What the kernel counts for this process.

use std::fs;
use std::path::Path;

/// Bytes that this process had sent to the storage layer. Not counted: what the file system's own journal adds.
pub fn written() -> Result<u64, Box<dyn std::error::Error>> {
    figure("/proc/self/io", "write_bytes")
}

/// The most memory that was resident since [`forget_peak`], in bytes.
pub fn peak() -> Result<u64, Box<dyn std::error::Error>> {
    Ok(figure("/proc/self/status", "VmHWM")? << 10)
}

/// Resident memory now, in bytes.
pub fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    Ok(figure("/proc/self/status", "VmRSS")? << 10)
}

/// From now on [`peak`] counts anew.
pub fn forget_peak() -> std::io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

fn figure(path: &str, key: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()).ok_or_else(|| format!("{path} has no {key}"))?;
    Ok(number.parse()?)
}

/// Cores, kernel, load, and the file system that is written to.
pub fn machine(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let mounts = read("/proc/mounts");
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            folder.starts_with(point).then_some((point.len(), kind))
        })
        .max();
    format!(
        "{cores} cores ({}), Linux {}, {}, load {}",
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease"),
        mount.map_or("unknown file system", |(_, kind)| kind),
        read("/proc/loadavg"),
    )
}
