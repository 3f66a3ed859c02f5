//! Which events a reader wants: table patterns and operations.
//!
//! Patterns are those of the configuration (`TablePattern`): one way to name tables everywhere.

use std::collections::HashMap;

use dbstreamd_log::EventRef;
use dbstreamd_model::{DdlDocument, EventBody, Op, SchemaId, TableSchema};
use dbstreamd_source::postgres::setup::{TablePattern, TablePatternError};

/// More patterns than this are refused: they are tried one after the other.
pub(crate) const PATTERNS_MAX: usize = 256;

/// The filter makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error(transparent)]
    Pattern(#[from] TablePatternError),
    #[error("{0} table patterns are more than the {PATTERNS_MAX} allowed: use * to combine some")]
    TooMany(usize),
    #[error("operation number {0} is not known: use insert, update, delete, truncate, message or schema_change")]
    Operation(i32),
}

/// A reader's filter; remembers its verdict per schema version.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    tables: Vec<TablePattern>,
    operations: Vec<Op>,
    verdicts: HashMap<SchemaId, bool>,
}

impl Filter {
    /// Parses a filter.
    pub(crate) fn new<S: AsRef<str>>(tables: &[S], operations: Vec<Op>) -> Result<Self, FilterError> {
        if tables.len() > PATTERNS_MAX {
            return Err(FilterError::TooMany(tables.len()));
        }
        let tables = tables.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>()?;
        Ok(Self { tables, operations, verdicts: HashMap::new() })
    }

    /// Whether every event passes.
    pub(crate) fn takes_all(&self) -> bool {
        self.tables.is_empty() && self.operations.is_empty()
    }

    /// Whether this event passes. A logical message belongs to no table and passes only without table patterns; a schema
    /// change passes when one of its tables does.
    pub(crate) fn takes(&mut self, event: &EventRef<'_>) -> bool {
        if !self.operations.is_empty() && !self.operations.contains(&event.op) {
            return false;
        }
        if self.tables.is_empty() {
            return true;
        }
        if event.op == Op::SchemaChange {
            return self.takes_change(event.body);
        }
        let Some(stored) = event.schema else { return false };
        let tables = &self.tables;
        *self.verdicts.entry(stored.id).or_insert_with(|| matches(tables, &stored.schema))
    }

    /// Whether a table passes.
    pub(crate) fn takes_table(&self, schema: &TableSchema) -> bool {
        self.tables.is_empty() || matches(&self.tables, schema)
    }
}

impl Filter {
    /// Of what was changed or dropped, whatever is named like a table counts.
    fn takes_change(&self, body: &[u8]) -> bool {
        let Ok(EventBody::SchemaChange(message)) = EventBody::parse(Op::SchemaChange, body) else { return false };
        let Ok(document) = DdlDocument::from_json(message.content) else { return false };
        // What has no schema is no table.
        let takes = |schema: &str, table: &str| {
            !schema.is_empty() && self.tables.iter().any(|pattern| pattern.matches(schema, table))
        };
        document.tables.iter().any(|table| takes(&table.schema, &table.name))
            || document.diverged.iter().any(|table| takes(&table.schema, &table.table))
            || document.objects.iter().chain(&document.dropped).any(|object| takes(&object.schema, &object.name))
    }
}

fn matches(tables: &[TablePattern], schema: &TableSchema) -> bool {
    tables.iter().any(|pattern| pattern.matches(&schema.namespace, &schema.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused() {
        assert!(matches!(Filter::new(&["orders"], vec![]), Err(FilterError::Pattern(_))));
        assert!(matches!(Filter::new(&vec!["a.b"; 300], vec![]), Err(FilterError::TooMany(300))));
        assert!(Filter::new::<&str>(&[], vec![]).unwrap().takes_all());
        assert!(!Filter::new(&["shop.*"], vec![]).unwrap().takes_all());
    }
}
