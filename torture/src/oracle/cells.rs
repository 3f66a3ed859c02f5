//! One event as a change of a row: table, values as text, and which of them are the key.

use bytes::Bytes;

use crate::workload::Digest;
use dbstreamd_client::{Cell, Event, Operation, Row, Schema, cell};

/// A value as the stream has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Null,
    Text(Bytes),
    /// TOASTed, and not touched by the update.
    Unchanged,
}

impl Value {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Value::Null => b"\\N",
            Value::Text(text) => text,
            Value::Unchanged => b"=",
        }
    }

    pub(crate) fn number(&self) -> Option<i64> {
        std::str::from_utf8(self.bytes()).ok()?.parse().ok()
    }
}

/// One event, read.
#[derive(Debug)]
pub(crate) enum Change {
    Insert { table: String, key: Vec<Value>, row: Vec<Value> },
    Update { table: String, key: Vec<Value>, row: Vec<Value> },
    Delete { table: String, key: Vec<Value> },
    Truncate { table: String },
    Message { transactional: bool, prefix: String, content: Bytes },
}

impl Change {
    pub(crate) fn read(event: &Event, schema: Option<&Schema>) -> Result<Self, String> {
        if event.operation() == Operation::Message {
            let message = event.message.as_ref().ok_or("a message without content")?;
            return Ok(Change::Message {
                transactional: message.transactional,
                prefix: String::from_utf8(message.prefix.to_vec()).map_err(|_| "a message's prefix is not UTF-8")?,
                content: message.content.clone(),
            });
        }
        let schema = schema.ok_or("a row without a schema")?;
        let table = schema.table.clone();
        let row = |row: &Option<Row>| values(row.as_ref().ok_or("a row is missing")?, schema);
        let key = |row: &[Value]| -> Vec<Value> {
            let columns = schema.columns.iter().zip(row).filter(|(column, _)| column.in_identity);
            columns.map(|(_, value)| value.clone()).collect()
        };
        Ok(match event.operation() {
            Operation::Insert => {
                let row = row(&event.after)?;
                Change::Insert { table, key: key(&row), row }
            }
            Operation::Update => {
                if event.before.is_some() {
                    return Err("an update has an old row, though no key was changed".into());
                }
                let row = row(&event.after)?;
                Change::Update { table, key: key(&row), row }
            }
            Operation::Delete => Change::Delete { table, key: key(&row(&event.before)?) },
            Operation::Truncate => Change::Truncate { table },
            other => return Err(format!("operation {other:?}")),
        })
    }

    /// Whether this text is in any value.
    pub(crate) fn says(&self, text: &str) -> bool {
        match self {
            Change::Insert { row, .. } | Change::Update { row, .. } => {
                row.iter().any(|value| value.bytes() == text.as_bytes())
            }
            Change::Message { content, .. } => content == text.as_bytes(),
            Change::Delete { .. } | Change::Truncate { .. } => false,
        }
    }

    /// Adds the change to a transaction's digest, in the form the writer used. A counter's new value is not known to
    /// who raises it, so only its key counts.
    pub(crate) fn digest(&self, digest: &mut Digest) {
        match self {
            Change::Insert { table, row, .. } => digest.add('I', table, row.iter().map(Value::bytes)),
            Change::Update { table, key, .. } if table == "account" => {
                digest.add('U', table, key.iter().map(Value::bytes));
            }
            Change::Update { table, row, .. } => digest.add('U', table, row.iter().map(Value::bytes)),
            Change::Delete { table, key } => digest.add('D', table, key.iter().map(Value::bytes)),
            Change::Truncate { table } => digest.add('T', table, []),
            Change::Message { prefix, content, .. } => digest.add('M', prefix, [content.as_ref()]),
        }
    }
}

fn values(row: &Row, schema: &Schema) -> Result<Vec<Value>, String> {
    if row.cells.len() != schema.columns.len() {
        return Err(format!("{} cells for {} columns of {}", row.cells.len(), schema.columns.len(), schema.table));
    }
    row.cells.iter().map(value).collect()
}

fn value(cell: &Cell) -> Result<Value, String> {
    match &cell.value {
        None => Ok(Value::Null),
        Some(cell::Value::Text(text)) => Ok(Value::Text(text.clone())),
        Some(cell::Value::Unchanged(true)) => Ok(Value::Unchanged),
        Some(other) => Err(format!("a cell that nobody asked for: {other:?}")),
    }
}
