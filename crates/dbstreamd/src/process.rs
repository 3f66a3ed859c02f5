//! What the operating system says of this process: memory, CPU, files; and the one limit we raise.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Clock ticks per second in /proc: fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// How many files a daemon with thousands of subscribers and a log may have open.
const OPEN_FILES_WANTED: u64 = 65_536;

static STARTED: OnceLock<f64> = OnceLock::new();

/// A reading; zero where the system does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) resident_bytes: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_files: u64,
    pub(crate) started_seconds: f64,
}

/// Remembers when the process started.
pub(crate) fn mark_start() {
    STARTED.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
}

pub(crate) fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything, so count fields after it: utime and stime are the 12th and 13th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Usage {
        resident_bytes: kib * 1024,
        cpu_seconds: ticks / TICKS_PER_SECOND,
        open_files: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        started_seconds: STARTED.get().copied().unwrap_or(0.0),
    }
}

/// Raises the soft limit of open files towards what a daemon needs, as far as the hard limit allows.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(OPEN_FILES_WANTED, |hard| hard.min(OPEN_FILES_WANTED));
    if now.current.is_some_and(|soft| soft < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: now.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_uses_memory_and_files() {
        let usage = super::usage();
        assert!(usage.resident_bytes > 100_000);
        assert!(usage.open_files >= 3);
        assert!(usage.cpu_seconds >= 0.0);
    }
}
