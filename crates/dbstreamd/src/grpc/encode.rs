//! Events to Protobuf, written straight from the log's bytes into one buffer.
//!
//! The result is the body of an `EventBatch`: a run of length-delimited `events` entries with the end of each, so
//! that any range of events is a slice. A chunk is encoded once and the run shared by all subscribers that take
//! everything (`subscribe`); who filters encodes what matches. No value is allocated per event: lengths are computed
//! in a first pass over the cells, bytes written in a second. Values that the source did not send, because an update left
//! them as they were, are filled from the old row where that is whole. Field numbers are those of `proto/dbstreamd/v1`.

pub(crate) mod typed;

use bytes::BufMut;
use dbstreamd_log::{Chunk, EncodedRun, EventRef};
use dbstreamd_model::{BeforeKind, CellRef, EventBody, Op, RowChange, RowRef, TruncateFlags};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::{proto, schemas};

/// What an event needs besides its cells, at most; only a first guess for the buffer's size.
const EVENT_OVERHEAD_BYTES: usize = 72;

// Keys: field number << 3 | wire type (0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes).
const BATCH_EVENTS: u8 = 1 << 3 | 2;
const OFFSET: u8 = 1 << 3;
const OPERATION: u8 = 2 << 3;
const COMMIT_LSN: u8 = 3 << 3 | 1;
const ORDINAL: u8 = 4 << 3;
const XID: u8 = 5 << 3 | 5;
const COMMIT_TIME_US: u8 = 6 << 3 | 1;
const EPOCH: u8 = 7 << 3;
const LAST_IN_TRANSACTION: u8 = 8 << 3;
const FINGERPRINT: u8 = 9 << 3 | 2;
const BEFORE: u8 = 10 << 3 | 2;
const BEFORE_IS_FULL: u8 = 11 << 3;
const AFTER: u8 = 12 << 3 | 2;
const TRUNCATE: u8 = 13 << 3 | 2;
const MESSAGE: u8 = 14 << 3 | 2;
const SCHEMA_CHANGE: u8 = 15 << 3 | 2;
const ROW_CELLS: u8 = 1 << 3 | 2;
const ROW_UNCHANGED: u8 = 2 << 3 | 2;
const CELL_TEXT: u8 = 1 << 3 | 2;
const CELL_BINARY: u8 = 2 << 3 | 2;
const CELL_UNCHANGED: u8 = 3 << 3;
const TRUNCATE_CASCADE: u8 = 1 << 3;
const TRUNCATE_RESTART_IDENTITY: u8 = 2 << 3;
const MESSAGE_TRANSACTIONAL: u8 = 1 << 3;
const MESSAGE_PREFIX: u8 = 2 << 3 | 2;
const MESSAGE_CONTENT: u8 = 3 << 3 | 2;

/// Encodes a whole chunk. A run with fewer ends than the chunk has events stopped at an event whose body is broken:
/// whoever wants to deliver that event must fail with [`broken`].
pub(crate) fn chunk(chunk: &Chunk) -> EncodedRun {
    let mut run = RunBuilder::for_whole(chunk);
    for event in chunk.events(0..chunk.len()) {
        if !run.push(&event) {
            break;
        }
    }
    run.finish()
}

/// The answer for an event that cannot be encoded: it is never skipped.
pub(crate) fn broken(offset: dbstreamd_model::Offset) -> tonic::Status {
    tonic::Status::data_loss(format!(
        "the event at offset {offset} is stored in a form this version cannot read; delivery stops here so that nothing is skipped: run the version that wrote it, or report this"
    ))
}

/// Builds an [`EncodedRun`] event by event.
#[derive(Default)]
pub(crate) struct RunBuilder {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl RunBuilder {
    /// With room for all of a chunk's events.
    fn for_whole(chunk: &Chunk) -> Self {
        let bytes = Vec::with_capacity(chunk.body_bytes() + chunk.len() * EVENT_OVERHEAD_BYTES);
        Self { bytes, ends: Vec::with_capacity(chunk.len()) }
    }

