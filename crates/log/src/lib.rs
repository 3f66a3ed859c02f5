//! The durable log: everything dbstreamd must not lose, on one disk.
//!
//! ```text
//!   ingest ──▶ Appender ──chunks──▶ writer thread ──WriteBatch + fsync──▶ store ──▶ Reader ──▶ consumer
//!              (builds)   (credit)        │                                  ▲         ▲
//!                                         ├── Durable<Lsn> ──▶ confirmer     │         │
//!                                         └── tail ring (visible chunks) ────┴─────────┘
//!
//!   watermarks of one stream, highest first; each is an offset, and none ever moves back while a process runs, a new
//!   epoch included
//!   (a new session throws away what is not visible, and only that):
//!
//!     appended     in memory, built or being written
//!     durable      fsynced here, perhaps part of a transaction whose end has not arrived
//!     visible      fsynced here together with its transaction's end: readers see up to here
//!     trim point   removed by retention up to here: readers start after it
//!
//!   and beside them `confirmed_through`: how far the source may forget. A position of the source means something in its
//!   own epoch only: a new epoch (`epochs.rs`) starts it over, perhaps further back.
//! ```
//!
//! Read it in this order: [`Appender`] builds chunks out of units (transactions); the writer thread is the only one
//! that changes the disk and the only one that can mint a [`Durable`]; a [`Reader`] follows the log at its own pace;
//! retention drops whole partitions. docs/format.md describes every byte on disk.
//!
//! This crate knows nothing of PostgreSQL's protocol, of Protobuf, or of who reads; and nobody else knows RocksDB.

mod appender;
mod chunk;
mod consumers;
mod credit;
mod epochs;
mod error;
mod failpoint;
mod holds;
mod latency;
mod log;
mod metrics;
mod options;
mod read;
mod schemas;
mod shared;
mod skips;
mod store;
mod stream;
mod tables;
mod tunables;
mod units;
mod writer;

pub use appender::{Appender, Pump, Resume, UnitHead};
pub use chunk::{Chunk, ChunkSlice, EncodedRun, EventRef};
pub use consumers::{Attendance, Beginning, ConsumerRecord, Rewind};
pub use credit::{Credit, CreditShare, CreditWindow};
pub use epochs::{EpochBreak, EpochReason, EpochRecord};
pub use error::LogError;
pub use failpoint::Failpoint;
pub use holds::{ConsumerState, HoldChange, HoldLimits, HoldLost, SnapshotReason};
pub use latency::LatencyHistogram;
pub use log::{DISK_READS_MAX, Log, LogMemory, SETTING_NAME_BYTES_MAX, SETTING_VALUE_BYTES_MAX, Watermarks};
pub use metrics::LogMetrics;
pub use options::{FreeSpace, LogOptions, Retention};
pub use read::{
    PieceForm, READ_AHEAD_BYTES_MAX, Reader, SchemaCandidate, StartAt, Tail, TailMoves, TailPiece, UnitCursor,
    UnitRecord,
};
pub use schemas::StoredSchema;
pub use skips::Skip;
pub use store::{SourceIdentity, StoredForm, ValueForm};
pub use tables::{Divergence, DivergenceReason, TableBinding, TableChange, TableName};
pub use tunables::Tunables;
pub use units::UnitHasher;
pub use writer::{CROWD_MIN, Durable, Space, retention_classes};
