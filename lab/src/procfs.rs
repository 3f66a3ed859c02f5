//! What the kernel accounts to processes and to the machine (Linux, proc(5)).

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use crate::error::{LabError, io};

/// The flag of the kernel's own threads, in its sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;

/// How often the table of processes is read before it is taken as it is.
const ATTEMPTS: usize = 20;

/// CPU seconds a process used, with those of its children that ended and were waited for.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64, LabError> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(io(path.clone()))?;
    let process = Process::parse(&stat).ok_or_else(|| LabError::Failed(format!("{path} cannot be read: {stat}")))?;
    Ok(ticks_to_seconds(process.ticks))
}

/// All processes, and the machine's busy time, at one moment.
pub(crate) struct Snapshot {
    processes: HashMap<u32, Process>,
    busy_ticks: u64,
    at: Instant,
}

#[derive(Clone, Copy)]
struct Process {
    parent: u32,
    /// Whether it is a thread of the kernel.
    kernel: bool,
    /// Its own, and its children's that ended and were waited for.
    ticks: u64,
}

impl Snapshot {
    /// Looks now. Costs some 20 µs per process of the machine, twice that when one below this process ends meanwhile.
    ///
    /// A process that ends while the table is read can be missing in it and in its parent's account, or be in both: such
    /// a table is read again if the process is this one's descendant, or may have been.
    pub(crate) fn take() -> Result<Self, LabError> {
        Self::settled(std::process::id(), pids, Self::read)
    }

    /// Lists, reads and lists again until nobody below `own` ended meanwhile.
    fn settled(
        own: u32,
        mut list: impl FnMut() -> Result<Vec<u32>, LabError>,
        mut read: impl FnMut(&[u32]) -> Result<Self, LabError>,
    ) -> Result<Self, LabError> {
        for _ in 1..ATTEMPTS {
            let before = list()?;
            let snapshot = read(&before)?;
            let after = list()?;
            let ended = |pid: &u32| match snapshot.processes.get(pid) {
                None => true,
                Some(_) => after.binary_search(pid).is_err() && snapshot.is_below(*pid, own),
            };
            if !before.iter().any(ended) {
                return Ok(snapshot);
            }
        }
        // Others' processes come and go all the time; the last one is as good as it gets.
        read(&list()?)
    }

    fn read(pids: &[u32]) -> Result<Self, LabError> {
        let process = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((*pid, Process::parse(&stat)?))
        };
        let processes = pids.iter().filter_map(process).collect();
        let stat = std::fs::read_to_string("/proc/stat").map_err(io("/proc/stat"))?;
        Ok(Self { processes, busy_ticks: busy_ticks(&stat), at: Instant::now() })
    }

    /// CPU seconds of a process and everything below it, with what ended and was waited for.
    pub(crate) fn tree_seconds(&self, root: u32) -> f64 {
        let tree = self.processes.iter().filter(|(pid, _)| self.is_below(**pid, root));
        ticks_to_seconds(tree.map(|(_, process)| process.ticks).sum())
    }

    /// Whether a process is `root` or a descendant of it.
    fn is_below(&self, pid: u32, root: u32) -> bool {
        let mut pid = pid;
        // A parent can die while the table is read; no chain is longer than the table.
        for _ in 0..self.processes.len() {
            if pid == root {
                return true;
            }
            match self.processes.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    }

    /// CPU seconds of the kernel's own threads, which work for whoever writes files; zero where they cannot be seen.
    pub(crate) fn kernel_seconds(&self) -> f64 {
        ticks_to_seconds(self.processes.values().filter(|process| process.kernel).map(|process| process.ticks).sum())
    }

    /// When the machine's busy time was read.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// CPU seconds the machine was busy since it started, all cores together, time stolen by its host included.
    pub(crate) fn busy_seconds(&self) -> f64 {
        ticks_to_seconds(self.busy_ticks)
    }
}

/// The processes there are, in order.
fn pids() -> Result<Vec<u32>, LabError> {
    let entries = std::fs::read_dir("/proc").map_err(io("/proc"))?.flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // The command's name, in parentheses, may hold anything; fields are counted behind it.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let times = fields.get(11..15)?;
        let ticks = times.iter().map(|time| time.parse::<u64>().ok()).sum::<Option<u64>>()?;
        let kernel = fields.get(6)?.parse::<u32>().ok()? & PF_KTHREAD != 0;
        Some(Self { parent: fields.get(1)?.parse().ok()?, kernel, ticks })
    }
}

