//! Samples as `perf script` prints them, and what they add up to: by function and by area.

use std::collections::HashMap;

/// One function on a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Frame {
    /// With the file it is in where it has no name.
    pub(crate) name: String,
    pub(crate) kernel: bool,
}

/// One sample.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// The thread's name.
    pub(crate) thread: String,
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
}

/// All samples.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// What was sampled, as perf calls it.
    pub(crate) event: String,
    pub(crate) stacks: Vec<Stack>,
    /// What perf says it lost, if anything.
    pub(crate) lost: Option<String>,
}

/// So many samples in one function, or in one area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) name: String,
    /// The area that most of them are of.
    pub(crate) area: &'static str,
    pub(crate) samples: usize,
}

/// Addresses from here on are the kernel's, on every 64-bit Linux.
const KERNEL_FROM: u64 = 1 << 63;

/// Areas of the kernel, by what a name of a kernel function on the stack begins with; the first that fits.
const KERNEL_AREAS: &[(&str, &[&str])] = &[
    ("kernel: page faults", &["asm_exc_page_fault", "exc_page_fault", "do_user_addr_fault"]),
    ("kernel: sockets", &["tcp_", "sock_", "inet_", "__sys_recv", "__sys_send", "unix_stream_"]),
    ("kernel: files", &["vfs_", "ksys_write", "ksys_pwrite", "do_fsync", "ext4_", "xfs_", "btrfs_", "submit_bio"]),
];
const KERNEL_OTHER: &str = "kernel: everything else";

/// Areas of the program, by what a name contains. Who calls the standard library or the allocator has their time.
const USER_AREAS: &[(&str, &[&str])] = &[
    ("zstd, LZ4", &["zstd", "ZSTD_", "HUF_", "FSE_", "HIST_", "lz4", "LZ4_"]),
    ("RocksDB", &["rocksdb::", "rocksdb_"]),
    (
        "pgoutput: frames, parsing, rows checked",
        &[
            "dbstreamd_pgoutput::",
            "dbstreamd_source::postgres::wal::",
            "dbstreamd_source::postgres::decode::",
            "dbstreamd_model::",
        ],
    ),
    ("log: append, write", &["dbstreamd_log::"]),
    ("source: reading, ingest loop", &["dbstreamd_source::", "dbstreamd_values::"]),
    (
        "serving: gRPC, HTTP, metrics",
        &["dbstreamd::", "dbstreamd[", "tonic::", "hyper::", "h2::", "axum::", "prometheus"],
    ),
    ("runtime (tokio)", &["tokio::", "mio::"]),
];
/// What perf says where there is no symbol.
const UNKNOWN: &str = "[unknown]";
const OTHER: &str = "unknown caller";

impl Profile {
    /// Reads what `perf script -F comm,event,ip,sym,dso` prints: a line with thread and event, a line per frame, an empty line.
    pub(crate) fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        for line in text.lines() {
            if line.trim().is_empty() {
                continue;
            }
            if !line.starts_with(['\t', ' ']) || line.trim_end().ends_with(':') {
                // `ingest-1   cpu-clock:pppH: `, and a thread's name may hold spaces.
                let head = line.trim().trim_end_matches(':');
                let (thread, event) = head.rsplit_once(char::is_whitespace).unwrap_or((head, ""));
                profile.event = event.split(':').next().unwrap_or_default().to_owned();
                profile.stacks.push(Stack { thread: thread.trim().to_owned(), frames: Vec::new() });
            } else if let (Some(stack), Some(frame)) = (profile.stacks.last_mut(), Frame::parse(line)) {
                stack.frames.push(frame);
            }
        }
        profile.stacks.retain(|stack| !stack.frames.is_empty());
        profile
    }

    /// Functions by the samples in themselves, the most first.
    pub(crate) fn functions(&self) -> Vec<Share> {
        let inner = self.stacks.iter().filter_map(|stack| Some((stack.frames.first()?.name.as_str(), stack.area())));
        let mut counts: HashMap<&str, HashMap<&'static str, usize>> = HashMap::new();
        for (name, area) in inner {
            *counts.entry(name).or_default().entry(area).or_default() += 1;
        }
        let share = |(name, areas): (&str, HashMap<&'static str, usize>)| {
            let area = areas.iter().max_by_key(|(area, samples)| (**samples, **area)).map_or(OTHER, |(area, _)| area);
            Share { name: name.to_owned(), area, samples: areas.values().sum() }
        };
        sorted(counts.into_iter().map(share))
    }

    /// Areas by their samples, the most first.
    pub(crate) fn areas(&self) -> Vec<Share> {
        let mut counts: HashMap<&'static str, usize> = HashMap::new();
        for stack in &self.stacks {
            *counts.entry(stack.area()).or_default() += 1;
        }
        sorted(counts.into_iter().map(|(area, samples)| Share { name: area.to_owned(), area, samples }))
    }

    /// The fraction of samples whose outer end is not known.
    pub(crate) fn cut_off(&self) -> f64 {
        let cut_off = |stack: &&Stack| {
            let outermost = stack.frames.last();
            outermost.is_none_or(|frame| frame.name.starts_with(UNKNOWN))
                || stack.frames.iter().filter(|frame| !frame.kernel).count() <= 1
        };
        fraction(self.stacks.iter().filter(cut_off).count(), self.stacks.len())
    }
}

