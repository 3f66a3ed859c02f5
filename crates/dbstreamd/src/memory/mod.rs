//! One memory budget for everything: who may use how much, and whether that fits where we run.
//!
//! `profile` has the defaults, `limit` says how much there is, this file adds up, `table` shows it, `usage` compares it with
//! what is used now, `allocator` sets up who hands it out.
//! Each row is a bound that some other part keeps; nothing here limits anything. The sum and the headroom are compared
//! with the limit before anything is opened: a daemon that would be killed under load does not start.

mod allocator;
mod limit;
mod profile;
mod table;
mod usage;

use dbstreamd_log::{DISK_READS_MAX, READ_AHEAD_BYTES_MAX};
use dbstreamd_source::postgres::{KERNEL_BUFFER_BYTES, SESSION_BYTES_MAX};

use crate::config::Config;
use crate::config::Threads;
use crate::delivery::FLOOR_BYTES;
use crate::grpc::gather::{OWN_BYTES_MAX, shared_bytes_max};
use crate::grpc::schema_cache::SCHEMA_CACHE_BYTES_MAX;
pub(crate) use allocator::limit_heaps;
pub(crate) use limit::Machine;
pub use limit::{Limit, LimitOrigin};
pub use profile::Profile;
pub(crate) use table::size_text;
pub(crate) use usage::{Live, Usage};

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// The least that a `memory.…` setting can be set to: less than a row of ordinary size is a mistake.
pub(crate) const SETTING_BYTES_MIN: u64 = MIB;
/// The least that `memory.total` can be set to: the program itself and the smallest budgets.
pub(crate) const TOTAL_BYTES_MIN: u64 = 64 * MIB;

/// Program, libraries, runtime and an open, empty log: measured, idle.
const PROCESS_BYTES: u64 = 22 * MIB;
/// What a thread's stack and its part of the allocator really take; the rest of its 2 MiB is never touched.
const THREAD_BYTES: u64 = 128 * KIB;
/// The log's writer, RocksDB's two background threads and its timer, the main thread, the resolver's.
const OTHER_THREADS: u64 = 6;
/// Table files being written, and the small compaction of the records.
const FLUSH_BYTES: u64 = 4 * MIB;
/// A read from disk: the block, what RocksDB reads ahead of it, and what it is decompressed to.
const DISK_READ_BYTES: u64 = 512 * KIB;
/// What RocksDB keeps in memory for each table file, and for each partition.
const TABLE_FILE_BYTES: u64 = 640;
const PARTITION_BYTES: u64 = 40 * KIB;
/// Smaller partitions than this are for logs that never grow to their bound: they are reckoned with as if they were as large.
const PARTITION_SIZE_RECKONED_MIN: u64 = 64 * MIB;
/// Without a bound of the log's size this much is reckoned with, as by default.
const LOG_BYTES_ASSUMED: u64 = 50 * 1024 * MIB;
/// A gRPC connection, and a subscription on it: measured with 1,000 connections and with 10,000 subscriptions, idle.
const CONNECTION_BYTES: u64 = 20 * KIB;
const SUBSCRIPTION_BYTES: u64 = 16 * KIB;
/// An HTTP connection, and an event stream on it with the chunk it reads.
const HTTP_CONNECTION_BYTES: u64 = 16 * KIB;
const EVENT_STREAM_BYTES: u64 = 320 * KIB;
/// Of everything a fifth is left to the operating system and to what an allocator cannot give back: the sum may be four fifths of the limit.
const HEADROOM_PART: u64 = 4;

/// Who uses memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Component {
    /// The program itself.
    Process,
    /// Stacks.
    Threads,
    /// Blocks and indexes of table files.
    BlockCache,
    /// Written and not in table files.
    Memtables,
    /// Group commits being put together.
    GroupCommit,
    /// Table files being written.
    Compaction,
    /// Reads from disk under way.
    DiskReads,
    /// What RocksDB knows of its files.
    LogMetadata,
    /// The newest chunks, with their encodings.
    Tail,
    /// Received and not durable.
    CreditWindow,
    /// Connections to the databases.
    Sources,
    /// gRPC connections and subscriptions.
    Subscribers,
    /// Produced or read for subscribers, and not taken.
    Delivery,
    /// HTTP connections.
    Http,
}

impl Component {
    /// Its name in JSON and in metrics; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Threads => "threads",
            Self::BlockCache => "block_cache",
            Self::Memtables => "memtables",
            Self::GroupCommit => "group_commit",
            Self::Compaction => "compaction",
            Self::DiskReads => "disk_reads",
            Self::LogMetadata => "log_metadata",
            Self::Tail => "tail",
            Self::CreditWindow => "credit_window",
            Self::Sources => "sources",
            Self::Subscribers => "subscribers",
            Self::Delivery => "delivery",
            Self::Http => "http",
        }
    }

    /// What an operator changes to change it; none when that is nothing.
    pub const fn setting(self) -> Option<&'static str> {
        match self {
            Self::Process | Self::Compaction | Self::DiskReads | Self::Threads => None,
            Self::BlockCache => Some("memory.block_cache"),
            Self::Memtables => Some("memory.memtables"),
            Self::GroupCommit => Some("log.group_commit_bytes"),
            Self::LogMetadata => Some("log.retention_bytes"),
            Self::Tail => Some("memory.tail"),
            Self::CreditWindow => Some("memory.credit_window"),
            Self::Sources => Some("source"),
            Self::Subscribers => Some("grpc.max_subscribers"),
            Self::Delivery => Some("memory.delivery"),
            Self::Http => Some("http.max_connections"),
        }
    }
}

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Who.
    pub component: Component,
    /// How much, at most.
    pub bytes: u64,
    /// What for.
    pub what: String,
}

