//! Sinks: where changes go without a client of our own, and the one loop that brings them there.
//!
//! What a destination must provide is drawn above [`Sink`]; [`deliver`] reads the log at the sink's own position,
//! writes, and commits. A sink pulls: however slow or dead it is, it delays neither the source nor any other reader.
//!
//! Adding a destination is one folder here with its `Sink`, and one variant in the configuration. There is none yet.
//! This crate knows nothing of sources, of RocksDB, of gRPC or of configuration files.

mod deliver;
mod status;

pub use deliver::{DeliverError, Delivery, RetryPolicy, deliver};
pub use status::{DeliveryState, DeliveryStatus};

use std::sync::Arc;

use async_trait::async_trait;
use dbstreamd_log::{ChunkSlice, StoredSchema};
use dbstreamd_model::Offset;

/// A destination of changes.
///
/// ```text
///   committed() ──▶ prepare(schema)… ──▶ write(batch) ──▶ prepare(schema)… ──▶ write(batch) ──▶ …
///       │                 │                   │
///       │                 │                   └─ Ok: every event of the batch is durable there; only then does its
///       │                 │                      position move. Err: it may be there in part and is written again
///       │                 └─ before the first batch that uses the schema, and again after every error
///       └─ once per connection: where the destination says it is, when it keeps our position itself
///
///   Delivery is at least once. A sink whose destination can store our position in the same transaction as the
///   data, and that answers it from `committed`, makes the effect exactly once.
/// ```
///
/// Batches come in offset order, one at a time. One call handles a whole batch, so dynamic dispatch costs nothing.
#[async_trait]
pub trait Sink: Send {
    /// The position the destination keeps, if it keeps one; it wins over the one in the log. Called first, and
    /// again after every error.
    ///
    /// # Errors
    /// When the destination cannot be asked.
    async fn committed(&mut self) -> Result<Option<Offset>, SinkError>;

    /// Makes the destination ready for rows of this schema version: creates or alters a table, caches a statement.
    /// Doing it again must be harmless.
    ///
    /// # Errors
    /// When the destination cannot take such rows.
    async fn prepare(&mut self, schema: &StoredSchema) -> Result<(), SinkError>;

    /// Writes the batch. `Ok` says that all of it is durable at the destination.
    ///
    /// # Errors
    /// When any of it may not be.
    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError>;
}

/// Consecutive events of one stream.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The events, in the log's own memory.
    pub events: ChunkSlice,
    /// Offset of the first event.
    pub first: Offset,
    /// Offset of the last event.
    pub last: Offset,
}

/// Why a sink could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// A passing fault: the loop comes back after a pause.
    #[error("{0}")]
    Passing(Arc<str>),
    /// Somebody must act: trying again cannot help, and skipping would lose events. The message names cause and remedy.
    #[error("{0}")]
    Stop(Arc<str>),
}
