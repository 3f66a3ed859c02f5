//! The profiles: defaults that belong together. A setting that is given wins over its profile's value.

use serde::Deserialize;

use super::MIB;

const GIB: u64 = 1024 * MIB;

/// Which defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Fits into 128 MB with one source.
    Small,
    /// For a machine that does other things too.
    Standard,
    /// For a machine of its own with 16 GB or more.
    Large,
}

/// A profile's values, in bytes or pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values {
    pub(crate) credit_window: u64,
    pub(crate) memtables: u64,
    pub(crate) block_cache: u64,
    pub(crate) tail: u64,
    pub(crate) delivery: u64,
    pub(crate) group_commit: u64,
    pub(crate) partition: u64,
    pub(crate) grpc_connections: usize,
    pub(crate) subscribers: usize,
    pub(crate) http_connections: usize,
    pub(crate) event_streams: usize,
    /// Threads that run tasks, and threads for what blocks (disk reads, seeks, name look-ups).
    pub(crate) worker_threads: usize,
    pub(crate) blocking_threads: usize,
}

impl Profile {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Standard => "standard",
            Self::Large => "large",
        }
    }

    /// Its values on a machine with so many processors.
    pub(crate) fn values(self, processors: usize) -> Values {
        match self {
            Self::Small => Values {
                credit_window: 16 * MIB,
                memtables: 20 * MIB,
                block_cache: 4 * MIB,
                tail: 4 * MIB,
                delivery: 10 * MIB,
                group_commit: MIB,
                partition: 512 * MIB,
                grpc_connections: 64,
                subscribers: 64,
                http_connections: 64,
                event_streams: 8,
                worker_threads: processors.min(2),
                blocking_threads: 16,
            },
            Self::Standard => Values {
                credit_window: 512 * MIB,
                memtables: 256 * MIB,
                block_cache: 32 * MIB,
                tail: 32 * MIB,
                delivery: 256 * MIB,
                group_commit: 4 * MIB,
                partition: GIB,
                grpc_connections: 10_000,
                subscribers: 10_000,
                http_connections: 1_000,
                event_streams: 100,
                worker_threads: processors,
                blocking_threads: 64,
            },
            Self::Large => Values {
                credit_window: 2 * GIB,
                memtables: GIB,
                block_cache: GIB,
                tail: GIB,
                delivery: GIB,
                blocking_threads: 256,
                // More bytes per fsync bring nothing, and larger partitions give space back in larger pieces.
                ..Self::Standard.values(processors)
            },
        }
    }
}
