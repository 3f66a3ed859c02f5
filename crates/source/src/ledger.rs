//! What a session knows of tables by name: to notice when a name, or the rows behind it, are no longer what they were.
//!
//! ```text
//!   what the log knows ─▶ names ─┬─ a table is announced:   another relation has the name? another type a column?
//!                                └─ a schema change is told: what was renamed, dropped, rewritten; its facts are kept
//! ```
//!
//! What comes out of it is stored with the unit in which it was noticed (`Appender::table`). So units that are sent again
//! change nothing here but the facts: what they said is in the log already.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use dbstreamd_log::{DivergenceReason, TableBinding, TableChange, TableName};
use dbstreamd_model::{
    Column, DdlDocument, DdlObject, FactsOrigin, Lsn, RecordedFacts, SchemaId, TableFacts, TableSchema,
};

/// Tables whose facts are kept; a new schema version of others is looked up in the catalog instead.
const FACTS_KEPT_MAX: usize = 4096;

/// A table that a consumer's copy no longer agrees with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Diverged {
    pub(crate) table: TableName,
    pub(crate) reason: DivergenceReason,
    pub(crate) detail: String,
}

/// What follows from something that was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Conclusions {
    /// To be stored, in this order.
    pub(crate) changes: Vec<(TableName, TableChange)>,
    /// To be stored, and told.
    pub(crate) diverged: Vec<Diverged>,
    /// Names under which a table was known, and is now: what was wrong with it still is.
    pub(crate) renamed: Vec<(TableName, TableName)>,
}

/// One session's knowledge.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Which relation last had the name, until it is dropped.
    names: HashMap<TableName, TableBinding>,
    facts: HashMap<u32, Arc<RecordedFacts>>,
    /// Relations with facts, oldest first.
    order: VecDeque<u32>,
}

impl Ledger {
    pub(crate) fn new(known: Vec<(TableName, TableBinding)>) -> Self {
        Self { names: known.into_iter().collect(), ..Self::default() }
    }

    /// Keeps the facts of a document.
    pub(crate) fn remember(&mut self, document: &DdlDocument, as_of: Lsn) {
        for table in document.tables.iter().filter(|table| table.oid != 0) {
            let facts = RecordedFacts { origin: FactsOrigin::Ddl, as_of, table: table.clone() };
            if self.facts.insert(table.oid, Arc::new(facts)).is_none() {
                self.order.push_back(table.oid);
            }
        }
        while self.order.len() > FACTS_KEPT_MAX {
            let oldest = self.order.pop_front();
            oldest.and_then(|oldest| self.facts.remove(&oldest));
        }
    }

    /// What a document said of a table, if it is still what is announced.
    pub(crate) fn facts(&self, relation: u32, announced: &TableSchema) -> Option<Arc<RecordedFacts>> {
        let facts = self.facts.get(&relation)?;
        facts.table.describes(announced).then(|| Arc::clone(facts))
    }

