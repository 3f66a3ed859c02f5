//! A stream's schema versions: looked up by number when events are read, by fingerprint when they are written.

use std::collections::HashMap;
use std::sync::Arc;

use dbstreamd_model::{Fingerprint, Offset, RecordedFacts, SchemaId, StreamId, TableSchema};
use tokio::sync::oneshot;

use crate::error::LogError;
use crate::log::Log;
use crate::read::{self, SchemaCandidate};
use crate::writer::Command;

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

impl Log {
    /// All schema versions of a stream, oldest first.
    pub fn schemas(&self, stream: StreamId) -> Vec<StoredSchema> {
        self.shared.stream(stream).map(|stream| stream.schemas.read().all().cloned().collect()).unwrap_or_default()
    }

    /// Whether a stream has the schema version with this number.
    pub fn has_schema(&self, stream: StreamId, id: SchemaId) -> bool {
        self.shared.stream(stream).is_ok_and(|stream| stream.schemas.read().get(id).is_some())
    }

    /// Tries to put back the schema versions that the events around `offset` use and that are missing. A candidate is taken
    /// only when the stored hash of a transaction proves that it is the one. Returns whether any was.
    ///
    /// # Errors
    /// When the events cannot be read for another reason, or the log does not write.
    pub async fn restore_schemas(
        &self,
        stream: StreamId,
        offset: Offset,
        candidates: Vec<SchemaCandidate>,
    ) -> Result<bool, LogError> {
        let stream = self.shared.stream(stream)?;
        let (shared, identified) = (Arc::clone(&self.shared), Arc::clone(&stream));
        let found = tokio::task::spawn_blocking(move || {
            shared.store().and_then(|store| read::identify(&store, &identified, offset, &candidates))
        });
        let found = found.await.map_err(|error| LogError::Store { action: "read", reason: error.to_string() })??;
        if found.is_empty() {
            return Ok(false);
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::RestoreSchemas { stream, schemas: found, reply })?;
        self.shared.answer(answer).await.map(|()| true)
    }

    /// The schema version of this content.
    pub fn schema(&self, stream: StreamId, fingerprint: Fingerprint) -> Option<Arc<TableSchema>> {
        let stream = self.shared.stream(stream).ok()?;
        let schemas = stream.schemas.read();
        schemas.find(fingerprint).map(|stored| Arc::clone(&stored.schema))
    }
}

/// All schema versions of one stream. Ids are dense from 1, so the place in the list is the id; one whose record is damaged
/// or gone has a place and no content.
#[derive(Clone, Debug, Default)]
pub(crate) struct SchemaRegistry {
    by_id: Vec<Option<StoredSchema>>,
    by_fingerprint: HashMap<Fingerprint, SchemaId>,
    /// By what a source announces of a table, type OIDs included: the version that last said so.
    by_announcement: HashMap<Fingerprint, SchemaId>,
    /// How many versions a table has, by namespace and name.
    versions: HashMap<(String, String), u32>,
}

impl SchemaRegistry {
    /// The schema version with this number.
    #[inline]
    pub(crate) fn get(&self, id: SchemaId) -> Option<&StoredSchema> {
        self.by_id.get(place(id)?)?.as_ref()
    }

    /// The schema version with this content.
    pub(crate) fn find(&self, fingerprint: Fingerprint) -> Option<&StoredSchema> {
        self.get(*self.by_fingerprint.get(&fingerprint)?)
    }

    /// The version that a source means when it announces this: the same names and types, by name and by OID.
    pub(crate) fn announced(&self, schema: &TableSchema) -> Option<&StoredSchema> {
        self.get(*self.by_announcement.get(&announcement(schema))?)
    }

    /// All versions that are there, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &StoredSchema> {
        self.by_id.iter().flatten()
    }

    /// Versions that are not there, although events may use them.
    pub(crate) fn missing(&self) -> impl Iterator<Item = SchemaId> {
        (1..).map(SchemaId).zip(&self.by_id).filter(|(_, known)| known.is_none()).map(|(id, _)| id)
    }

    /// The highest number that was given.
    pub(crate) fn newest(&self) -> SchemaId {
        SchemaId(u32::try_from(self.by_id.len()).unwrap_or(u32::MAX))
    }

    /// The number the next new version gets.
    pub(crate) fn next_id(&self) -> SchemaId {
        SchemaId(self.newest().0.saturating_add(1))
    }

    /// Takes note that all numbers up to this one were given; those that are not known are missing.
    pub(crate) fn expect_through(&mut self, newest: SchemaId) {
        let places = place(newest).map_or(0, |place| place + 1);
        self.by_id.resize(places.max(self.by_id.len()), None);
    }

    /// Takes in a version, and numbers it among its table's; false when its id is not the next one.
    pub(crate) fn insert(&mut self, mut schema: StoredSchema) -> bool {
        if schema.id != self.next_id() {
            return false;
        }
        self.number(&mut schema);
        self.by_id.push(Some(schema));
        true
    }

    /// Takes in a version that was missing; false when it was not.
    pub(crate) fn restore(&mut self, schema: StoredSchema) -> bool {
        let Some(missing) =
            place(schema.id).and_then(|place| self.by_id.get_mut(place)).filter(|known| known.is_none())
        else {
            return false;
        };
        *missing = Some(schema);
        // The versions of its table behind it are numbered anew.
        let all = std::mem::take(self).by_id;
        for mut known in all {
            if let Some(schema) = &mut known {
                self.number(schema);
            }
            self.by_id.push(known);
        }
        true
    }

    /// Reads all that is missing as if it were this: for who tries to find out what it is.
    pub(crate) fn stand_in(&mut self, schema: &StoredSchema) {
        for (id, place) in (1..).map(SchemaId).zip(&mut self.by_id) {
            place.get_or_insert_with(|| StoredSchema { id, ..schema.clone() });
        }
    }

    /// A version that comes a second time, because it was missing when it was announced again, keeps its number.
    fn number(&mut self, schema: &mut StoredSchema) {
        let same = self.find(schema.fingerprint).map(|same| same.version);
        schema.version = same.unwrap_or_else(|| {
            let table = (schema.schema.namespace.clone(), schema.schema.table.clone());
            let versions = self.versions.entry(table).or_default();
            *versions = versions.saturating_add(1);
            *versions
        });
        self.by_fingerprint.insert(schema.fingerprint, schema.id);
        self.by_announcement.insert(announcement(&schema.schema), schema.id);
    }
}

fn place(id: SchemaId) -> Option<usize> {
    usize::try_from(id.0.checked_sub(1)?).ok()
}

/// Types below are PostgreSQL's own: their OIDs and names never change (`FirstGenbkiObjectId`).
const NAMED_FOR_EVER_BELOW_OID: u32 = 10_000;

/// The identity of what a source says of a table by itself. Other types than PostgreSQL's own count by their OIDs alone: one
/// that is renamed is still the same, and nobody announces it anew before the next session does.
fn announcement(schema: &TableSchema) -> Fingerprint {
    let mut announced = schema.announced();
    let renamable = announced.columns.iter_mut().filter(|column| column.type_oid >= NAMED_FOR_EVER_BELOW_OID);
    renamable.for_each(|column| column.type_name.clear());
    Fingerprint::of(&announced.encode())
}
