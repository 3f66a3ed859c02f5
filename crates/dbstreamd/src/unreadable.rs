//! A value that cannot be read as its column's type: what is said of it, to the client and to the operator.
//!
//! Only typed form reads values. Delivery in that form stops before the event, as often as somebody asks for it; in
//! text form the event goes out as it is.

use std::collections::HashMap;
use std::fmt;

use dbstreamd_log::{EventRef, StoredSchema};
use dbstreamd_model::{Lsn, Notice, Offset, Severity, StreamId};
use dbstreamd_values::ValueError;
use parking_lot::Mutex;

use crate::directory::{Directory, Entry};

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
            "column {column:?} of table {table} cannot be read in typed form in the event at offset {offset} (commit LSN {commit_lsn}): {reason}; delivery stops before it so that nothing is skipped: read it as text, and report this"
        )
    }
}

/// Where the operator was told of a value already: consumers come back again and again, and one notice is enough.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashMap<StreamId, Offset>>);

impl Unreadable {
    /// Tells the operator, unless it was the last one told of this stream.
    pub(crate) fn tell(&self, directory: &Directory, entry: &Entry) {
        if directory.unreadable.0.lock().insert(entry.id, self.offset) != Some(self.offset) {
            let notice = Notice::new(Severity::Error, "value_unreadable", self.to_string());
            directory.notices.push(notice.of_stream(&entry.name));
        }
    }
}
