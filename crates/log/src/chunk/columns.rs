//! Bodies column by column, as they are before they are compressed: a row's cells resemble those above and below them, not
//! those beside them.
//!
//! All values of a column lie one after the other, and what is not a value (markers, counts, lengths) lies apart, in the
//! *heads*. A compressor then passes quickly over what does not repeat and finds the rest near at hand: it takes a fifth to
//! a half less time, and leaves up to a third less. Layout in docs/format.md, "Columns".

use std::ops::RangeInclusive;

use dbstreamd_model::CellRef;

use super::Chunk;
use super::hex::Pattern;
use super::varint::{put, take};

/// Bodies of this size are put into columns. In less there is little to find, and two blocks cost more than one; more is
/// one huge event, for which there would have to be as much memory again.
pub(super) const BODY_BYTES: RangeInclusive<usize> = 4 * 1024..=1024 * 1024;
/// A chunk with more columns is of so many tables that none of them has many rows.
const COLUMNS_MAX: usize = 4096;

/// The column of bodies that are not rows.
const NOT_ROWS: usize = 0;
/// The code of a body that is not rows; its length follows.
const CODE_NOT_ROWS: u64 = 0;
/// What stands before a row in a body. A row's code is one more than its marker's place here, and as many more for each
/// group before its own.
const MARKERS: [u8; 3] = *b"KON";

/// The code of a null.
const CODE_NULL: u64 = 0;
/// The code of a TOASTed value that was not sent.
const CODE_UNCHANGED: u64 = 1;
/// The code of a value in binary form; its length follows.
const CODE_BINARY: u64 = 2;
/// The code of an empty text; a longer one's is as much larger.
const CODE_TEXT: u64 = 3;

/// A shorter value is copied as if it were so long, with fewer instructions than its length would take to look at; what was
/// too much is written over by what comes next.
const SHORT_BYTES: usize = 16;
/// Room for values that a column begins with.
const COLUMN_BYTES: usize = 4 * SHORT_BYTES;

/// Working memory of [`Columns::split`].
#[derive(Default)]
pub(super) struct Columns {
    heads: Vec<u8>,
    columns: Vec<Values>,
    /// How many of `columns` are in use.
    count: usize,
    /// By place of the schema in the chunk, 0 for rows without one.
    groups: Vec<Option<Group>>,
    groups_count: usize,
    pattern: Pattern,
    /// Patterns of the columns that were packed.
    patterns: Vec<u8>,
}

/// A chunk's bodies, put apart.
#[derive(Default)]
pub(super) struct Apart {
    /// What is not a value; behind what is here before.
    pub(super) heads: Vec<u8>,
    pub(super) values: Vec<u8>,
    /// Values in hexadecimal digits, packed.
    pub(super) packed: Vec<u8>,
}

/// Rows that share their columns: those of one schema, old ones and new ones alike.
#[derive(Clone, Copy)]
struct Group {
    number: usize,
    first_column: usize,
    columns: u16,
}

impl Columns {
    /// Appends the chunk's bodies to `apart`. None when they cannot be put into columns, being not what their
    /// operations say, or of too many tables; then nothing is appended.
    pub(super) fn split(&mut self, chunk: &Chunk, apart: &mut Apart) -> Option<()> {
        self.fill(chunk)?;
        let columns = self.columns.get(..self.count)?;
        let Apart { heads, values, packed } = apart;
        put(heads, columns.len() as u64);
        columns.iter().for_each(|column| put(heads, column.end as u64));
        self.patterns.clear();
        let mut patterns_count = 0_u64;
        for (place, column) in columns.iter().enumerate() {
            let bytes = column.bytes.get(..column.end)?;
            if place != NOT_ROWS && self.pattern.guess(bytes, column.count) && self.pattern.pack(bytes, packed) {
                patterns_count += 1;
                put(&mut self.patterns, place as u64);
                put(&mut self.patterns, self.pattern.bytes().len() as u64);
                self.patterns.extend_from_slice(self.pattern.bytes());
            } else {
                values.extend_from_slice(bytes);
            }
        }
        if patterns_count > 0 {
            put(heads, patterns_count);
            heads.extend_from_slice(&self.patterns);
        }
        heads.extend_from_slice(&self.heads);
        Some(())
    }

    /// Gives back all memory if it is more than `kept_max` bytes.
    pub(super) fn shrink_to(&mut self, kept_max: usize) {
        let columns: usize = self.columns.iter().map(|column| size_of::<Values>() + column.bytes.capacity()).sum();
        if self.heads.capacity() + self.patterns.capacity() + columns > kept_max {
            *self = Self::default();
        }
    }

