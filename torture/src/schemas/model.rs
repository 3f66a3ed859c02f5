//! Replays the stream into tables, as a consumer would: what they are, and what is in them, from events alone.
//!
//! What a schema change truly did stands behind it in the stream, as a message of the harness (`Deed`); it is compared, and
//! nothing of the tables' contents is taken from it.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::oracle::Violations;
use crate::schemas::catalog::{Deed, Table};
use crate::schemas::held::{Held, Values};
use dbstreamd_client::{
    DivergenceReason, Event, Operation, ReplicaIdentity, Row, Schema, SchemaChange, TableFacts, cell,
};

/// Prefix of the message behind a schema change.
pub(crate) const DEED: &str = "deed";
/// Prefix of the message at which the tables are compared.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Every version of a table's name that has rows: what it must consist of.
type Content = (i32, Vec<(String, u32, i32, bool)>);

/// The tables that the stream makes.
pub(crate) struct Model {
    by_root: bool,
    pub(crate) tables: BTreeMap<u32, Held>,
    pub(crate) violations: Violations,
    /// The newest checkpoint that came.
    pub(crate) checkpoint: Option<u64>,
    pub(crate) counts: Counts,
    schemas: HashMap<Bytes, Schema>,
    /// Each name's fingerprints, in the order of their first use.
    versions: BTreeMap<(String, String), Vec<Bytes>>,
    /// What they must be, by the deeds.
    contents: BTreeMap<(String, String), HashSet<Content>>,
    deeds: HashMap<u32, Table>,
    /// Tables that were said to have diverged since the last deed.
    said: Vec<(u32, DivergenceReason)>,
    /// Rows of this transaction for a table that is not known yet: CREATE TABLE AS writes them first.
    early: Vec<((String, String), Values)>,
    /// Names of tables that had such rows, until a deed tells what the rows must have looked like.
    early_names: HashSet<(String, String)>,
    /// A schema change came, and its deed did not yet.
    undone: bool,
    offset: u64,
}

/// What was in the stream.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) rows: u64,
    pub(crate) schema_changes: u64,
    pub(crate) divergences: u64,
    pub(crate) versions: u64,
}

impl Model {
    /// `by_root`: partitions' rows come under the partitioned table's name.
    pub(crate) fn new(by_root: bool) -> Self {
        Self {
            by_root,
            tables: BTreeMap::new(),
            violations: Violations::default(),
            checkpoint: None,
            counts: Counts::default(),
            schemas: HashMap::new(),
            versions: BTreeMap::new(),
            contents: BTreeMap::new(),
            deeds: HashMap::new(),
            said: Vec::new(),
            early: Vec::new(),
            early_names: HashSet::new(),
            undone: false,
            offset: 0,
        }
    }

    /// Takes a schema, which comes before the first row that uses it.
    pub(crate) fn schema(&mut self, schema: Schema) {
        self.schemas.insert(schema.fingerprint.clone(), schema);
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: &Event) {
        if event.offset != self.offset + 1 {
            self.violations.add("dense-offsets", format!("offset {} follows {}", event.offset, self.offset));
        }
        self.offset = event.offset;
        self.counts.events += 1;
        let taken = match event.operation() {
            Operation::Insert | Operation::Update | Operation::Delete | Operation::Truncate => self.row(event),
            Operation::SchemaChange => self.schema_change(event),
            Operation::Message => self.message(event),
            Operation::Unspecified => Err(("readable", "an operation that is none".to_owned())),
        };
        if let Err((rule, detail)) = taken {
            self.violations.add(rule, format!("offset {}: {detail}", event.offset));
        }
        if event.last_in_transaction {
            if let Some(((schema, table), _)) = self.early.first() {
                let detail =
                    format!("offset {}: rows of {schema}.{table}, which no schema change told of", event.offset);
                self.violations.add("table-known", detail);
            }
            self.early.clear();
            self.early_names.clear();
            self.undone = false;
            if !self.said.is_empty() {
                let detail = format!("offset {}: {:?}, and nothing of that kind was done", event.offset, self.said);
                self.violations.add("diverged-is-true", detail);
            }
            self.said.clear();
        }
    }

    fn find(&self, schema: &str, table: &str) -> Option<u32> {
        self.tables.iter().find(|(_, held)| held.schema == schema && held.name == table).map(|(oid, _)| *oid)
    }