    /// Adds one event; false when its body is broken, or the run would pass 4 GiB.
    pub(crate) fn push(&mut self, event: &EventRef<'_>) -> bool {
        let Ok(body) = EventBody::parse(event.op, event.body) else { return false };
        let Some(lengths) = BodyLengths::of(&body) else { return false };
        let length = head_len(event) + lengths.total;
        let entry = delimited_len(length);
        let Ok(end) = u32::try_from(self.bytes.len() + entry) else { return false };
        self.bytes.reserve(entry.max(event.body.len() + EVENT_OVERHEAD_BYTES));
        put_key_len(&mut self.bytes, BATCH_EVENTS, length);
        put_head(&mut self.bytes, event);
        put_body(&mut self.bytes, &body, &lengths);
        debug_assert_eq!(self.bytes.len(), end as usize, "first and second pass disagree");
        self.ends.push(end);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn finish(mut self) -> EncodedRun {
        // What the guess was too large by is given back: the run is counted by its length.
        self.bytes.shrink_to_fit();
        EncodedRun { bytes: self.bytes.into(), ends: self.ends }
    }
}

/// An operation's number in the contract.
pub(crate) const fn operation(op: Op) -> proto::Operation {
    match op {
        Op::Insert => proto::Operation::Insert,
        Op::Update => proto::Operation::Update,
        Op::Delete => proto::Operation::Delete,
        Op::Truncate => proto::Operation::Truncate,
        Op::Message => proto::Operation::Message,
        Op::SchemaChange => proto::Operation::SchemaChange,
    }
}

/// Lengths found in the first pass, used in the second.
#[derive(Default)]
struct BodyLengths {
    before: RowLengths,
    after: RowLengths,
    inner: usize,
    /// A schema change is rare, and encoded whole in the first pass.
    schema_change: Vec<u8>,
    total: usize,
}

#[derive(Default)]
struct RowLengths {
    total: usize,
    /// Of the bitmap of unchanged columns; 0 when there is none.
    unchanged: usize,
}

impl RowLengths {
    fn of(row: &RowRef<'_>, old: Option<RowRef<'_>>) -> Self {
        let (mut total, mut unchanged) = (0, 0);
        let mut old = old.map(|old| old.cells());
        for mut cell in row.cells() {
            let was = old.as_mut().and_then(Iterator::next);
            if matches!(cell, CellRef::Unchanged) {
                unchanged = usize::from(row.columns()).div_ceil(8);
                cell = was.unwrap_or(cell);
            }
            total += delimited_len(cell_len(&cell));
        }
        Self { total: total + nonempty_len(unchanged), unchanged }
    }
}

impl BodyLengths {
    /// None when a schema change is not what its trigger writes.
    fn of(body: &EventBody<'_>) -> Option<Self> {
        let mut lengths = Self::default();
        match body {
            EventBody::Row(change) => {
                if let Some((kind, row)) = &change.before {
                    lengths.before = RowLengths::of(row, None);
                    lengths.total +=
                        delimited_len(lengths.before.total) + if *kind == BeforeKind::Full { 2 } else { 0 };
                }
                if let Some(row) = &change.after {
                    lengths.after = RowLengths::of(row, whole_old(change));
                    lengths.total += delimited_len(lengths.after.total);
                }
            }
            EventBody::Truncate(flags) => {
                lengths.inner = 2 * (usize::from(flags.cascade) + usize::from(flags.restart_identity));
                lengths.total = delimited_len(lengths.inner);
            }
            EventBody::Message(message) => {
                lengths.inner = usize::from(message.transactional) * 2
                    + nonempty_len(message.prefix.len())
                    + nonempty_len(message.content.len());
                lengths.total = delimited_len(lengths.inner);
            }
            EventBody::SchemaChange(message) => {
                lengths.schema_change = schemas::change(message.content)?.encode_to_vec();
                lengths.total = delimited_len(lengths.schema_change.len());
            }
        }
        Some(lengths)
    }
}

/// Length of key, length and `length` bytes; all our keys below field 16 take one byte.
fn delimited_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

/// A proto3 scalar field is absent when empty.
fn nonempty_len(length: usize) -> usize {
    if length == 0 { 0 } else { delimited_len(length) }
}

/// The old row, where the source sent it whole (REPLICA IDENTITY FULL).
fn whole_old<'a>(change: &RowChange<'a>) -> Option<RowRef<'a>> {
    let (kind, old) = change.before.as_ref()?;
    let fits = change.after.is_some_and(|after| after.columns() == old.columns());
    (*kind == BeforeKind::Full && fits).then_some(*old)
}

/// The cells of a row as they are delivered: a value that the update left as it was and the source did not send is the old
/// row's, where there is one.
fn filled<'a>(row: &RowRef<'a>, old: Option<RowRef<'a>>) -> impl Iterator<Item = CellRef<'a>> {
    let mut old = old.map(|old| old.cells());
    row.cells().map(move |cell| match (cell, old.as_mut().and_then(Iterator::next)) {
        (CellRef::Unchanged, Some(old)) => old,
        (cell, _) => cell,
    })
}

/// Cells are a oneof: an empty text is there, a null is not.
fn cell_len(cell: &CellRef<'_>) -> usize {
    match cell {
        CellRef::Null => 0,
        CellRef::Unchanged => 2,
        CellRef::Text(value) | CellRef::Binary(value) => delimited_len(value.len()),
    }
}

fn varint_field_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

fn head_len(event: &EventRef<'_>) -> usize {
    varint_field_len(event.offset.0)
        + 2
        + if event.commit_lsn.0 == 0 { 0 } else { 9 }
        + varint_field_len(event.ordinal.into())
        + if event.xid == 0 { 0 } else { 5 }
        + if event.commit_time.0 == 0 { 0 } else { 9 }
        + varint_field_len(event.epoch.0.into())
        + if event.last_in_unit { 2 } else { 0 }
        + if event.schema.is_some() { 18 } else { 0 }
}