    /// Puts the bodies into `heads` and `columns`.
    fn fill(&mut self, chunk: &Chunk) -> Option<()> {
        self.heads.clear();
        self.count = 0;
        self.use_columns(1);
        self.groups.clear();
        self.groups.resize(chunk.schemas.len() + 1, None);
        self.groups_count = 0;

        let mut rest = chunk.bodies();
        let mut start = 0;
        for event in &chunk.events {
            let bytes = (event.body_end - start) as usize;
            start = event.body_end;
            let after = rest.len().checked_sub(bytes)?;
            if event.op.is_row() {
                self.rows(&mut rest, after, usize::from(event.schema))?;
            } else {
                put(&mut self.heads, CODE_NOT_ROWS);
                put(&mut self.heads, bytes as u64);
                self.columns.get_mut(NOT_ROWS)?.push(rest, bytes)?;
                rest = rest.get(bytes..)?;
            }
        }
        Some(())
    }

    /// The rows of the body at the front of `input`, of which `after` bytes follow the body.
    fn rows(&mut self, input: &mut &[u8], after: usize, schema: usize) -> Option<()> {
        while input.len() > after {
            let (&[marker, high, low], mut rest) = input.split_first_chunk()?;
            let marker = MARKERS.iter().position(|known| *known == marker)?;
            let group = self.group(schema, u16::from_be_bytes([high, low]), marker)?;
            let columns = self.columns.get_mut(group.first_column..group.first_column + usize::from(group.columns))?;
            for column in columns {
                let (&state, cell) = rest.split_first()?;
                if let (b't', Some((length, text))) = (state, cell.split_first_chunk()) {
                    let length = u32::from_be_bytes(*length) as usize;
                    put(&mut self.heads, CODE_TEXT + length as u64);
                    column.push(text, length)?;
                    rest = text.get(length..)?;
                } else {
                    match CellRef::parse(&mut rest).ok()? {
                        CellRef::Null => put(&mut self.heads, CODE_NULL),
                        CellRef::Unchanged => put(&mut self.heads, CODE_UNCHANGED),
                        CellRef::Text(_) => return None,
                        CellRef::Binary(binary) => {
                            put(&mut self.heads, CODE_BINARY);
                            put(&mut self.heads, binary.len() as u64);
                            column.push(binary, binary.len())?;
                        }
                    }
                }
            }
            *input = rest;
        }
        (input.len() == after).then_some(())
    }

    /// The group of a schema's rows, which must all have as many columns. Writes the code of one of its rows.
    #[inline]
    fn group(&mut self, schema: usize, columns: u16, marker: usize) -> Option<Group> {
        let (known, code) = (self.groups.get(schema).copied()?, |number| (1 + marker + MARKERS.len() * number) as u64);
        if let Some(group) = known {
            put(&mut self.heads, code(group.number));
            return (group.columns == columns).then_some(group);
        }
        let group = Group { number: self.groups_count, first_column: self.count, columns };
        put(&mut self.heads, code(group.number));
        put(&mut self.heads, u64::from(columns));
        *self.groups.get_mut(schema)? = Some(group);
        self.groups_count += 1;
        self.use_columns(usize::from(columns));
        (self.count <= COLUMNS_MAX).then_some(group)
    }

    /// Begins so many columns.
    fn use_columns(&mut self, more: usize) {
        let count = self.count + more;
        if self.columns.len() < count {
            self.columns.resize_with(count, Values::default);
        }
        self.columns.iter_mut().take(count).skip(self.count).for_each(Values::clear);
        self.count = count;
    }
}

/// The values of a column, one after the other.
#[derive(Default)]
struct Values {
    /// Longer than they are: what is behind `end` means nothing.
    bytes: Vec<u8>,
    end: usize,
    count: usize,
}

impl Values {
    fn clear(&mut self) {
        (self.end, self.count) = (0, 0);
    }

    /// Appends the first `length` bytes of `from`; none if there are not so many.
    #[inline]
    fn push(&mut self, from: &[u8], length: usize) -> Option<()> {
        if length <= SHORT_BYTES
            && let Some(short) = from.first_chunk::<SHORT_BYTES>()
            && let Some(to) = self.bytes.get_mut(self.end..).and_then(|bytes| bytes.first_chunk_mut())
        {
            *to = *short;
        } else {
            self.push_any(from.get(..length)?)?;
        }
        self.end += length;
        self.count += 1;
        Some(())
    }

    #[inline(never)]
    fn push_any(&mut self, value: &[u8]) -> Option<()> {
        let end = self.end + value.len();
        if self.bytes.len() < end + SHORT_BYTES {
            self.bytes.resize((end + COLUMN_BYTES).next_power_of_two(), 0);
        }
        self.bytes.get_mut(self.end..end)?.copy_from_slice(value);
        Some(())
    }
}

