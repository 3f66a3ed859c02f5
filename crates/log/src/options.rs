//! What an operator may choose about the log, with the default and the reason for each.

use std::path::PathBuf;
use std::time::Duration;

use dbstreamd_model::NoticeSink;

use crate::holds::HoldLimits;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Consumers are kept until somebody deletes them, so a client that makes up a new name each time must be stopped
/// somewhere: ten thousand are as many as may be connected, and a few MiB.
const CONSUMERS_PER_STREAM_MAX: usize = 10_000;

/// Where the log lives and how much it may use.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The data directory; created when missing.
    pub dir: PathBuf,
    /// A group commit is closed at this many bytes. 4 MiB: an fsync of it takes a few milliseconds, and more bytes
    /// per fsync no longer raise throughput. Half as much may wait for the writer in its stored form.
    pub group_commit_bytes_max: usize,
    /// A group commit takes in what arrives while it is being put together, for at most this long. It is never
    /// waited for: an idle disk is used at once.
    pub group_commit_delay_max: Duration,
    /// A chunk is cut at this many bytes of payload. 128 KiB: large enough that a compressor and RocksDB's cost per key do
    /// not matter, small enough that a reader's buffer and one wasted read are cheap.
    pub chunk_bytes_max: usize,
    /// Memory for what is written and not yet in table files, all streams together, flushes under way included.
    pub memtable_budget_bytes: usize,
    /// Memory for blocks of table files and their indexes.
    pub block_cache_bytes: usize,
    /// Memory for the newest chunks of all streams, from which readers at the tail are served.
    pub tail_ring_bytes: usize,
    /// Memory for chunks that readers have taken from disk and not delivered, all readers together. Who finds it used
    /// up waits in line; one reader always gets its turn.
    pub read_ahead_bytes: usize,
    /// A partition is closed at this size; the grain in which space is given back.
    pub partition_bytes_max: u64,
    /// A partition is closed at this age; the grain in which retention by age works.
    pub partition_age_max: Duration,
    /// How long, and how much, is kept.
    pub retention: Retention,
    /// Of how many classes the streams' retention is ([`retention_classes`](crate::retention_classes)): each has a partition,
    /// and memory, of its own.
    pub retention_classes: usize,
    /// What is kept free of the data volume: below it sources are held.
    pub free_space_min: FreeSpace,
    /// How long, and how far behind, consumers may hold what retention would remove.
    pub holds: HoldLimits,
    /// Names of consumers that are remembered for each stream.
    pub consumers_per_stream_max: usize,
    /// Told of damage, of the log's end and of what else an operator may want to know.
    pub notices: NoticeSink,
}

/// How much history is kept. Whatever limit is reached first, the oldest partition goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Drop partitions closed longer ago than this.
    pub age: Option<Duration>,
    /// Drop the oldest partitions while all of them together are larger than this.
    pub bytes: Option<u64>,
}

/// What is kept free of the data volume, so that a write never fails for want of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeSpace {
    /// A twentieth of it, at most 1 GiB.
    Share,
    /// So many bytes.
    Bytes(u64),
    /// Nothing.
    Off,
}

impl Default for Retention {
    fn default() -> Self {
        // Seven days outlast a long weekend of a broken consumer; 50 GiB keeps a forgotten daemon from filling a disk.
        Self { age: Some(Duration::from_secs(7 * 24 * 3600)), bytes: Some(50 * 1024 * 1024 * 1024) }
    }
}

impl LogOptions {
    /// The defaults, in this directory.
    pub fn with_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            group_commit_bytes_max: 4 * MIB,
            group_commit_delay_max: Duration::from_micros(500),
            chunk_bytes_max: 128 * KIB,
            memtable_budget_bytes: 256 * MIB,
            block_cache_bytes: 32 * MIB,
            tail_ring_bytes: 32 * MIB,
            read_ahead_bytes: 128 * MIB,
            partition_bytes_max: 1024 * 1024 * 1024,
            partition_age_max: Duration::from_secs(6 * 3600),
            retention: Retention::default(),
            retention_classes: 1,
            free_space_min: FreeSpace::Share,
            holds: HoldLimits::default(),
            consumers_per_stream_max: CONSUMERS_PER_STREAM_MAX,
            notices: NoticeSink::default(),
        }
    }
}

/// Below this a partition has few memtables, so that they need not be tiny: each becomes a table file.
const SMALL_MEMTABLE_BUDGET: usize = 64 * MIB;

impl LogOptions {
    /// Memtables of one partition: one that is written to and those that wait for their flush. A write that needs one more waits.
    pub(crate) fn memtables_per_partition(&self) -> usize {
        if self.memtable_budget_bytes < SMALL_MEMTABLE_BUDGET { 2 } else { 4 }
    }

    /// Size of one memtable, and so of a table file: the budget has room for the memtables of the partitions that are
    /// written to and of one before them, whose flushes come first. So it holds whatever the disk does.
    pub fn write_buffer_bytes(&self) -> usize {
        (self.memtable_budget_bytes
            / (self.retention_classes.max(1).saturating_add(1) * self.memtables_per_partition()))
        .clamp(MIB, 128 * MIB)
    }
}

impl Default for LogOptions {
    /// The defaults, in `dbstreamd-data` under the working directory.
    fn default() -> Self {
        Self::with_dir("dbstreamd-data")
    }
}
