//! Records of tables and of what was decided: schema versions, names, divergences, skips, settings.

use std::sync::Arc;

use dbstreamd_model::{
    FactsOrigin, Fingerprint, Lsn, Offset, RecordedFacts, SchemaDecodeError, SchemaId, TableFacts, TableSchema,
    Timestamp,
};

use super::fields::{Input, RECORD_VERSION, encode_numbers, put_text, read};
use crate::error::LogError;
use crate::schemas::StoredSchema;
use crate::skips::Skip;
use crate::tables::{Divergence, DivergenceReason, TableBinding};

/// First byte of a schema that comes with facts.
const SCHEMA_WITH_FACTS_VERSION: u8 = 2;

impl TableBinding {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![RECORD_VERSION];
        [self.relation, self.schema.0].iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("a table's name", bytes, |input| Some(Self { relation: input.u32()?, schema: SchemaId(input.u32()?) }))
    }
}

impl Divergence {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = encode_numbers(&[self.offset.0, self.lsn.0, self.noticed_at.0.cast_unsigned()]);
        out.push(self.reason as u8);
        put_text(&mut out, &self.detail);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, LogError> {
        read("a table's divergence", bytes, |input| {
            let (offset, lsn) = (Offset(input.u64()?), Lsn(input.u64()?));
            let noticed_at = Timestamp(input.u64()?.cast_signed());
            let reason = DivergenceReason::from_code(input.u8()?)?;
            Some(Self { reason, detail: input.text()?.to_owned(), offset, lsn, noticed_at })
        })
    }
}

/// A schema version: its fingerprint, then the schema's own encoding; in version 2 facts stand between the two.
pub(crate) fn encode_schema(schema: &StoredSchema) -> Vec<u8> {
    let version = if schema.facts.is_some() { SCHEMA_WITH_FACTS_VERSION } else { RECORD_VERSION };
    let mut out = vec![version];
    out.extend_from_slice(&schema.fingerprint.0);
    if let Some(facts) = &schema.facts {
        out.push(facts.origin as u8);
        out.extend_from_slice(&facts.as_of.0.to_be_bytes());
        put_text(&mut out, &facts.table.to_json());
    }
    out.extend_from_slice(&schema.schema.encode());
    out
}

/// Reads a schema version and checks it against its fingerprint; none when it is damaged.
///
/// # Errors
/// When a newer version of this program wrote it.
pub(crate) fn decode_schema(id: SchemaId, bytes: &[u8]) -> Result<Option<StoredSchema>, LogError> {
    let newer = |reason: String| Err(LogError::DamagedRecord { what: format!("schema {}", id.0), reason });
    let Some((&version, rest)) = bytes.split_first() else { return Ok(None) };
    if version > SCHEMA_WITH_FACTS_VERSION {
        return newer(format!("its version {version} is not known to this version"));
    }
    let mut input = Input(rest);
    let Some(fingerprint) = input.take().map(Fingerprint) else { return Ok(None) };
    let facts = match version {
        SCHEMA_WITH_FACTS_VERSION => match take_facts(&mut input) {
            Some(facts) => facts.map(Arc::new),
            None => return Ok(None),
        },
        _ => None,
    };
    match TableSchema::decode(input.0) {
        // Its version is its place among the others.
        Ok(schema) if schema.fingerprint() == fingerprint => {
            Ok(Some(StoredSchema { id, fingerprint, schema: schema.into(), version: 0, facts }))
        }
        Err(error @ SchemaDecodeError::Version(_)) => newer(error.to_string()),
        Ok(_) | Err(SchemaDecodeError::Damaged) => Ok(None),
    }
}

/// None when they are cut short; none inside when they cannot be read, which makes the schema no worse: its fingerprint
/// does not cover them.
fn take_facts(input: &mut Input<'_>) -> Option<Option<RecordedFacts>> {
    let (origin, as_of) = (FactsOrigin::from_code(input.u8()?), Lsn(input.u64()?));
    let table = input.bytes()?;
    let table = std::str::from_utf8(table).ok().and_then(|json| TableFacts::from_json(json).ok());
    Some(origin.zip(table).map(|(origin, table)| RecordedFacts { origin, as_of, table }))
}

/// A setting's value.
pub(crate) fn encode_setting(value: &str) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    put_text(&mut out, value);
    out
}

/// Behind the key's offset: where the skip ends, when it was decided, by whom and why.
pub(crate) fn encode_skip(skip: &Skip) -> Vec<u8> {
    let mut out = encode_numbers(&[skip.next.0, skip.at.0.cast_unsigned()]);
    put_text(&mut out, &skip.note);
    out
}

pub(crate) fn decode_skip(first: Offset, bytes: &[u8]) -> Result<Skip, LogError> {
    read("a skip", bytes, |input| {
        let (next, at) = (Offset(input.u64()?), Timestamp(input.u64()?.cast_signed()));
        let note = input.text()?.to_owned();
        (first < next).then_some(Skip { first, next, at, note })
    })
}

pub(crate) fn decode_setting(bytes: &[u8]) -> Result<String, LogError> {
    read("a setting", bytes, |input| input.text().map(str::to_owned))
}
