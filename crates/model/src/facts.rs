//! What a table's rows do not say of it: keys, defaults, comments, labels of enums.
//!
//! A source's catalog says so when it is asked, and its DDL trigger when something changes. Both write the same JSON
//! document, which is what is kept and what these types read.

use serde::{Deserialize, Serialize};

use crate::{Lsn, TableSchema};

/// Where facts come from: what they are worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FactsOrigin {
    /// The catalog was asked, at some time after the change that it explains.
    Catalog = 1,
    /// The change itself said so, in its own transaction.
    Ddl = 2,
}

impl FactsOrigin {
    /// The origin with this number on disk.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Catalog),
            2 => Some(Self::Ddl),
            _ => None,
        }
    }
}

/// Facts, where they come from, and when they were true.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordedFacts {
    /// Where they come from.
    pub origin: FactsOrigin,
    /// From the catalog: the end of the source's WAL when it was asked. From a change: its commit.
    pub as_of: Lsn,
    /// What they say.
    pub table: TableFacts,
}

/// A table as its catalog describes it. Fields that are not known are as if empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableFacts {
    /// Its OID on the source.
    pub oid: u32,
    /// Namespace.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, and so on.
    pub kind: String,
    /// `pg_class.relpersistence`: `p` permanent, `u` unlogged, `t` temporary.
    pub persistence: String,
    /// `pg_class.relreplident`.
    pub replica_identity: String,
    /// Owning role.
    pub owner: String,
    /// COMMENT ON TABLE.
    pub comment: Option<String>,
    /// Columns of the primary key, in its order.
    pub primary_key: Vec<String>,
    /// For a partition: its parent, quoted as in SQL.
    pub partition_of: Option<String>,
    /// For a partition: its bounds, in SQL.
    pub partition_bound: Option<String>,
    /// For a partitioned table: its key, in SQL.
    pub partition_key: Option<String>,
    /// Its columns in the order of their numbers.
    pub columns: Vec<ColumnFacts>,
    /// Enums, composites and domains that its columns use, directly or through others.
    pub types: Vec<TypeFacts>,
}

/// A column as the catalog describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnFacts {
    /// `pg_attribute.attnum`, which renaming does not change.
    pub number: i16,
    /// Name.
    pub name: String,
    /// Type, as SQL writes it.
    #[serde(rename = "type")]
    pub type_sql: String,
    /// The type's OID.
    pub type_oid: u32,
    /// The type's modifier, -1 for none.
    pub type_modifier: i32,
    /// NOT NULL.
    pub not_null: bool,
    /// Default or generation expression, in SQL.
    pub default: Option<String>,
    /// `pg_attribute.attgenerated`: `s` stored, `v` virtual, else empty.
    pub generated: String,
    /// `pg_attribute.attidentity`: `a` always, `d` by default, else empty.
    pub identity: String,
    /// Collation, quoted as in SQL, where it is not the type's own.
    pub collation: Option<String>,
    /// COMMENT ON COLUMN.
    pub comment: Option<String>,
    /// What rows from before the column have in it (`pg_attribute.attmissingval`: an array of one element, in text form).
    pub missing: Option<String>,
}

/// An enum, composite or domain as the catalog describes it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TypeFacts {
    /// OID on the source.
    pub oid: u32,
    /// Namespace.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `pg_type.typtype`: `e`, `c` or `d`.
    pub kind: String,
    /// An enum's labels, in order.
    pub labels: Vec<String>,
    /// A composite's attributes.
    pub attributes: Vec<AttributeFacts>,
    /// A domain's base type, as SQL writes it.
    pub base: Option<String>,
    /// A domain's NOT NULL.
    pub not_null: bool,
    /// A domain's default, in SQL.
    pub default: Option<String>,
    /// A domain's constraints, in SQL.
    pub checks: Vec<String>,
}

/// An attribute of a composite.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttributeFacts {
    /// Name.
    pub name: String,
    /// Type, as SQL writes it.
    #[serde(rename = "type")]
    pub type_sql: String,
}

impl TableFacts {
    /// As the JSON document that sources write and the log keeps.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether these are facts of a table as it is announced. They may have more columns: not all are published.
    pub fn describes(&self, announced: &TableSchema) -> bool {
        self.schema == announced.namespace
            && self.name == announced.table
            && announced.columns.iter().all(|column| {
                self.columns.iter().any(|fact| {
                    fact.name == column.name
                        && fact.type_oid == column.type_oid
                        && fact.type_modifier == column.type_modifier
                })
            })
    }

    /// Reads such a document. Fields that this version does not know are passed over.
    ///
    /// # Errors
    /// When it is not JSON, or a field is of another type.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

impl ColumnFacts {
    /// What rows from before the column have in it, in text form; none when they have null, or were all written anew.
    pub fn added_value(&self) -> Option<String> {
        let inner = self.missing.as_deref()?.strip_prefix('{')?.strip_suffix('}')?;
        let Some(quoted) = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return (inner != "NULL").then(|| inner.to_owned());
        };
        let mut value = String::with_capacity(quoted.len());
        let mut characters = quoted.chars();
        while let Some(character) = characters.next() {
            value.extend(if character == '\\' { characters.next() } else { Some(character) });
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_an_added_column_is_read_out_of_its_array() {
        let added = |missing: &str| ColumnFacts { missing: Some(missing.into()), ..Default::default() }.added_value();
        assert_eq!(added("{5}").as_deref(), Some("5"));
        assert_eq!(added(r#"{"a \"b\" \\ {c}"}"#).as_deref(), Some(r#"a "b" \ {c}"#));
        assert_eq!(added(r#"{""}"#).as_deref(), Some(""));
        assert_eq!(added(r#"{"NULL"}"#).as_deref(), Some("NULL"));
        assert_eq!(added("{NULL}"), None);
        assert_eq!(ColumnFacts::default().added_value(), None);
    }
}
