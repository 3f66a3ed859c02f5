//! A stream's schema versions: looked up by number when events are read, by fingerprint when they are written.

use std::collections::HashMap;
use std::sync::Arc;

use dbstreamd_model::{Fingerprint, SchemaId, TableSchema};

/// A schema version as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSchema {
    /// Its number in the stream.
    pub id: SchemaId,
    /// Its identity by content.
    pub fingerprint: Fingerprint,
    /// What it says.
    pub schema: Arc<TableSchema>,
}

/// All schema versions of one stream. Ids are dense from 1, so the place in the list is the id.
#[derive(Clone, Debug, Default)]
pub(crate) struct SchemaRegistry {
    by_id: Vec<StoredSchema>,
    by_fingerprint: HashMap<Fingerprint, SchemaId>,
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

    /// All versions, oldest first.
    pub(crate) fn all(&self) -> &[StoredSchema] {
        &self.by_id
    }

    /// The number the next new version gets.
    pub(crate) fn next_id(&self) -> SchemaId {
        SchemaId(u32::try_from(self.by_id.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Takes in a version; false when its id is not the next one.
    pub(crate) fn insert(&mut self, schema: StoredSchema) -> bool {
        if schema.id != self.next_id() {
            return false;
        }
        self.by_fingerprint.insert(schema.fingerprint, schema.id);
        self.by_id.push(schema);
        true
    }
}