/// The whole table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Where the defaults came from.
    pub profile: Profile,
    /// Who wants what.
    pub rows: Vec<Row>,
    /// How much there is; none when nobody says.
    pub limit: Option<Limit>,
}

/// The budget is larger than the limit.
#[derive(Debug, thiserror::Error)]
#[error("the memory budget of {needed}, headroom included, is more than the {limit}: {remedy}", needed = size_text(.budget.needed()), limit = .limit, remedy = .budget.remedy())]
pub struct OverBudget {
    /// The table.
    pub budget: Budget,
    limit: Limit,
}

impl Budget {
    /// What a configuration asks for.
    pub(crate) fn of(config: &Config, profile: Profile, limit: Option<Limit>) -> Self {
        let log = &config.log;
        let size = |bytes: usize| bytes as u64;
        let sources = config.sources.len().max(1) as u64;
        // One source holds at most an eighth of the window.
        let window = size(config.credit_window_bytes).min(sources * (size(config.credit_window_bytes) / 8));
        let Threads { workers, intake, blocking_max, intake_blocking_max } = config.threads;
        let threads = (workers + intake + blocking_max + intake_blocking_max) as u64 + OTHER_THREADS;
        let kept = log.retention.bytes.unwrap_or(LOG_BYTES_ASSUMED);
        let files = kept.div_ceil(size(log.write_buffer_bytes()));
        let partitions = kept.div_ceil(log.partition_bytes_max.max(PARTITION_SIZE_RECKONED_MIN));
        let (connections, subscribers) = (size(config.grpc.connections_max), size(config.grpc.subscribers_max));
        let (http, streams) = (size(config.http.connections_max), size(config.http.event_streams_max));
        let row = |component, bytes, what: String| Row { component, bytes, what };
        let rows = vec![
            row(Component::Process, PROCESS_BYTES, "program and an empty log, measured".into()),
            row(Component::Threads, threads * THREAD_BYTES, format!("{threads} threads at most")),
            row(Component::BlockCache, size(log.block_cache_bytes), "blocks and indexes of table files".into()),
            row(
                Component::Memtables,
                size(log.memtable_budget_bytes),
                "written, not in table files; flushes included".into(),
            ),
            row(
                Component::GroupCommit,
                5 * size(log.group_commit_bytes_max) / 2,
                "the commit being written, and what is ready for the next".into(),
            ),
            row(Component::Compaction, FLUSH_BYTES, "files being written; events are never compacted".into()),
            row(
                Component::DiskReads,
                size(DISK_READS_MAX) * DISK_READ_BYTES,
                format!("{DISK_READS_MAX} reads at a time"),
            ),
            row(
                Component::LogMetadata,
                files * TABLE_FILE_BYTES + partitions * PARTITION_BYTES,
                format!("{files} table files, {partitions} partitions when the log is full"),
            ),
            row(Component::Tail, size(log.tail_ring_bytes), "newest chunks and their encodings".into()),
            row(Component::CreditWindow, window, "received, not durable; a source has an eighth of the setting".into()),
            row(
                Component::Sources,
                sources * (size(SESSION_BYTES_MAX) + size(KERNEL_BUFFER_BYTES)),
                format!("receive and kernel buffers, times {sources}"),
            ),
            row(
                Component::Subscribers,
                size(SCHEMA_CACHE_BYTES_MAX)
                    + size(shared_bytes_max(config.grpc.connections_max))
                    + connections * (CONNECTION_BYTES + size(OWN_BYTES_MAX))
                    + subscribers * (SUBSCRIPTION_BYTES + size(FLOOR_BYTES)),
                format!("{connections} connections, {subscribers} subscriptions"),
            ),
            row(
                Component::Delivery,
                // There is always room for one reader, and for what several share.
                size(config.delivery_bytes)
                    + size(log.read_ahead_bytes.max(READ_AHEAD_BYTES_MAX))
                    + size(READ_AHEAD_BYTES_MAX),
                "read or produced for subscribers, not taken".into(),
            ),
            row(
                Component::Http,
                http * HTTP_CONNECTION_BYTES + streams * EVENT_STREAM_BYTES,
                format!("{http} connections, {streams} event streams"),
            ),
        ];
        Self { profile, rows, limit }
    }

    /// Everybody's part together.
    pub fn sum(&self) -> u64 {
        self.rows.iter().map(|row| row.bytes).fold(0, u64::saturating_add)
    }

    /// The sum and the headroom: a fifth of all.
    pub fn needed(&self) -> u64 {
        self.sum().saturating_add(self.sum() / HEADROOM_PART)
    }

    /// Whether it fits; it does where no limit is known.
    pub fn fits(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| self.needed() <= limit.bytes)
    }

    /// # Errors
    /// When it does not fit.
    pub fn check(&self) -> Result<(), OverBudget> {
        match &self.limit {
            Some(limit) if !self.fits() => Err(OverBudget { budget: self.clone(), limit: limit.clone() }),
            _ => Ok(()),
        }
    }

    /// What would make it smaller.
    fn remedy(&self) -> String {
        let mut largest: Vec<_> =
            self.rows.iter().filter_map(|row| Some((row.bytes, row.component.setting()?))).collect();
        largest.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let names = largest.iter().take(3).map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        match self.profile {
            Profile::Small => format!("lower the largest parts ({names}), or give it more memory"),
            Profile::Standard | Profile::Large => {
                format!("set memory.profile = \"small\", lower the largest parts ({names}), or give it more memory")
            }
        }
    }
}

#[cfg(test)]
mod tests;
