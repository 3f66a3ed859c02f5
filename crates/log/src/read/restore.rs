//! Finding out which schema version a damaged record was: a unit's content hash covers the fingerprints of its events'
//! schemas, so whoever offers the right schema can prove it.

use std::sync::Arc;

use dbstreamd_model::{Offset, RecordedFacts, SchemaId, TableSchema};

use super::disk;
use crate::chunk::{Chunk, FrameError, decode};
use crate::error::LogError;
use crate::schemas::{SchemaRegistry, StoredSchema};
use crate::store::Store;
use crate::stream::Stream;
use crate::units::UnitHasher;

/// A schema that may be the one that is missing, and what is known of its table.
pub type SchemaCandidate = (Arc<TableSchema>, Option<Arc<RecordedFacts>>);

/// Tries the candidates as the missing versions that the chunk at `offset` uses. What is returned is proven by the hash
/// of a whole unit; nothing is returned that is merely likely.
pub(crate) fn identify(
    store: &Store,
    stream: &Stream,
    offset: Offset,
    candidates: &[SchemaCandidate],
) -> Result<Vec<StoredSchema>, LogError> {
    let through = stream.published.watermarks().visible;
    let Some((key, value)) = disk::raw_at(store, stream, offset, through)? else { return Ok(Vec::new()) };
    let registry = Arc::clone(&stream.schemas.read());
    let missing: Vec<_> = registry.missing().collect();
    let mut found = Vec::new();
    for &id in &missing {
        let proven = candidates.iter().find_map(|(schema, facts)| {
            let fingerprint = schema.fingerprint();
            let stored = StoredSchema { id, fingerprint, schema: Arc::clone(schema), version: 0, facts: facts.clone() };
            // Others that are missing stand in for each other; units that use them prove nothing.
            let mut trial = SchemaRegistry::clone(&registry);
            for &other in &missing {
                trial.restore(StoredSchema { id: other, ..stored.clone() });
            }
            let chunk: Result<Chunk, FrameError> = decode(&key, &value, &trial);
            chunk.is_ok_and(|chunk| proves(&chunk, id)).then_some(stored)
        });
        found.extend(proven);
    }
    Ok(found)
}

/// Whether a unit that lies whole in the chunk and uses this version has the hash that was stored with it.
fn proves(chunk: &Chunk, id: SchemaId) -> bool {
    let mut hasher = UnitHasher::new();
    chunk.units.iter().any(|unit| {
        let first = unit.first_event as usize;
        let events = first..first.saturating_add(unit.events as usize);
        if !unit.finished || unit.first_ordinal != 0 {
            return false;
        }
        hasher.reset();
        let mut uses = false;
        for event in chunk.events(events) {
            uses |= event.schema.is_some_and(|schema| schema.id == id);
            hasher.event(event.op, event.schema.map(|schema| schema.fingerprint), event.body);
        }
        uses && hasher.finish() == unit.hash
    })
}
