//! Bytes in, PostgreSQL's logical replication messages out: the `pgoutput` plugin's protocol version 1.
//!
//! [`parse`] takes the payload of one XLogData and borrows everything from it. It looks at a row only to see that it
//! is well-formed: a row's bytes already are the body of an event in the log (`dbstreamd_model::EventBody`), so
//! [`RowMessage::body`] is copied once and read by whoever wants its cells. No input makes it panic or allocate more
//! than the message is long, and what it does not know it refuses.
//!
//! Left to others: sockets and XLogData framing, the order of messages, and whether a row fits its table, which
//! only a connection's relation cache can tell.
//!
//! Layouts: PostgreSQL documentation, "Logical Replication Message Formats".

mod error;
mod input;
mod message;
mod relation;

pub use error::ParseError;
pub use message::{
    Begin, Commit, LogicalMessage, Message, Origin, RowMessage, StreamAbort, Truncate, TypeMessage, parse,
};
pub use relation::{Columns, RelationColumn, RelationMessage};

use dbstreamd_model::Timestamp;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00:00 UTC.
pub const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A time as PostgreSQL's protocols carry it, microseconds since 2000-01-01 UTC.
///
/// Values that Unix microseconds cannot hold (beyond the year 294,000) become the last one they can.
pub const fn timestamp_from_postgres(micros: i64) -> Timestamp {
    Timestamp(micros.saturating_add(POSTGRES_EPOCH_MICROS))
}

/// A time in PostgreSQL's own epoch, as status updates carry it.
pub const fn timestamp_to_postgres(at: Timestamp) -> i64 {
    at.0.saturating_sub(POSTGRES_EPOCH_MICROS)
}
