//! What the kernel accounts to a process (Linux, proc(5)).

use std::path::Path;

use crate::{LabError, io};

/// CPU seconds a process used, with those of its children that ended and were waited for.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, LabError> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(io(path))?;
    // The command's name, in parentheses, may hold anything; fields are counted behind it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: f64 = (11..15).filter_map(|field| fields.get(field)?.parse::<f64>().ok()).sum();
    Ok(ticks / ticks_per_second())
}

/// The unit of the kernel's accounts.
#[allow(unsafe_code)]
pub(crate) fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[expect(clippy::cast_precision_loss, reason = "it is 100")]
    let ticks = ticks as f64;
    ticks
}

/// Peak resident memory in bytes.
pub(crate) fn peak_rss(pid: u32) -> Result<u64, LabError> {
    status_bytes(pid, "VmHWM:")
}

/// Resident memory now, in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64, LabError> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, key: &str) -> Result<u64, LabError> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(io(path.clone()))?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.map(|kb| kb * 1024).ok_or_else(|| LabError::Failed(format!("{path} has no {key}")))
}

/// Bytes of all files below `dir`.
pub(crate) fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        // Gone between listing and looking: RocksDB removes files as it goes.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Processor model, cores, memory and kernel, for the report.
pub(crate) fn machine() -> String {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().find(|line| line.starts_with(key)).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".into());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} × {model}, {memory} memory, Linux {}", kernel.trim())
}
