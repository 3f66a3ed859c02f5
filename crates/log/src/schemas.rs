//! A stream's schema versions: looked up by number when events are read, by fingerprint when they are written.

use std::collections::HashMap;
use std::sync::Arc;

use dbstreamd_model::{Fingerprint, RecordedFacts, SchemaId, TableSchema};

/// A schema version as the log keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSchema {
    /// Its number in the stream.
    pub id: SchemaId,
    /// Its identity by content.
    pub fingerprint: Fingerprint,
    /// What it says.
    pub schema: Arc<TableSchema>,
    /// Which version of its table, by name, in this stream; counted from 1 in the order of their first use.
    pub version: u32,
    /// What was known of the table when the version was first used; never changed afterwards.
    pub facts: Option<Arc<RecordedFacts>>,
}

/// All schema versions of one stream. Ids are dense from 1, so the place in the list is the id.
#[derive(Clone, Debug, Default)]
pub(crate) struct SchemaRegistry {
    by_id: Vec<StoredSchema>,
    by_fingerprint: HashMap<Fingerprint, SchemaId>,
    /// By what a source announces of a table, type OIDs included: the version that last said so.
    by_announcement: HashMap<Fingerprint, SchemaId>,
    /// How many versions a table has, by namespace and name.
    versions: HashMap<(String, String), u32>,
}

impl SchemaRegistry {
    /// The schema version with this number.
    pub(crate) fn get(&self, id: SchemaId) -> Option<&StoredSchema> {
        self.by_id.get(usize::try_from(id.0.checked_sub(1)?).ok()?)
    }

    /// The schema version with this content.
    pub(crate) fn find(&self, fingerprint: Fingerprint) -> Option<&StoredSchema> {
        self.get(*self.by_fingerprint.get(&fingerprint)?)
    }

    /// The version that a source means when it announces this: the same names and types, by name and by OID.
    pub(crate) fn announced(&self, schema: &TableSchema) -> Option<&StoredSchema> {
        self.get(*self.by_announcement.get(&announcement(schema))?)
    }

    /// All versions, oldest first.
    pub(crate) fn all(&self) -> &[StoredSchema] {
        &self.by_id
    }

    /// The number the next new version gets.
    pub(crate) fn next_id(&self) -> SchemaId {
        SchemaId(u32::try_from(self.by_id.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Takes in a version, and numbers it among its table's; false when its id is not the next one.
    pub(crate) fn insert(&mut self, mut schema: StoredSchema) -> bool {
        if schema.id != self.next_id() {
            return false;
        }
        let table = (schema.schema.namespace.clone(), schema.schema.table.clone());
        let versions = self.versions.entry(table).or_default();
        *versions = versions.saturating_add(1);
        schema.version = *versions;
        self.by_fingerprint.insert(schema.fingerprint, schema.id);
        self.by_announcement.insert(announcement(&schema.schema), schema.id);
        self.by_id.push(schema);
        true
    }
}

/// The identity of what a source says of a table by itself.
fn announcement(schema: &TableSchema) -> Fingerprint {
    Fingerprint::of(&schema.announced().encode())
}
