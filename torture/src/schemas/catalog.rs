//! What the database says of its tables, as one session sees them: what steps are chosen from, and what is true after one.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::{TortureError, sql};

/// The schemas in which everything is made.
pub(crate) const SCHEMAS: [&str; 2] = ["s1", "s2"];

/// Tables of these schemas, the labels of the enum and the number of attributes of the composite.
///
/// A table that another session has locked exclusively is not opened: its size would be waited for.
const LOOK: &str = "
WITH held AS (
  SELECT l.relation, bool_or(l.mode = 'AccessExclusiveLock') AS exclusively FROM pg_locks l
  WHERE l.pid <> pg_backend_pid() AND l.locktype = 'relation' AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  GROUP BY l.relation
)
SELECT json_build_object(
  'tables', (
    SELECT coalesce(json_agg(json_build_object(
      'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'identity', c.relreplident,
      'parent', (SELECT h.inhparent::int8 FROM pg_inherits h WHERE h.inhrelid = c.oid),
      'filenode', c.relfilenode::int8,
      'size', CASE WHEN coalesce(x.exclusively, false) OR c.relkind = 'p' THEN 0 ELSE pg_relation_size(c.oid) END,
      'locked', x.relation IS NOT NULL, 'barred', coalesce(x.exclusively, false),
      'primary_key', (
        SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]') FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number WHERE i.indrelid = c.oid AND i.indisprimary),
      'columns', (
        SELECT coalesce(json_agg(json_build_object(
          'number', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
          'type_oid', a.atttypid::int8, 'type_modifier', a.atttypmod, 'not_null', a.attnotnull,
          'generated', a.attgenerated <> '', 'always', a.attidentity = 'a',
          'in_identity', CASE c.relreplident WHEN 'f' THEN true
            WHEN 'd' THEN EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey))
            WHEN 'i' THEN EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident AND a.attnum = ANY (i.indkey))
            ELSE false END) ORDER BY a.attnum), '[]')
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    ) ORDER BY n.nspname, c.relname), '[]')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN held x ON x.relation = c.oid
    WHERE n.nspname IN ('s1', 's2') AND c.relkind IN ('r', 'p')),
  'labels', (
    SELECT coalesce(json_agg(e.enumlabel ORDER BY e.enumsortorder), '[]')
    FROM pg_enum e WHERE e.enumtypid = to_regtype('s1.mood')),
  'attributes', (
    SELECT count(*) FROM pg_attribute a WHERE a.attrelid = to_regclass('s1.pair') AND a.attnum > 0 AND NOT a.attisdropped)
)::text";

/// What a session sees.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Look {
    pub(crate) tables: Vec<Table>,
    /// Of the enum `s1.mood`.
    pub(crate) labels: Vec<String>,
    /// Of the composite `s1.pair`.
    pub(crate) attributes: u32,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `pg_class.relkind`.
    pub(crate) kind: String,
    /// `pg_class.relreplident`.
    pub(crate) identity: String,
    /// The partitioned table it belongs to.
    pub(crate) parent: Option<u32>,
    pub(crate) filenode: u32,
    /// Bytes on disk.
    pub(crate) size: u64,
    /// Another session holds a lock on it.
    pub(crate) locked: bool,
    /// Another session holds a lock on it that keeps everybody out.
    pub(crate) barred: bool,
    pub(crate) primary_key: Vec<String>,
    pub(crate) columns: Vec<Column>,
}

/// A column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, Serialize)]
pub(crate) struct Column {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// As SQL writes it.
    #[serde(rename = "type")]
    pub(crate) type_sql: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
    pub(crate) not_null: bool,
    pub(crate) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub(crate) always: bool,
    pub(crate) in_identity: bool,
}

impl Look {
    pub(crate) async fn take(client: &Client) -> Result<Self, TortureError> {
        let text = value(client, LOOK).await.map_err(sql("look at the tables"))?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| TortureError::Failed(format!("what the tables are: {error}")))
    }

    pub(crate) fn table(&self, oid: u32) -> Option<&Table> {
        self.tables.iter().find(|table| table.oid == oid)
    }

    /// The partitions of a table.
    pub(crate) fn partitions(&self, of: u32) -> impl Iterator<Item = &Table> {
        self.tables.iter().filter(move |table| table.parent == Some(of))
    }
}

impl Table {
    pub(crate) fn partitioned(&self) -> bool {
        self.kind == "p"
    }

    /// Whether its rows are in the stream under its own name.
    pub(crate) fn published(&self, by_root: bool) -> bool {
        if by_root { self.parent.is_none() } else { !self.partitioned() }
    }

    /// In SQL.
    pub(crate) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, quoted(&self.name))
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.columns.iter().any(|column| column.in_identity)
    }

    /// The columns that rows in the stream have.
    pub(crate) fn published_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// Whether it is the same for whoever reads its schema changes.
    fn same_structure(&self, other: &Self) -> bool {
        (&self.schema, &self.name, &self.identity, self.parent, &self.primary_key, &self.columns)
            == (&other.schema, &other.name, &other.identity, other.parent, &other.primary_key, &other.columns)
    }
}

/// What a schema change truly did: written behind it into the stream, in its transaction.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Deed {
    /// The tables that are others now, as they are now.
    pub(crate) changed: Vec<Table>,
    /// The tables that are gone.
    pub(crate) dropped: Vec<u32>,
    /// The tables that took room on disk and have new files.
    pub(crate) rewritten: Vec<u32>,
    /// The tables that got or lost a partition that took room on disk.
    pub(crate) regrouped: Vec<u32>,
}

impl Deed {
    /// The difference between two looks of one session. TRUNCATE makes new files, and rewrites nothing.
    pub(crate) fn between(before: &Look, after: &Look, truncated: bool) -> Self {
        let mut deed = Self::default();
        for table in &after.tables {
            let old = before.table(table.oid);
            if old.is_none_or(|old| !old.same_structure(table)) {
                deed.changed.push(table.clone());
            }
            if let Some(old) = old {
                if old.filenode != table.filenode && old.size > 0 && !truncated {
                    deed.rewritten.push(table.oid);
                }
                if old.parent != table.parent && old.size > 0 {
                    deed.regrouped.extend(old.parent.into_iter().chain(table.parent));
                }
            }
        }
        for old in before.tables.iter().filter(|old| after.table(old.oid).is_none()) {
            deed.dropped.push(old.oid);
            // How much was in a partition that is dropped is not looked at by who records it.
            deed.regrouped.extend(old.parent);
        }
        deed
    }
}

/// A name as SQL writes it, always in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The first value of an answer.
pub(crate) async fn value(client: &Client, question: &str) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query(question).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