fn put_head(out: &mut Vec<u8>, event: &EventRef<'_>) {
    put_varint_field(out, OFFSET, event.offset.0);
    out.put_u8(OPERATION);
    out.put_u8(operation(event.op) as u8);
    if event.commit_lsn.0 != 0 {
        out.put_u8(COMMIT_LSN);
        out.put_u64_le(event.commit_lsn.0);
    }
    put_varint_field(out, ORDINAL, event.ordinal.into());
    if event.xid != 0 {
        out.put_u8(XID);
        out.put_u32_le(event.xid);
    }
    if event.commit_time.0 != 0 {
        out.put_u8(COMMIT_TIME_US);
        out.put_i64_le(event.commit_time.0);
    }
    put_varint_field(out, EPOCH, event.epoch.0.into());
    if event.last_in_unit {
        out.put_slice(&[LAST_IN_TRANSACTION, 1]);
    }
    if let Some(stored) = event.schema {
        out.put_slice(&[FINGERPRINT, 16]);
        out.put_slice(&stored.fingerprint.0);
    }
}

fn put_body(out: &mut Vec<u8>, body: &EventBody<'_>, lengths: &BodyLengths) {
    match body {
        EventBody::Row(change) => {
            if let Some((kind, row)) = &change.before {
                put_row(out, BEFORE, row, None, &lengths.before);
                if *kind == BeforeKind::Full {
                    out.put_slice(&[BEFORE_IS_FULL, 1]);
                }
            }
            if let Some(row) = &change.after {
                put_row(out, AFTER, row, whole_old(change), &lengths.after);
            }
        }
        EventBody::Truncate(TruncateFlags { cascade, restart_identity }) => {
            put_key_len(out, TRUNCATE, lengths.inner);
            if *cascade {
                out.put_slice(&[TRUNCATE_CASCADE, 1]);
            }
            if *restart_identity {
                out.put_slice(&[TRUNCATE_RESTART_IDENTITY, 1]);
            }
        }
        EventBody::Message(message) => {
            put_key_len(out, MESSAGE, lengths.inner);
            if message.transactional {
                out.put_slice(&[MESSAGE_TRANSACTIONAL, 1]);
            }
            for (key, value) in [(MESSAGE_PREFIX, message.prefix), (MESSAGE_CONTENT, message.content)] {
                if !value.is_empty() {
                    put_key_len(out, key, value.len());
                    out.put_slice(value);
                }
            }
        }
        EventBody::SchemaChange(_) => {
            put_key_len(out, SCHEMA_CHANGE, lengths.schema_change.len());
            out.put_slice(&lengths.schema_change);
        }
    }
}

fn put_row(out: &mut Vec<u8>, key: u8, row: &RowRef<'_>, old: Option<RowRef<'_>>, lengths: &RowLengths) {
    put_key_len(out, key, lengths.total);
    for cell in filled(row, old) {
        match cell {
            CellRef::Null => put_key_len(out, ROW_CELLS, 0),
            CellRef::Unchanged => out.put_slice(&[ROW_CELLS, 2, CELL_UNCHANGED, 1]),
            CellRef::Text(value) => put_value(out, CELL_TEXT, value),
            CellRef::Binary(value) => put_value(out, CELL_BINARY, value),
        }
    }
    if lengths.unchanged > 0 {
        put_unchanged(out, row, lengths.unchanged);
    }
}

/// A cell with a value.
#[inline]
fn put_value(out: &mut Vec<u8>, key: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        // Both lengths take a byte each.
        Ok(length @ ..126) => out.put_slice(&[ROW_CELLS, length + 2, key, length]),
        _ => {
            put_key_len(out, ROW_CELLS, delimited_len(value.len()));
            put_key_len(out, key, value.len());
        }
    }
    out.put_slice(value);
}

/// Bit `i % 8` of byte `i / 8` says that column `i` was not sent.
fn put_unchanged(out: &mut Vec<u8>, row: &RowRef<'_>, length: usize) {
    put_key_len(out, ROW_UNCHANGED, length);
    let mut cells = row.cells();
    for _ in 0..length {
        let bits = cells.by_ref().take(8).enumerate();
        out.put_u8(bits.fold(0, |byte, (bit, cell)| byte | u8::from(matches!(cell, CellRef::Unchanged)) << bit));
    }
}

#[inline]
fn put_key_len(out: &mut Vec<u8>, key: u8, length: usize) {
    match u8::try_from(length) {
        Ok(length @ ..128) => out.put_slice(&[key, length]),
        _ => {
            out.put_u8(key);
            encode_varint(length as u64, out);
        }
    }
}

#[inline]
fn put_varint_field(out: &mut Vec<u8>, key: u8, value: u64) {
    if value != 0 {
        out.put_u8(key);
        encode_varint(value, out);
    }
}

#[cfg(test)]
mod tests;
