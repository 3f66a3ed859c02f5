//! A chunk's index: which event is what, how long, and of which unit.
//!
//! Everything is written column by column, because neighbours in a column resemble each other and a compressor then makes
//! nearly nothing of them. Layout in docs/format.md, "Index".

use dbstreamd_model::{Lsn, Op, SchemaId, Timestamp};

use super::varint::{put, put_delta, take, take_delta};
use super::{Chunk, EventEntry, UnitSpan};
use crate::schemas::{SchemaRegistry, StoredSchema};

/// A decoded index.
pub(super) struct Index {
    pub(super) events: Vec<EventEntry>,
    pub(super) units: Vec<UnitSpan>,
    pub(super) schemas: Vec<StoredSchema>,
}

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IndexError {
    Damaged,
    UnknownSchema(u32),
}

/// Appends the index of `chunk`.
pub(super) fn encode(chunk: &Chunk, out: &mut Vec<u8>) {
    encode_kinds(chunk, out);
    let mut start = 0;
    for event in &chunk.events {
        put(out, u64::from(event.body_end - start));
        start = event.body_end;
    }
    encode_units(&chunk.units, out);
}

/// A kind is a pair of operation and schema: a chunk has few of them, so an event's is one byte, mostly the same one.
fn encode_kinds(chunk: &Chunk, out: &mut Vec<u8>) {
    let width = chunk.schemas.len() + 1;
    let slot = |event: &EventEntry| (event.op as usize) * width + usize::from(event.schema);
    // Place of each kind in the table, 0 while it was not seen.
    let mut places = vec![0_u32; (Op::ALL.len() + 1) * width];
    let mut kinds: Vec<(Op, u32)> = Vec::new();
    for event in &chunk.events {
        let Some(place) = places.get_mut(slot(event)) else { continue };
        if *place == 0 {
            let schema = usize::from(event.schema).checked_sub(1).and_then(|i| chunk.schemas.get(i));
            kinds.push((event.op, schema.map_or(0, |s| s.id.0)));
            *place = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
        }
    }
    put(out, kinds.len() as u64);
    for &(op, schema) in &kinds {
        out.push(op as u8);
        put(out, u64::from(schema));
    }
    if kinds.len() > 1 {
        for event in &chunk.events {
            put(out, u64::from(places.get(slot(event)).map_or(0, |place| place - 1)));
        }
    }
}

fn encode_units(units: &[UnitSpan], out: &mut Vec<u8>) {
    units.iter().for_each(|unit| put(out, u64::from(unit.events) - 1));
    let mut previous = 0;
    for unit in units {
        put_delta(out, previous, unit.commit_lsn.0);
        previous = unit.end_lsn.0;
    }
    units.iter().for_each(|unit| put_delta(out, unit.commit_lsn.0, unit.end_lsn.0));
    let mut previous = 0;
    for unit in units {
        put_delta(out, previous, u64::from(unit.xid));
        previous = u64::from(unit.xid);
    }
    let mut previous = 0;
    for unit in units {
        let time = unit.commit_time.0.cast_unsigned();
        put_delta(out, previous, time);
        previous = time;
    }
    units.iter().for_each(|unit| out.extend_from_slice(&unit.hash.to_le_bytes()));
    put(out, u64::from(units.first().map_or(0, |unit| unit.first_ordinal)));
}

/// Reads an index of `events` events in `units` units whose bodies take `body_bytes`; `finished` says whether the
/// last unit ends here.
pub(super) fn decode(
    mut bytes: &[u8],
    (events, units): (usize, usize),
    body_bytes: usize,
    finished: bool,
    registry: &SchemaRegistry,
) -> Result<Index, IndexError> {
    let input = &mut bytes;
    let (kinds, schemas) = decode_kinds(input, registry)?;
    let events = decode_events(input, events, body_bytes, &kinds).ok_or(IndexError::Damaged)?;
    let units = decode_units(input, units, finished).ok_or(IndexError::Damaged)?;
    let counted: u64 = units.iter().map(|unit| u64::from(unit.events)).sum();
    if !bytes.is_empty() || counted != events.len() as u64 {
        return Err(IndexError::Damaged);
    }
    Ok(Index { events, units, schemas })
}

