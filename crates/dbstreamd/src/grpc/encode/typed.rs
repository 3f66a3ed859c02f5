//! Rows as typed values: from the log's bytes to Protobuf in one pass.
//!
//! A cell is read as its column's type (`dbstreamd_values`) and written at once, one of many parts as they are read: what
//! was written of a value that turns out wrong is taken back. How long a message becomes is known only behind it, so room
//! for its length is left in front, as much as the cell's own length needs, and what follows is moved by a byte in the few
//! cases in which that was wrong. Field numbers are those of `proto/dbstreamd/v1`.

use std::collections::HashMap;
use std::net::IpAddr;

use bytes::BufMut;
use dbstreamd_log::{EventRef, StoredSchema};
use dbstreamd_model::{BeforeKind, CellRef, EventBody, RowChange, RowRef, SchemaId};
use dbstreamd_values::{Array, Bounds, Decoder, GeometryKind, Lexeme, Part, Sign, Value, ValueError};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::{BEFORE_IS_FULL, EVENT_OVERHEAD_BYTES, RunBuilder, filled, put_head, put_unchanged, whole_old};
use crate::proto;
use crate::unreadable::{Reason, Unreadable};

const BATCH_EVENTS: u32 = 1;
const EVENT_BEFORE: u32 = 10;
const EVENT_AFTER: u32 = 12;
const ROW_VALUES: u32 = 3;

/// How the columns of each schema version that was met are read.
#[derive(Debug, Default)]
pub(crate) struct Decoders(HashMap<SchemaId, Box<[Decoder]>>);

impl Decoders {
    fn of(&mut self, stored: &StoredSchema) -> &[Decoder] {
        self.0.entry(stored.id).or_insert_with(|| stored.schema.columns.iter().map(Decoder::for_column).collect())
    }

    /// About how many parts the values of an event have, for whoever has to hold them all; seen from what separates them.
    pub(crate) fn parts_about(&mut self, event: &EventRef<'_>) -> usize {
        let Ok(EventBody::Row(change)) = EventBody::parse(event.op, event.body) else { return 0 };
        let Some(stored) = event.schema else { return 0 };
        let decoders = self.of(stored);
        let rows = change.before.iter().map(|(_, row)| row).chain(&change.after);
        rows.flat_map(|row| row.cells().zip(decoders)).map(|(cell, decoder)| separators(cell, decoder)).sum()
    }
}

/// How many bytes of a cell separate parts of it, or are taken to.
fn separators(cell: CellRef<'_>, decoder: &Decoder) -> usize {
    let CellRef::Text(text) = cell else { return 0 };
    let count = |separator| text.iter().filter(|&&byte| byte == separator).count();
    match decoder {
        // A text vector has no more than PostgreSQL's limit of 1 MB, and coordinates are no more than their text.
        Decoder::Scalar(_) => 0,
        Decoder::Array { delimiter, element } => count(*delimiter).max(separators(cell, element)),
        Decoder::Range(_) | Decoder::Multirange(_) | Decoder::Composite => count(b','),
    }
}

impl RunBuilder {
    /// As [`push`](Self::push), but rows have typed values. On an error nothing was added.
    pub(crate) fn push_typed(&mut self, event: &EventRef<'_>, decoders: &mut Decoders) -> Result<bool, Unreadable> {
        let Ok(EventBody::Row(change)) = EventBody::parse(event.op, event.body) else { return Ok(self.push(event)) };
        let Some(stored) = event.schema else { return Ok(false) };
        let start = self.bytes.len();
        self.bytes.reserve(event.body.len() + EVENT_OVERHEAD_BYTES);
        let entry = begin(&mut self.bytes, BATCH_EVENTS, event.body.len());
        put_head(&mut self.bytes, event);
        if let Err((column, reason)) = put_rows(&mut self.bytes, &change, decoders.of(stored)) {
            self.bytes.truncate(start);
            return Err(Unreadable::new(event, stored, column, reason));
        }
        end(&mut self.bytes, entry);
        let Ok(end) = u32::try_from(self.bytes.len()) else {
            self.bytes.truncate(start);
            return Ok(false);
        };
        self.ends.push(end);
        Ok(true)
    }
}