/// The first line of /proc/stat: everything but idle, waiting for the disk, and guests (who are in `user` already).
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let times = line.split_whitespace().skip(1).enumerate().filter(|(at, _)| matches!(at, 0..=2 | 5..=7));
    times.filter_map(|(_, time)| time.parse::<u64>().ok()).sum()
}

fn ticks_to_seconds(ticks: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^53 ticks are three million years")]
    let ticks = ticks as f64;
    ticks / ticks_per_second()
}

#[allow(unsafe_code)]
fn ticks_per_second() -> f64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_behind_a_name_that_holds_anything() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 0 0 0 0 0 11 12 13 14 20 0 1 0 5";
        let process = Process::parse(stat).unwrap();
        assert_eq!((process.parent, process.kernel, process.ticks), (3, false, 50));
        let thread = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 1 2 3 4 20 0 1 0 5";
        assert!(Process::parse(thread).unwrap().kernel);
        assert!(Process::parse("7 (short) S 3").is_none());
    }

    #[test]
    fn busy_is_neither_idle_nor_waiting_nor_counted_twice_for_guests() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 32 1000 1000\ncpu0 5 5 5 5 5 5 5 5 5 5\n"), 63);
    }

    #[test]
    fn a_tree_is_a_process_and_all_below_it_and_nobody_else() {
        let process = |parent, ticks| Process { parent, kernel: false, ticks };
        let processes = HashMap::from([
            (1, process(0, 1000)),
            (10, process(1, 100)),
            (11, process(10, 200)),
            (12, process(11, 400)),
            (20, process(1, 5000)),
            // Its parent has gone.
            (30, process(29, 9000)),
        ]);
        let snapshot = Snapshot { processes, busy_ticks: 0, at: Instant::now() };
        assert!((snapshot.tree_seconds(10) * ticks_per_second() - 700.0).abs() < 1e-6);
        assert!((snapshot.tree_seconds(12) * ticks_per_second() - 400.0).abs() < 1e-6);
    }

    /// The processes listed, those that could be read with their parents, and those listed behind.
    type Turn = (&'static [u32], &'static [(u32, u32)], &'static [u32]);

    fn settled(turns: &[Turn]) -> Snapshot {
        let mut lists = turns.iter().flat_map(|(before, _, after)| [before.to_vec(), after.to_vec()]);
        let mut reads = turns.iter().map(|(_, read, _)| read);
        let read = |_: &[u32]| {
            let process = |(pid, parent): &(u32, u32)| (*pid, Process { parent: *parent, kernel: false, ticks: 1 });
            let processes = reads.next().unwrap().iter().map(process).collect();
            Ok(Snapshot { processes, busy_ticks: 0, at: Instant::now() })
        };
        Snapshot::settled(10, || Ok(lists.next().unwrap()), read).unwrap()
    }

    #[test]
    fn a_table_during_which_a_descendant_ended_is_read_again() {
        // It was gone before it was read, when its parent had been read already: its account would be lost.
        let lost: Turn = (&[10, 11, 12], &[(10, 1), (11, 10)], &[10, 11]);
        // It was read, and may be in its parent's account as well.
        let doubled: Turn = (&[10, 11, 12], &[(10, 1), (11, 10), (12, 11)], &[10, 11]);
        let quiet: Turn = (&[10, 11], &[(10, 1), (11, 10)], &[10, 11, 13]);
        for turns in [[lost, quiet], [doubled, quiet]] {
            assert_eq!(settled(&turns).processes.len(), 2);
        }
        assert!(!settled(&[doubled, quiet]).processes.contains_key(&12));
    }

    #[test]
    fn a_strangers_end_does_not_matter() {
        let stranger: Turn = (&[10, 20], &[(10, 1), (20, 1)], &[10]);
        assert_eq!(settled(&[stranger]).processes.len(), 2);
    }

    #[test]
    fn the_own_tree_is_never_more_than_the_machine() {
        let snapshot = Snapshot::take().unwrap();
        let own = snapshot.tree_seconds(std::process::id());
        assert!(own <= snapshot.busy_seconds());
        assert!(own <= cpu_seconds(std::process::id()).unwrap() + 1.0);
    }
}
