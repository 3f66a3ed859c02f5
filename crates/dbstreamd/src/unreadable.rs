//! A value that cannot be read as its column's type: where it is, and what is said of it.
//!
//! Only typed form reads values. Delivery in that form stops before the event, as often as somebody asks for it; in
//! text form the event goes out as it is.

use std::fmt;

use dbstreamd_log::{EventRef, StoredSchema};
use dbstreamd_model::{Lsn, Offset};
use dbstreamd_values::ValueError;

/// The value that stopped a typed delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable {
    /// `schema.table`
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) offset: Offset,
    pub(crate) commit_lsn: Lsn,
    pub(crate) reason: Reason,
}

/// Why it cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// Its bytes are not what its column's type says.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// Its row does not fit its schema.
    #[error("the row has {cells} cells, but its schema has {columns} columns")]
    ColumnCount { cells: usize, columns: usize },
}

impl Unreadable {
    /// The value in this column of an event; a column that is not there stands for the whole row.
    pub(crate) fn new(event: &EventRef<'_>, stored: &StoredSchema, column: usize, reason: Reason) -> Self {
        let schema = &stored.schema;
        Self {
            table: format!("{}.{}", schema.namespace, schema.table),
            column: schema.columns.get(column).map(|column| column.name.clone()).unwrap_or_default(),
            offset: event.offset,
            commit_lsn: event.commit_lsn,
            reason,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, offset, commit_lsn, reason } = self;
        write!(
            f,
            "column {column:?} of table {table} cannot be read in typed form in the event at offset {offset} (commit LSN {commit_lsn}): {reason}; delivery stops before it so that nothing is skipped: read it as text, or skip it with dbstreamd resume STREAM --skip-to {next}, and report this",
            next = offset.next()
        )
    }
}