/// Which column cannot be read, and why.
type Refused = (usize, Reason);

fn put_rows(out: &mut Vec<u8>, change: &RowChange<'_>, columns: &[Decoder]) -> Result<(), Refused> {
    if let Some((kind, row)) = &change.before {
        put_row(out, EVENT_BEFORE, row, None, columns)?;
        if *kind == BeforeKind::Full {
            out.put_slice(&[BEFORE_IS_FULL, 1]);
        }
    }
    match &change.after {
        Some(row) => put_row(out, EVENT_AFTER, row, whole_old(change), columns),
        None => Ok(()),
    }
}

fn put_row(
    out: &mut Vec<u8>,
    field: u32,
    row: &RowRef<'_>,
    old: Option<RowRef<'_>>,
    columns: &[Decoder],
) -> Result<(), Refused> {
    if usize::from(row.columns()) != columns.len() {
        let reason = Reason::ColumnCount { cells: row.columns().into(), columns: columns.len() };
        return Err((columns.len(), reason));
    }
    let message = begin(out, field, row.as_bytes().len());
    if row.cells().any(|cell| cell == CellRef::Unchanged) {
        put_unchanged(out, row, columns.len().div_ceil(8));
    }
    for (place, (cell, decoder)) in filled(row, old).zip(columns).enumerate() {
        put_cell(out, cell, decoder).map_err(|error| (place, Reason::Value(error)))?;
    }
    end(out, message);
    Ok(())
}

#[inline]
fn put_cell(out: &mut Vec<u8>, cell: CellRef<'_>, decoder: &Decoder) -> Result<(), ValueError> {
    let guess = match cell {
        CellRef::Null | CellRef::Unchanged => 0,
        CellRef::Text(bytes) | CellRef::Binary(bytes) => bytes.len(),
    };
    put_value(out, ROW_VALUES, &decoder.decode(cell)?, guess)
}

/// A part of a value, or null.
#[inline]
fn put_part(out: &mut Vec<u8>, field: u32, part: Option<&Part<'_>>) -> Result<(), ValueError> {
    match part {
        None => put_value(out, field, &Value::Null, 0),
        Some(part) => part.read(|value| put_value(out, field, &value, part.text_len())),
    }
}

