//! What is known of a stream's tables by name: which relation has the name, and whether a consumer's copy of its rows can
//! still be right.
//!
//! Both are written in the write that makes the end of the transaction durable in which they were learnt. So a
//! transaction that is sent again finds what was known before it, and comes to the same conclusion.

use std::collections::BTreeMap;
use std::sync::Arc;

use dbstreamd_model::{Lsn, Offset, SchemaId, StreamId, Timestamp};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::log::Log;
use crate::writer::Command;

/// A table's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    /// Namespace.
    pub schema: String,
    /// Name.
    pub table: String,
}

/// Which relation a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableBinding {
    /// The relation's number at the source.
    pub relation: u32,
    /// The schema version it was last announced with; zero when only its name was told.
    pub schema: SchemaId,
}

/// Why rows are no longer what their events said. The numbers are on disk and never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DivergenceReason {
    /// All rows were written anew: a column with a volatile default, or a column's type changed.
    Rewritten = 1,
    /// A partition with rows was attached, detached or dropped.
    PartitionMoved = 2,
    /// The name now belongs to another table.
    NameReused = 3,
    /// A column's type is another, and nobody said how its values were converted.
    TypeChanged = 4,
}

impl DivergenceReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rewritten, Self::PartitionMoved, Self::NameReused, Self::TypeChanged];

    /// A short name that never changes, for documents and scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rewritten => "rewritten",
            Self::PartitionMoved => "partition_moved",
            Self::NameReused => "name_reused",
            Self::TypeChanged => "type_changed",
        }
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }
}

/// A table's rows changed without an event for each: the newest such change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// What kind of change.
    pub reason: DivergenceReason,
    /// What happened, in words.
    pub detail: String,
    /// The event that said so, or the first one after it was noticed.
    pub offset: Offset,
    /// Where the transaction was committed.
    pub lsn: Lsn,
    /// When it was noticed, by the daemon's clock.
    pub noticed_at: Timestamp,
}

/// What becomes known of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableChange {
    /// The name stands for this relation from now on.
    Bound(TableBinding),
    /// The table is gone, and so is everything known of it.
    Gone,
    /// Its rows changed without events.
    Diverged(Divergence),
    /// Its rows are again what their events say.
    Cleared,
}

/// All that is known of one stream's tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableBook {
    pub(crate) bindings: BTreeMap<TableName, TableBinding>,
    pub(crate) diverged: BTreeMap<TableName, Divergence>,
}

impl TableBook {
    pub(crate) fn apply(&mut self, name: TableName, change: TableChange) {
        match change {
            TableChange::Bound(binding) => {
                self.bindings.insert(name, binding);
            }
            TableChange::Diverged(divergence) => {
                self.diverged.insert(name, divergence);
            }
            TableChange::Cleared => {
                self.diverged.remove(&name);
            }
            TableChange::Gone => {
                self.bindings.remove(&name);
                self.diverged.remove(&name);
            }
        }
    }
}

impl Log {
    /// Tables of a stream whose rows changed without events, by name.
    pub fn diverged(&self, stream: StreamId) -> Vec<(TableName, Divergence)> {
        let Ok(stream) = self.shared.stream(stream) else { return Vec::new() };
        let book = Arc::clone(&stream.tables.read());
        book.diverged.iter().map(|(name, divergence)| (name.clone(), divergence.clone())).collect()
    }

    /// How many they are.
    pub fn diverged_count(&self, stream: StreamId) -> usize {
        self.shared.stream(stream).map_or(0, |stream| stream.tables.read().diverged.len())
    }

    /// Takes a table off that list, durably: whoever reads it has its rows anew. False when it was not on it.
    ///
    /// # Errors
    /// When there is no such stream, or the log does not write any more.
    pub async fn clear_diverged(&self, stream: StreamId, table: TableName) -> Result<bool, LogError> {
        let stream = self.shared.stream(stream)?;
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::ClearTable { stream, table, reply })?;
        self.shared.answer(answer).await
    }
}

/// A book that many read and the writer changes.
pub(crate) type SharedBook = parking_lot::RwLock<Arc<TableBook>>;

impl TableName {
    /// A name from its parts.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }

    /// As in keys: neither part has a NUL.
    pub(crate) fn to_key(&self) -> String {
        format!("{}\0{}", self.schema, self.table)
    }

    pub(crate) fn from_key(key: &str) -> Option<Self> {
        let (schema, table) = key.split_once('\0')?;
        (!table.contains('\0')).then(|| Self::new(schema, table))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_and_names_come_back_from_what_is_kept_of_them() {
        for reason in DivergenceReason::ALL {
            assert_eq!(DivergenceReason::from_code(reason as u8), Some(reason));
            assert_eq!(DivergenceReason::from_name(reason.name()), Some(reason));
        }
        // On disk in users' logs.
        assert_eq!(DivergenceReason::ALL.map(|reason| reason as u8), [1, 2, 3, 4]);
        let name = TableName::new("a.b", "c d");
        assert_eq!(TableName::from_key(&name.to_key()), Some(name));
        assert_eq!(TableName::from_key("no table"), None);
        assert_eq!(TableName::from_key("a\0b\0c"), None);
    }
}