type Kinds = (Vec<(Op, u16)>, Vec<StoredSchema>);

fn decode_kinds(input: &mut &[u8], registry: &SchemaRegistry) -> Result<Kinds, IndexError> {
    let count = take(input).ok_or(IndexError::Damaged)?;
    let mut kinds = Vec::new();
    let mut schemas: Vec<StoredSchema> = Vec::new();
    for _ in 0..count {
        let (&code, rest) = input.split_first().ok_or(IndexError::Damaged)?;
        *input = rest;
        let op = Op::from_code(code).ok_or(IndexError::Damaged)?;
        let id = take(input).and_then(|id| u32::try_from(id).ok()).ok_or(IndexError::Damaged)?;
        let place = match id {
            0 => 0,
            id => match schemas.iter().position(|schema| schema.id.0 == id) {
                Some(place) => place + 1,
                None => {
                    schemas.push(registry.get(SchemaId(id)).ok_or(IndexError::UnknownSchema(id))?.clone());
                    schemas.len()
                }
            },
        };
        kinds.push((op, u16::try_from(place).map_err(|_| IndexError::Damaged)?));
    }
    Ok((kinds, schemas))
}

fn decode_events(input: &mut &[u8], count: usize, body_bytes: usize, kinds: &[(Op, u16)]) -> Option<Vec<EventEntry>> {
    let (&(op, schema), more) = kinds.split_first()?;
    let mut events = Vec::with_capacity(count);
    events.resize(count, EventEntry { body_end: 0, schema, op });
    if !more.is_empty() {
        for event in &mut events {
            let &(op, schema) = kinds.get(usize::try_from(take(input)?).ok()?)?;
            (event.op, event.schema) = (op, schema);
        }
    }
    let mut end = 0_u32;
    for event in &mut events {
        end = end.checked_add(u32::try_from(take(input)?).ok()?)?;
        event.body_end = end;
    }
    (end as usize == body_bytes).then_some(events)
}

fn decode_units(input: &mut &[u8], count: usize, finished: bool) -> Option<Vec<UnitSpan>> {
    let empty = UnitSpan {
        commit_lsn: Lsn::ZERO,
        end_lsn: Lsn::ZERO,
        commit_time: Timestamp(0),
        hash: 0,
        xid: 0,
        first_ordinal: 0,
        first_event: 0,
        events: 0,
        finished: true,
    };
    let mut units = vec![empty; count];
    let mut first_event = 0_u32;
    for unit in &mut units {
        unit.first_event = first_event;
        unit.events = u32::try_from(take(input)?).ok()?.checked_add(1)?;
        first_event = first_event.checked_add(unit.events)?;
    }
    // Where a commit starts is told from where the unit before ended, which the next column says: so keep the
    // column of starts as differences until the ends are known.
    let mut starts = *input;
    (0..count).try_for_each(|_| take(input).map(drop))?;
    let mut previous = 0;
    for unit in &mut units {
        unit.commit_lsn = Lsn(take_delta(&mut starts, previous)?);
        unit.end_lsn = Lsn(take_delta(input, unit.commit_lsn.0)?);
        previous = unit.end_lsn.0;
    }
    let mut previous = 0;
    for unit in &mut units {
        previous = take_delta(input, previous)?;
        unit.xid = u32::try_from(previous).ok()?;
    }
    let mut previous = 0;
    for unit in &mut units {
        previous = take_delta(input, previous)?;
        unit.commit_time = Timestamp(previous.cast_signed());
    }
    for unit in &mut units {
        let (hash, rest) = input.split_first_chunk::<8>()?;
        unit.hash = u64::from_le_bytes(*hash);
        *input = rest;
    }
    units.first_mut()?.first_ordinal = u32::try_from(take(input)?).ok()?;
    units.last_mut()?.finished = finished;
    Some(units)
}