/// A `Value`, probably about `guess` bytes long. On an error something was written.
fn put_value(out: &mut Vec<u8>, field: u32, value: &Value<'_>, guess: usize) -> Result<(), ValueError> {
    let message = begin(out, field, guess);
    match value {
        Value::Null => {}
        Value::Unchanged => put_varint(out, 1, 1),
        Value::Boolean(value) => put_varint(out, 2, (*value).into()),
        Value::Integer(value) => put_signed(out, 3, *value),
        Value::Unsigned(value) => put_varint(out, 4, *value),
        Value::Float(value) => {
            put_key(out, 5, 5);
            out.put_f32_le(*value);
        }
        Value::Double(value) => {
            put_key(out, 6, 1);
            out.put_f64_le(*value);
        }
        Value::Numeric(text) => put_bytes(out, 7, text),
        Value::Text(text) => put_bytes(out, 8, text),
        Value::Bytes(octets) => {
            put_key(out, 9, 2);
            encode_varint(octets.len() as u64, out);
            octets.for_each_piece(|piece| out.put_slice(piece));
        }
        Value::Date(days) => put_signed(out, 10, (*days).into()),
        Value::Time(micros) => put_signed(out, 11, *micros),
        Value::TimeTz(value) => {
            let message = begin(out, 12, 0);
            put_signed_unless_zero(out, 1, value.time);
            put_signed_unless_zero(out, 2, value.utc_offset.into());
            end(out, message);
        }
        Value::Timestamp(micros) => put_signed(out, 13, *micros),
        Value::TimestampTz(micros) => put_signed(out, 14, *micros),
        Value::Infinity(sign) => {
            let infinity = match sign {
                Sign::Positive => proto::Infinity::Positive,
                Sign::Negative => proto::Infinity::Negative,
            };
            put_enumeration(out, 15, infinity.into());
        }
        Value::Interval(value) => {
            let message = begin(out, 16, 0);
            put_signed_unless_zero(out, 1, value.months.into());
            put_signed_unless_zero(out, 2, value.days.into());
            put_signed_unless_zero(out, 3, value.time);
            end(out, message);
        }
        Value::Uuid(bytes) => put_bytes(out, 17, bytes),
        Value::Json(text) => put_bytes(out, 18, text),
        Value::Array(array) => {
            let message = begin(out, 19, guess);
            put_array(out, array)?;
            end(out, message);
        }
        Value::Range(range) => put_range(out, 20, range.read()?)?,
        Value::Multirange(ranges) => {
            let message = begin(out, 21, guess);
            ranges.read(|bounds| put_range(out, 1, Some(bounds)))?;
            end(out, message);
        }
        Value::Composite(fields) => {
            let message = begin(out, 22, guess);
            fields.read(|field| {
                let value = begin(out, 1, field.map_or(0, <[u8]>::len));
                field.iter().for_each(|text| put_bytes(out, 8, text));
                end(out, value);
            })?;
            end(out, message);
        }
        Value::Label(text) => put_bytes(out, 23, text),
        Value::Bits(bits) => {
            let message = begin(out, 24, guess / 8);
            put_unless_zero(out, 1, bits.len() as u64);
            if !bits.is_empty() {
                put_key(out, 2, 2);
                let packed = bits.packed();
                encode_varint(packed.len() as u64, out);
                packed.for_each(|byte| out.put_u8(byte));
            }
            end(out, message);
        }
        Value::Network(network) => {
            let message = begin(out, 25, 0);
            match network.address {
                IpAddr::V4(address) => put_bytes(out, 1, &address.octets()),
                IpAddr::V6(address) => put_bytes(out, 1, &address.octets()),
            }
            put_unless_zero(out, 2, network.prefix.into());
            put_unless_zero(out, 3, network.cidr.into());
            end(out, message);
        }
        Value::Mac(bytes) => put_bytes(out, 26, bytes),
        Value::Mac8(bytes) => put_bytes(out, 26, bytes),
        Value::Geometry(geometry) => {
            let message = begin(out, 27, guess);
            put_enumeration(out, 1, kind(geometry.kind).into());
            let coordinates = begin(out, 2, guess);
            let open = geometry.read(|coordinate| out.put_f64_le(coordinate))?;
            end(out, coordinates);
            put_unless_zero(out, 3, open.into());
            end(out, message);
        }
        Value::Money(hundredths) => put_signed(out, 28, *hundredths),
        Value::Lsn(lsn) => {
            put_key(out, 29, 1);
            out.put_u64_le(*lsn);
        }
        Value::TextVector(vector) => {
            let message = begin(out, 30, guess);
            vector.read(|lexeme| put_lexeme(out, &lexeme))?;
            end(out, message);
        }
        Value::Xml(text) => put_bytes(out, 31, text),
        Value::Binary(bytes) => put_bytes(out, 32, bytes),
    }
    end(out, message);
    Ok(())
}

fn put_array(out: &mut Vec<u8>, array: &Array<'_>) -> Result<(), ValueError> {
    let start = out.len();
    let dimensions = array.read(|element| put_part(out, 2, element.as_ref()))?;
    let behind_elements = out.len();
    for dimension in dimensions.as_slice() {
        let message = begin(out, 1, 0);
        put_unless_zero(out, 1, dimension.length.into());
        put_signed_unless_zero(out, 2, dimension.lower_bound.into());
        end(out, message);
    }
    // They are known last and stand first.
    let length = out.len() - behind_elements;
    if let Some(array) = out.get_mut(start..) {
        array.rotate_right(length);
    }
    Ok(())
}