impl Stack {
    /// Whose time it is.
    pub(crate) fn area(&self) -> &'static str {
        let find = |areas: &[(&'static str, &[&str])], fits: &dyn Fn(&Frame, &str) -> bool| {
            let of = |frame: &Frame| areas.iter().find(|(_, words)| words.iter().any(|word| fits(frame, word)));
            self.frames.iter().find_map(|frame| Some(of(frame)?.0))
        };
        if self.frames.first().is_some_and(|frame| frame.kernel) {
            return find(KERNEL_AREAS, &|frame, word| frame.kernel && frame.name.starts_with(word))
                .unwrap_or(KERNEL_OTHER);
        }
        find(USER_AREAS, &|frame, word| !frame.kernel && frame.name.contains(word)).unwrap_or(OTHER)
    }
}

impl Frame {
    /// `55d0c0a1 dbstreamd_log::append (/usr/bin/dbstreamd)`
    fn parse(line: &str) -> Option<Self> {
        let (address, rest) = line.trim().split_once(' ')?;
        let address = u64::from_str_radix(address, 16).ok()?;
        let (name, file) = rest.trim_end_matches(')').rsplit_once(" (").unwrap_or((rest, ""));
        let file = file.rsplit('/').next().unwrap_or_default();
        let name = if name == UNKNOWN { format!("{UNKNOWN} in {file}") } else { without_hash(name).to_owned() };
        Some(Self { name, kernel: address >= KERNEL_FROM })
    }
}

impl Share {
    /// Of so many samples.
    pub(crate) fn percent(&self, samples: usize) -> f64 {
        100.0 * fraction(self.samples, samples)
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are far below 2^53")]
fn fraction(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

fn sorted(shares: impl Iterator<Item = Share>) -> Vec<Share> {
    let mut shares: Vec<Share> = shares.collect();
    shares.sort_by(|one, other| other.samples.cmp(&one.samples).then_with(|| one.name.cmp(&other.name)));
    shares
}

/// `a::b` of `a::b::h0123456789abcdef`.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => path,
        _ => name,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SCRIPT: &str = "\
tokio-rt worker cpu-clock:pppH: 
\t        55d0c0a1 __memmove_avx (/usr/lib/libc.so.6)
\t        55d0c0b2 <dbstreamd_log::appender::Appender as core::fmt::Debug>::fmt::h0123456789abcdef (/opt/dbstreamd)
\t        55d0c0c3 tokio::runtime::park (/opt/dbstreamd)

log-writer cpu-clock:pppH: 
\tffffffff81000010 copy_from_user ([kernel.kallsyms])
\tffffffff81000020 vfs_write ([kernel.kallsyms])
\t        55d0c0d4 rocksdb::log::Writer::Emit(int, char const*) (/opt/dbstreamd)

log-writer cpu-clock:pppH: 
\t        55d0c0e5 [unknown] (/usr/lib/libc.so.6)
";

    #[test]
    fn a_sample_is_of_the_first_function_from_the_inside_that_belongs_to_an_area() {
        let profile = Profile::parse(SCRIPT);
        assert_eq!(profile.event, "cpu-clock");
        let areas: Vec<_> = profile.stacks.iter().map(Stack::area).collect();
        assert_eq!(areas, ["log: append, write", "kernel: files", OTHER]);
        let threads: Vec<_> = profile.stacks.iter().map(|stack| stack.thread.as_str()).collect();
        assert_eq!(threads, ["tokio-rt worker", "log-writer", "log-writer"]);
        assert!((profile.areas().iter().map(|share| share.percent(3)).sum::<f64>() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_name_is_without_hash_and_path_and_a_file_stands_in_for_it() {
        let profile = Profile::parse(SCRIPT);
        let name = |stack: usize, frame: usize| profile.stacks[stack].frames[frame].name.as_str();
        assert_eq!(name(0, 1), "<dbstreamd_log::appender::Appender as core::fmt::Debug>::fmt");
        assert_eq!(name(1, 2), "rocksdb::log::Writer::Emit(int, char const*)");
        assert_eq!(name(2, 0), "[unknown] in libc.so.6");
    }

    #[test]
    fn the_time_of_a_function_is_the_samples_that_end_in_it() {
        let twice = format!("{SCRIPT}\n{SCRIPT}");
        let functions = Profile::parse(&twice).functions();
        let counted: Vec<_> = functions.iter().map(|share| (share.name.as_str(), share.samples)).collect();
        assert_eq!(counted, [("[unknown] in libc.so.6", 2), ("__memmove_avx", 2), ("copy_from_user", 2)]);
    }

    #[test]
    fn a_sample_that_does_not_lead_to_its_threads_beginning_is_cut_off() {
        // The last one has no name, and the kernel's leads to one user function only.
        assert!((Profile::parse(SCRIPT).cut_off() - 2.0 / 3.0).abs() < 1e-9);
        assert!(Profile::parse("").cut_off().abs() < 1e-9);
    }
}