    fn row(&mut self, event: &Event) -> Result<(), Wrong> {
        self.counts.rows += 1;
        let fingerprint = &event.fingerprint;
        let schema = self.schemas.get(fingerprint).ok_or(("schema-first", "no schema came before it".to_owned()))?;
        let name = (schema.schema.clone(), schema.table.clone());
        let versions = self.versions.entry(name.clone()).or_default();
        if !versions.contains(fingerprint) {
            versions.push(fingerprint.clone());
            self.counts.versions += 1;
            if schema.version as usize != versions.len() {
                let detail = format!(
                    "offset {}: {}.{} has version {}, and is number {} in use",
                    event.offset,
                    name.0,
                    name.1,
                    schema.version,
                    versions.len()
                );
                self.violations.add("versions-dense", detail);
            }
        }
        let after = event.after.as_ref().map(|row| cells(row, schema)).transpose()?;
        let before = event.before.as_ref().map(|row| cells(row, schema)).transpose()?;
        let Some(oid) = self.tables.iter().find(|(_, held)| held.schema == name.0 && held.name == name.1) else {
            let row = after.ok_or(("table-known", format!("{}.{} is no known table", name.0, name.1)))?;
            self.early_names.insert(name.clone());
            self.early.push((name, row.into_iter().map(|cell| cell.ok().flatten()).collect()));
            return Ok(());
        };
        let oid = *oid.0;
        let announced = announced(schema);
        let expected = self.deeds.get(&oid).map(content);
        if self.undone {
            // What it must be stands behind it.
            self.early_names.insert(name.clone());
        }
        if let Some(expected) = expected
            && (!self.undone || announced == expected)
        {
            self.contents.entry(name).or_default().insert(expected.clone());
            if announced != expected {
                return Err(("schema-is-structure", format!("announced {announced:?}, it is {expected:?}")));
            }
        }
        let Some(held) = self.tables.get_mut(&oid) else { return Ok(()) };
        let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
        if !held.column_names().eq(names.iter().copied()) {
            let known: Vec<&str> = held.column_names().collect();
            return Err(("schema-is-structure", format!("the row has {names:?}, schema changes made {known:?}")));
        }
        if !held.published(self.by_root) {
            return Err(("table-known", format!("a row of {}, which is not published", held.name)));
        }
        let identity: Vec<bool> = schema.columns.iter().map(|column| column.in_identity).collect();
        held.apply(event.operation(), before, event.before_is_full, after, &identity)
    }

    fn message(&mut self, event: &Event) -> Result<(), Wrong> {
        let message = event.message.as_ref().ok_or(("readable", "a message without content".to_owned()))?;
        if message.prefix == CHECKPOINT {
            self.checkpoint = std::str::from_utf8(&message.content).ok().and_then(|text| text.parse().ok());
        } else if message.prefix == DEED {
            let deed: Deed = serde_json::from_slice(&message.content)
                .map_err(|error| ("readable", format!("a deed that is none: {error}")))?;
            self.deed(&deed)?;
        }
        Ok(())
    }

    fn schema_change(&mut self, event: &Event) -> Result<(), Wrong> {
        self.counts.schema_changes += 1;
        self.undone = true;
        let change = event.schema_change.as_ref().ok_or(("readable", "a schema change without content".to_owned()))?;
        // The tables that have a type are not locked when the type is changed, nor partitions when their root gets a comment:
        // another transaction may have changed them meanwhile, and stand before this one; or it has them locked, and they
        // are not described.
        let types_only = matches!(change.command_tag.as_str(), "ALTER TYPE" | "ALTER DOMAIN" | "COMMENT");
        let locked_away = types_only && change.error.contains("could not be recorded: canceling");
        if !change.error.is_empty() && !locked_away {
            return Err(("recorded-whole", format!("{}: {}", change.statement, change.error)));
        }
        for gone in change.dropped.iter().filter(|object| object.r#type == "table") {
            self.tables.remove(&gone.oid);
        }
        for facts in &change.tables {
            match self.tables.get_mut(&facts.oid) {
                Some(held) if types_only => held.convert_types(&facts.types),
                None if types_only => {}
                _ => self.facts(facts),
            }
        }
        self.diverged(change)
    }

    fn facts(&mut self, facts: &TableFacts) {
        let by_root = self.by_root;
        let known = self.tables.contains_key(&facts.oid);
        let held = self.tables.entry(facts.oid).or_default();
        held.become_like(facts, by_root);
        if !known {
            let name = (held.schema.clone(), held.name.clone());
            for (_, row) in self.early.extract_if(.., |(table, _)| *table == name) {
                held.rows.push(row);
            }
        }
    }

    fn diverged(&mut self, change: &SchemaChange) -> Result<(), Wrong> {
        for divergence in &change.diverged {
            self.counts.divergences += 1;
            let (schema, table) = (&divergence.schema, &divergence.table);
            let unknown = || ("diverged-is-true", format!("{schema}.{table} diverged, and is no known table"));
            let oid = self.find(schema, table).ok_or_else(unknown)?;
            self.said.push((oid, divergence.reason()));
            if let Some(held) = self.tables.get_mut(&oid) {
                held.unknown = true;
            }
        }
        Ok(())
    }