/// The bodies that [`Columns::split`] put apart, exactly `body_bytes` long; none if heads and values are not that.
pub(super) fn join(mut heads: &[u8], values: &[u8], packed: &[u8], body_bytes: usize) -> Option<Vec<u8>> {
    let input = &mut heads;
    let directory = Directory::take(input, !packed.is_empty(), body_bytes)?;
    let unpacked = directory.unpack(packed)?;
    let mut columns = directory.columns(values, &unpacked)?;
    let mut groups: Vec<Group> = Vec::new();
    let mut columns_seen = NOT_ROWS + 1;
    let mut bodies = Bodies { bytes: vec![0; body_bytes.checked_add(SHORT_BYTES)?], end: 0 };
    while !input.is_empty() {
        let code = take_usize(input)?;
        let Some(row) = code.checked_sub(1) else {
            let bytes = take_usize(input)?;
            bodies.value(columns.get_mut(NOT_ROWS)?, bytes)?;
            continue;
        };
        let (marker, number) = (MARKERS.get(row % MARKERS.len())?, row / MARKERS.len());
        if number == groups.len() {
            let group = Group { number, first_column: columns_seen, columns: u16::try_from(take(input)?).ok()? };
            columns_seen += usize::from(group.columns);
            groups.push(group);
        }
        let group = groups.get(number)?;
        let [high, low] = group.columns.to_be_bytes();
        bodies.put([*marker, high, low])?;
        let columns = columns.get_mut(group.first_column..group.first_column + usize::from(group.columns))?;
        for column in columns {
            let code = take(input)?;
            let (state, bytes) = match code {
                CODE_NULL => {
                    bodies.put([b'n'])?;
                    continue;
                }
                CODE_UNCHANGED => {
                    bodies.put([b'u'])?;
                    continue;
                }
                CODE_BINARY => (b'b', take(input)?),
                text => (b't', text - CODE_TEXT),
            };
            let bytes = u32::try_from(bytes).ok()?;
            let [b0, b1, b2, b3] = bytes.to_be_bytes();
            bodies.put([state, b0, b1, b2, b3])?;
            bodies.value(column, bytes as usize)?;
        }
    }
    let all_taken = columns.iter().all(|column| column.is_empty());
    (all_taken && bodies.end == body_bytes).then(|| {
        bodies.bytes.truncate(body_bytes);
        bodies.bytes
    })
}

/// Bodies in the making.
struct Bodies {
    bytes: Vec<u8>,
    end: usize,
}

impl Bodies {
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(self.end..)?.first_chunk_mut()? = bytes;
        self.end += N;
        Some(())
    }

    /// Appends the next value, of `bytes` bytes, of a column of which `column` is what was not taken yet.
    #[inline]
    fn value(&mut self, column: &mut &[u8], bytes: usize) -> Option<()> {
        if bytes <= SHORT_BYTES
            && let Some(from) = column.first_chunk::<SHORT_BYTES>()
            && let Some(to) = self.bytes.get_mut(self.end..).and_then(|bytes| bytes.first_chunk_mut())
        {
            *to = *from;
            *column = column.get(bytes..)?;
        } else {
            let from = column.split_off(..bytes)?;
            self.bytes.get_mut(self.end..self.end.checked_add(bytes)?)?.copy_from_slice(from);
        }
        self.end += bytes;
        Some(())
    }
}

/// How many bytes each column's values take, and what those that were packed are like.
struct Directory {
    bytes: Vec<usize>,
    /// By place of the column, ascending.
    patterns: Vec<(usize, Pattern)>,
}

impl Directory {
    /// From the front of the heads. All columns together are no longer than the bodies.
    fn take(input: &mut &[u8], with_patterns: bool, body_bytes: usize) -> Option<Self> {
        let count = take_usize(input)?;
        if count > input.len() {
            return None;
        }
        let bytes = (0..count).map(|_| take_usize(input)).collect::<Option<Vec<_>>>()?;
        let all = bytes.iter().try_fold(0_usize, |sum, bytes| sum.checked_add(*bytes))?;
        let mut patterns: Vec<(usize, Pattern)> = Vec::new();
        for _ in 0..if with_patterns { take_usize(input)? } else { 0 } {
            let (place, length) = (take_usize(input)?, take_usize(input)?);
            if patterns.last().is_some_and(|(before, _)| *before >= place) {
                return None;
            }
            patterns.push((place, Pattern::read(input.split_off(..length)?)?));
        }
        (all <= body_bytes).then_some(Self { bytes, patterns })
    }

    /// All packed columns' values, one column after the other.
    fn unpack(&self, mut packed: &[u8]) -> Option<Vec<u8>> {
        let mut unpacked = Vec::new();
        for (place, pattern) in &self.patterns {
            let bytes = *self.bytes.get(*place)?;
            pattern.unpack(packed.split_off(..pattern.packed_bytes(bytes)?)?, bytes, &mut unpacked)?;
        }
        packed.is_empty().then_some(unpacked)
    }

    /// Each column's values, which together must take up all of both.
    fn columns<'a>(&self, mut values: &'a [u8], mut unpacked: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let mut patterns = self.patterns.iter().map(|(place, _)| *place).peekable();
        let columns = self.bytes.iter().enumerate().map(|(place, bytes)| {
            let from = if patterns.next_if_eq(&place).is_some() { &mut unpacked } else { &mut values };
            from.split_off(..*bytes)
        });
        let columns = columns.collect::<Option<Vec<_>>>()?;
        (values.is_empty() && unpacked.is_empty()).then_some(columns)
    }
}

#[inline]
fn take_usize(input: &mut &[u8]) -> Option<usize> {
    usize::try_from(take(input)?).ok()
}
