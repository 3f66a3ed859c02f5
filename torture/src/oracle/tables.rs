//! Tables as rows under their keys: what replaying the stream gives, and what the server has.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::Violations;
use super::cells::{Change, Value};
use crate::error::{TortureError, sql};
use crate::workload::TABLES;

type Key = Vec<Bytes>;
type Rows = BTreeMap<Key, Vec<Option<Bytes>>>;

/// All tables of the workload.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tables(BTreeMap<String, Rows>);

/// What the server has.
#[derive(Clone, Default, Debug)]
pub(crate) struct Truth {
    pub(crate) tables: Tables,
}

/// Reads every table by plain SQL.
pub(crate) async fn read_truth(client: &Client) -> Result<Truth, TortureError> {
    let mut tables = Tables::default();
    for table in &TABLES {
        let question = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
        let answer = client.simple_query(&question).await.map_err(sql("read a table"))?;
        let rows = tables.0.entry(table.name.to_owned()).or_default();
        for message in answer {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let values: Vec<Option<Bytes>> =
                (0..row.len()).map(|at| row.get(at).map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect();
            let key = values.iter().take(table.key_columns).map(|value| value.clone().unwrap_or_default()).collect();
            rows.insert(key, values);
        }
    }
    Ok(Truth { tables })
}

impl Tables {
    /// Rows of a table.
    pub(crate) fn rows(&self, table: &str) -> impl Iterator<Item = (&Key, &Vec<Option<Bytes>>)> {
        self.0.get(table).into_iter().flatten()
    }

    #[cfg(test)]
    pub(crate) fn put(&mut self, table: &str, key_columns: usize, row: &[&str]) {
        let row: Vec<Bytes> = row.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect();
        let values = row.iter().cloned().map(Some).collect();
        self.0.entry(table.to_owned()).or_default().insert(row[..key_columns].to_vec(), values);
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, table: &str, key: &[&str]) {
        let key: Key = key.iter().map(|value| Bytes::copy_from_slice(value.as_bytes())).collect();
        self.0.entry(table.to_owned()).or_default().remove(&key).expect("there is such a row");
    }

    /// Applies one change, and says what cannot be.
    pub(super) fn apply(&mut self, change: &Change, violations: &mut Violations) {
        match change {
            Change::Insert { table, key, row } => {
                let rows = self.0.entry(table.clone()).or_default();
                let values = row.iter().map(|value| stored(value, None)).collect();
                if rows.insert(bytes(key), values).is_some() {
                    violations.add("insert-of-new-row", format!("{table} {key:?} is inserted a second time"));
                }
            }
            Change::Update { table, key, row } => {
                let Some(old) = self.0.entry(table.clone()).or_default().get_mut(&bytes(key)) else {
                    return violations
                        .add("update-of-known-row", format!("{table} {key:?} is updated, and is not there"));
                };
                if table == "account" {
                    check_counter(old, row, violations);
                }
                *old = row.iter().zip(old.iter()).map(|(new, old)| stored(new, old.as_ref())).collect();
            }
            Change::Delete { table, key } => {
                if self.0.entry(table.clone()).or_default().remove(&bytes(key)).is_none() {
                    violations.add("delete-of-known-row", format!("{table} {key:?} is deleted, and is not there"));
                }
            }
            Change::Truncate { table } => self.0.entry(table.clone()).or_default().clear(),
            Change::Message { .. } => {}
        }
    }

    /// Compares what the stream made of the tables with what the server has.
    pub(super) fn compare(&self, truth: &Tables, violations: &mut Violations) {
        let nothing = Rows::new();
        for (name, expected) in &truth.0 {
            let found = self.0.get(name).unwrap_or(&nothing);
            for (key, row) in expected {
                match found.get(key) {
                    None => {
                        violations.add("final-tables", format!("{name} {key:?} is in the database, not in the stream"))
                    }
                    Some(replayed) if replayed != row => violations.add(
                        "final-tables",
                        format!("{name} {key:?} is {} in the database, {} in the stream", shown(row), shown(replayed)),
                    ),
                    Some(_) => {}
                }
            }
            for key in found.keys().filter(|key| !expected.contains_key(*key)) {
                violations.add("final-tables", format!("{name} {key:?} is in the stream, not in the database"));
            }
        }
    }
}

fn check_counter(old: &[Option<Bytes>], row: &[Value], violations: &mut Violations) {
    let before = old.get(1).and_then(Option::as_ref).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let after = row.get(1).and_then(Value::number);
    let rises = before.zip(after).is_some_and(|(before, after): (i64, i64)| after == before + 1);
    if !rises {
        violations.add("counter-by-one", format!("account {:?} goes from {before:?} to {after:?}", row.first()));
    }
}

fn bytes(key: &[Value]) -> Key {
    key.iter().map(|value| Bytes::copy_from_slice(value.bytes())).collect()
}

fn stored(new: &Value, old: Option<&Bytes>) -> Option<Bytes> {
    match new {
        Value::Null => None,
        Value::Text(text) => Some(text.clone()),
        Value::Unchanged => old.cloned(),
    }
}

/// A row, short enough for one line.
fn shown(row: &[Option<Bytes>]) -> String {
    const VALUE_BYTES_MAX: usize = 24;
    let values: Vec<String> = row
        .iter()
        .map(|value| match value {
            None => "NULL".to_owned(),
            Some(text) => String::from_utf8_lossy(text.get(..VALUE_BYTES_MAX).unwrap_or(text)).into_owned(),
        })
        .collect();
    format!("({})", values.join(", "))
}
