//! Finding out which schema version a damaged record was: a unit's content hash covers the fingerprints of its events'
//! schemas, so whoever offers the right schema can prove it.

use std::sync::Arc;

use dbstreamd_model::{Fingerprint, Offset, RecordedFacts, SchemaId, TableSchema};

use super::disk;
use crate::chunk::{Chunk, decode};
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
    let Some((stand_in, _)) = candidates.first() else { return Ok(Vec::new()) };
    // Whatever is missing is read as if it were this; it is never served so.
    let mut trial = SchemaRegistry::clone(&registry);
    trial.stand_in(&StoredSchema {
        id: SchemaId(0),
        fingerprint: stand_in.fingerprint(),
        schema: Arc::clone(stand_in),
        version: 0,
        facts: None,
    });
    let Ok(chunk) = decode(&key, &value, &trial) else { return Ok(Vec::new()) };
    let used = missing.into_iter().filter(|id| chunk.schemas.iter().any(|schema| schema.id == *id));
    let fingerprints: Vec<_> = candidates.iter().map(|(schema, _)| schema.fingerprint()).collect();
    let proven = used.filter_map(|id| {
        let others = |schema: &StoredSchema| schema.id != id && registry.get(schema.id).is_none();
        let place = fingerprints.iter().position(|&fingerprint| proves(&chunk, id, fingerprint, others))?;
        let (schema, facts) = candidates.get(place)?;
        let fingerprint = *fingerprints.get(place)?;
        Some(StoredSchema { id, fingerprint, schema: Arc::clone(schema), version: 0, facts: facts.clone() })
    });
    Ok(proven.collect())
}

/// Whether a unit that lies whole in the chunk and uses this version has, with this fingerprint for it, the hash that was
/// stored with it. Units that also use `others`, of which nothing is known either, prove nothing.
fn proves(chunk: &Chunk, id: SchemaId, fingerprint: Fingerprint, others: impl Fn(&StoredSchema) -> bool) -> bool {
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
            if event.schema.is_some_and(&others) {
                return false;
            }
            let is_it = event.schema.is_some_and(|schema| schema.id == id);
            uses |= is_it;
            let of = if is_it { Some(fingerprint) } else { event.schema.map(|schema| schema.fingerprint) };
            hasher.event(event.op, of, event.body);
        }
        uses && hasher.finish() == unit.hash
    })
}