    /// Compares what the events said since the last deed with what was done.
    fn deed(&mut self, deed: &Deed) -> Result<(), Wrong> {
        let said = std::mem::take(&mut self.said);
        self.undone = false;
        let mut wrong = Vec::new();
        for table in &deed.changed {
            self.deeds.insert(table.oid, table.clone());
            let name = (table.schema.clone(), table.name.clone());
            if self.early_names.remove(&name) {
                self.contents.entry(name).or_default().insert(content(table));
            }
            match self.tables.get(&table.oid) {
                Some(held) => wrong.extend(held.differs(table)),
                None => wrong.push(format!("{}.{} was not told of", table.schema, table.name)),
            }
        }
        self.early_names.clear();
        for oid in &deed.dropped {
            self.deeds.remove(oid);
            if let Some(held) = self.tables.get(oid) {
                wrong.push(format!("that {}.{} was dropped was not told of", held.schema, held.name));
            }
        }
        if !wrong.is_empty() {
            return Err(("structure-is-told", wrong.join("; ")));
        }
        let parent = |oid: u32| self.deeds.get(&oid).and_then(|table| table.parent);
        let with_parents: HashSet<u32> =
            deed.rewritten.iter().flat_map(|oid| std::iter::once(*oid).chain(parent(*oid))).collect();
        for (oid, reason) in &said {
            let is_true = match reason {
                DivergenceReason::Rewritten => with_parents.contains(oid),
                DivergenceReason::PartitionMoved => self.by_root && deed.regrouped.contains(oid),
                _ => false,
            };
            if !is_true {
                return Err(("diverged-is-true", format!("{reason:?} was said of {oid}, done was {deed:?}")));
            }
        }
        let said_of = |oid: u32| said.iter().any(|(of, _)| *of == oid);
        let unsaid = deed.rewritten.iter().any(|oid| !said_of(*oid) && !parent(*oid).is_some_and(said_of))
            || (self.by_root && deed.regrouped.iter().any(|oid| self.tables.contains_key(oid) && !said_of(*oid)));
        if unsaid {
            return Err(("diverged-is-said", format!("said was {said:?}, done was {deed:?}")));
        }
        Ok(())
    }

    /// Each name has as many schema versions as it had structures with rows, and each of them is known under its
    /// fingerprint with its number.
    pub(crate) fn check_versions(&mut self) {
        for (name, fingerprints) in &self.versions {
            let structures = self.contents.get(name).map_or(0, HashSet::len);
            if fingerprints.len() != structures {
                let detail =
                    format!("{}.{}: {} versions for {structures} structures", name.0, name.1, fingerprints.len());
                self.violations.add("versions-true", detail);
            }
        }
    }
}

/// A rule that does not hold, and how.
pub(crate) type Wrong = (&'static str, String);

/// A value, or `Err` for one that the update left as it was and the source did not send.
pub(crate) type Sent = Result<Option<String>, Unsent>;

/// Not sent, not null.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unsent;

fn cells(row: &Row, schema: &Schema) -> Result<Vec<Sent>, Wrong> {
    if row.cells.len() != schema.columns.len() {
        let detail = format!("{} cells for {} columns of {}", row.cells.len(), schema.columns.len(), schema.table);
        return Err(("readable", detail));
    }
    let read = |cell: &dbstreamd_client::Cell| match &cell.value {
        None => Ok(Ok(None)),
        Some(cell::Value::Text(text)) => String::from_utf8(text.to_vec())
            .map(|text| Ok(Some(text)))
            .map_err(|error| ("readable", format!("not UTF-8: {error}"))),
        Some(cell::Value::Unchanged(_)) => Ok(Err(Unsent)),
        Some(cell::Value::Binary(_)) => Err(("readable", "binary, which nobody asked for".to_owned())),
    };
    row.cells.iter().map(read).collect()
}

fn announced(schema: &Schema) -> Content {
    let columns = schema.columns.iter();
    let column = |column: &dbstreamd_client::Column| {
        (column.name.clone(), column.type_oid, column.type_modifier, column.in_identity)
    };
    (schema.replica_identity, columns.map(column).collect())
}

fn content(table: &Table) -> Content {
    let identity = match table.identity.as_str() {
        "n" => ReplicaIdentity::Nothing,
        "f" => ReplicaIdentity::Full,
        "i" => ReplicaIdentity::Index,
        _ => ReplicaIdentity::Default,
    };
    let columns = table.published_columns();
    let columns = columns
        .map(|column| (column.name.clone(), column.type_oid, column.type_modifier, column.in_identity))
        .collect();
    (identity.into(), columns)
}