    /// A table is announced in a unit that is new. `before` finds the schema version with a number.
    pub(crate) fn announced<'a>(
        &mut self,
        relation: u32,
        schema: &TableSchema,
        id: SchemaId,
        before: impl FnOnce(SchemaId) -> Option<&'a TableSchema>,
    ) -> Conclusions {
        let table = TableName::new(&schema.namespace, &schema.table);
        let now = TableBinding { relation, schema: id };
        let mut conclusions = Conclusions::default();
        match self.names.get(&table) {
            Some(known) if *known == now => return conclusions,
            Some(known) if known.relation != relation => {
                conclusions.diverged.push(name_reused(&table));
            }
            // Zero: a document told of the change, and of what it did to the rows.
            Some(known) if known.schema != SchemaId(0) => {
                let changed = before(known.schema).map(|before| retyped(before, schema)).unwrap_or_default();
                if !changed.is_empty() {
                    let detail = format!(
                        "the type of {} is another, and nothing tells what became of the values",
                        changed.join(", ")
                    );
                    let (reason, table) = (DivergenceReason::TypeChanged, table.clone());
                    conclusions.diverged.push(Diverged { table, reason, detail });
                }
            }
            _ => {}
        }
        self.names.insert(table.clone(), now);
        conclusions.changes.push((table, TableChange::Bound(now)));
        conclusions
    }

    /// A document came in a unit that is new. `concerns` tells whether a divergence concerns this stream, by the
    /// publications that have the table.
    pub(crate) fn told(&mut self, document: &DdlDocument, concerns: impl Fn(&[String]) -> bool) -> Conclusions {
        let mut conclusions = Conclusions::default();
        for object in document.dropped.iter().filter(|object| is_table(object)) {
            let table = TableName::new(&object.schema, &object.name);
            if self.names.get(&table).is_none_or(|known| known.relation == object.oid) {
                self.names.remove(&table);
                conclusions.changes.push((table, TableChange::Gone));
            }
        }
        for facts in document.tables.iter().filter(|facts| facts.oid != 0) {
            self.told_of(facts, &mut conclusions);
        }
        for divergence in &document.diverged {
            if let Some(reason) = DivergenceReason::from_name(&divergence.reason)
                && concerns(&divergence.publications)
            {
                let table = TableName::new(&divergence.schema, &divergence.table);
                conclusions.diverged.push(Diverged { table, reason, detail: divergence.detail.clone() });
            }
        }
        conclusions
    }

    fn told_of(&mut self, facts: &TableFacts, conclusions: &mut Conclusions) {
        let table = TableName::new(&facts.schema, &facts.name);
        // Its next announcement is not to be compared: the document has told of the change.
        let now = TableBinding { relation: facts.oid, schema: SchemaId(0) };
        match self.names.get(&table) {
            Some(known) if known.relation != facts.oid => conclusions.diverged.push(name_reused(&table)),
            Some(_) => {}
            None => {
                let before = self.names.iter().filter(|(_, known)| known.relation == facts.oid);
                let renamed: Vec<_> = before.map(|(before, _)| (before.clone(), table.clone())).collect();
                if renamed.is_empty() {
                    // Neither name has ever been announced: it is not ours.
                    return;
                }
                conclusions.renamed.extend(renamed);
            }
        }
        if self.names.insert(table.clone(), now) != Some(now) {
            conclusions.changes.push((table, TableChange::Bound(now)));
        }
    }

    /// The name that a relation was last announced under.
    pub(crate) fn name_of(&self, relation: u32, schema: &TableSchema) -> Option<TableName> {
        let table = TableName::new(&schema.namespace, &schema.table);
        self.names.get(&table).is_some_and(|known| known.relation == relation).then_some(table)
    }
}

fn is_table(object: &DdlObject) -> bool {
    matches!(object.kind.as_str(), "table" | "foreign table")
}

fn name_reused(table: &TableName) -> Diverged {
    Diverged {
        table: table.clone(),
        reason: DivergenceReason::NameReused,
        detail: "another table has this name now; the rows of the one before have no events that remove them".into(),
    }
}

/// Columns of one name whose values may have been converted.
fn retyped(before: &TableSchema, now: &TableSchema) -> Vec<String> {
    let converted =
        |column: &&Column| before.columns.iter().any(|known| known.name == column.name && may_convert(known, column));
    now.columns.iter().filter(converted).map(|column| column.name.clone()).collect()
}

/// Whether a change of a column's type may change its values. Where PostgreSQL itself only notes a wider type, it does not.
fn may_convert(before: &Column, now: &Column) -> bool {
    let (old, new) = (before.type_modifier, now.type_modifier);
    let unbounded = new == -1;
    let wider = unbounded || (old != -1 && new >= old);
    match (before.type_name.as_str(), now.type_name.as_str()) {
        ("varchar", "text") => false,
        (one, other) if one != other => true,
        _ if old == new => false,
        ("varchar" | "varbit" | "time" | "timetz" | "timestamp" | "timestamptz", _) => !wider,
        // The upper half is the precision, the lower the scale.
        ("numeric", _) => !unbounded && (old == -1 || new < old || (new ^ old) & 0xffff != 0),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
