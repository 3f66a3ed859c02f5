//! What an appender knows of tables: their schema versions, which relation has a name, and whose rows diverged.

use std::sync::Arc;

use dbstreamd_model::{RecordedFacts, SchemaId, TableSchema};

use super::Appender;
use crate::schemas::StoredSchema;
use crate::tables::{Divergence, TableBinding, TableChange, TableName};

impl Appender {
    /// The stream's schema version that a source means when it announces this, if there is one: the descriptions of
    /// its types are then known and still true, since the types have the same OIDs.
    pub fn announced(&self, schema: &TableSchema) -> Option<&StoredSchema> {
        self.schemas.announced(schema)
    }

    /// The stream's number for a schema version, known or new. A new one becomes durable, with its facts, together with
    /// the first chunk that uses it, or before.
    pub fn schema(&mut self, schema: &Arc<TableSchema>, facts: Option<Arc<RecordedFacts>>) -> SchemaId {
        let fingerprint = schema.fingerprint();
        // One of the same content that was announced otherwise (its types were made anew) is kept beside it, or it would be
        // looked up again in every session, and perhaps found to be something else.
        if let Some(known) = self.schemas.announced(schema).filter(|known| known.fingerprint == fingerprint) {
            return known.id;
        }
        let id = self.schemas.next_id();
        self.schemas.insert(StoredSchema { id, fingerprint, schema: Arc::clone(schema), version: 0, facts });
        self.new_schemas.extend(self.schemas.get(id).cloned());
        id
    }

    /// Something became known of a table: durable together with the end of the open unit, and forgotten if that never
    /// comes.
    pub fn table(&mut self, name: TableName, change: TableChange) {
        match &mut self.open {
            Some(open) => open.tables.push((name, change)),
            None => self.misuse = Some("what becomes known of a table must belong to a unit"),
        }
    }

    /// What is durably known of this stream's tables, by name. Whole when a session was just begun.
    pub fn tables(&self) -> Vec<(TableName, TableBinding)> {
        let book = Arc::clone(&self.stream.tables.read());
        book.bindings.iter().map(|(name, binding)| (name.clone(), *binding)).collect()
    }

    /// That a table's rows changed without events, whether or not that is durable yet.
    pub fn divergence(&self, table: &TableName) -> Option<Divergence> {
        let open = self.open.iter().flat_map(|open| &open.tables);
        let sent = self.sent_tables.iter().filter(|_| !self.stream.flow.is_idle());
        let mut said = sent.chain(&self.new_tables).chain(open).filter(|(name, _)| name == table);
        let newest = said.rfind(|(_, change)| !matches!(change, TableChange::Bound(_)));
        match newest {
            Some((_, TableChange::Diverged(divergence))) => Some(divergence.clone()),
            Some(_) => None,
            None => self.stream.tables.read().diverged.get(table).cloned(),
        }
    }

    /// The schema version with this number, of those known in this session.
    pub fn schema_of(&self, id: SchemaId) -> Option<&StoredSchema> {
        self.schemas.get(id)
    }
}
