//! What a source reports, in order.

use std::sync::Arc;

use bytes::Bytes;
use dbstreamd_log::UnitHead;
use dbstreamd_model::{Lsn, Op, TableSchema};

/// One step of a source's history.
#[derive(Debug, Clone)]
pub enum Change {
    /// A unit begins: a committed transaction, or a message that belongs to none.
    Begin(UnitHead),
    /// From here on `relation` means this schema, until told otherwise or until the session ends.
    Schema {
        /// The source's own number for the table.
        relation: u32,
        /// Its columns.
        schema: Arc<TableSchema>,
    },
    /// Something happened inside the open unit.
    Event {
        /// What.
        op: Op,
        /// To which table; none for messages.
        relation: Option<u32>,
        /// The event's body as the log stores it (`dbstreamd_model::EventBody`), a slice of the read buffer.
        body: Bytes,
    },
    /// The open unit is complete.
    Commit {
        /// Where it ends; the source may forget it once this is confirmed.
        end_lsn: Lsn,
    },
    /// The source says that it leaves out changes from here on, as there was no publication of this name when they were made.
    Unpublished {
        /// Its name.
        publication: Arc<str>,
    },
    /// Every unit below this position has been sent.
    Idle {
        /// The position.
        wal_end: Lsn,
        /// The source waits for an answer: what can be confirmed shall not wait for company.
        reply_requested: bool,
    },
}