/// A range between these bounds, or one that contains nothing.
fn put_range(out: &mut Vec<u8>, field: u32, bounds: Option<Bounds<'_>>) -> Result<(), ValueError> {
    let message = begin(out, field, 0);
    match bounds {
        None => put_varint(out, 1, 1),
        Some(Bounds { lower, upper, lower_inclusive, upper_inclusive }) => {
            lower.iter().try_for_each(|bound| put_part(out, 2, Some(bound)))?;
            upper.iter().try_for_each(|bound| put_part(out, 3, Some(bound)))?;
            put_unless_zero(out, 4, lower_inclusive.into());
            put_unless_zero(out, 5, upper_inclusive.into());
        }
    }
    end(out, message);
    Ok(())
}

fn put_lexeme(out: &mut Vec<u8>, lexeme: &Lexeme<'_>) -> Result<(), ValueError> {
    let entry = begin(out, 1, lexeme.text.len());
    put_bytes_unless_empty(out, 1, &lexeme.text);
    lexeme.positions.read(|place| {
        let position = begin(out, 2, 0);
        put_unless_zero(out, 1, place.position.into());
        if place.weight != b'D' {
            put_bytes(out, 2, &[place.weight]);
        }
        end(out, position);
    })?;
    end(out, entry);
    Ok(())
}

const fn kind(kind: GeometryKind) -> proto::GeometryKind {
    match kind {
        GeometryKind::Point => proto::GeometryKind::Point,
        GeometryKind::Line => proto::GeometryKind::Line,
        GeometryKind::Segment => proto::GeometryKind::Segment,
        GeometryKind::Box => proto::GeometryKind::Box,
        GeometryKind::Path => proto::GeometryKind::Path,
        GeometryKind::Polygon => proto::GeometryKind::Polygon,
        GeometryKind::Circle => proto::GeometryKind::Circle,
    }
}

/// A message that was begun: where its length goes, and how much room it was given.
struct Begun {
    at: usize,
    room: usize,
}

#[inline]
fn begin(out: &mut Vec<u8>, field: u32, guess: usize) -> Begun {
    put_key(out, field, 2);
    let room = encoded_len_varint(guess as u64);
    out.put_bytes(0, room);
    Begun { at: out.len() - room, room }
}

#[inline]
fn end(out: &mut Vec<u8>, Begun { at, room }: Begun) {
    let length = out.len().saturating_sub(at + room);
    let needed = encoded_len_varint(length as u64);
    if needed != room {
        if needed > room {
            out.put_bytes(0, needed - room);
        }
        out.copy_within(at + room..at + room + length, at + needed);
        out.truncate(at + needed + length);
    }
    if let Some(mut slot) = out.get_mut(at..at + needed) {
        encode_varint(length as u64, &mut slot);
    }
}

#[inline]
fn put_key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    encode_varint((field << 3 | wire_type).into(), out);
}

#[inline]
fn put_varint(out: &mut Vec<u8>, field: u32, value: u64) {
    put_key(out, field, 0);
    encode_varint(value, out);
}

/// A member of a oneof is there even when it is 0.
#[inline]
fn put_signed(out: &mut Vec<u8>, field: u32, value: i64) {
    put_varint(out, field, (value << 1 ^ value >> 63).cast_unsigned());
}

fn put_enumeration(out: &mut Vec<u8>, field: u32, number: i32) {
    put_varint(out, field, i64::from(number).cast_unsigned());
}

/// A field of its own is absent when it is 0.
fn put_unless_zero(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, field, value);
    }
}

fn put_signed_unless_zero(out: &mut Vec<u8>, field: u32, value: i64) {
    if value != 0 {
        put_signed(out, field, value);
    }
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_key(out, field, 2);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn put_bytes_unless_empty(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes(out, field, bytes);
    }
}

#[cfg(test)]
mod tests;
