//! The chunk: a run of events, the unit of storage, of caching and of fan-out.
//!
//! A chunk holds either only whole units, or a fragment of one unit that is too large for a chunk of its own. So
//! whatever is invisible is whole chunks, and the visible watermark always lies on a chunk's border.
//!
//! `builder` puts chunks together; `frame`, `index` and `columns` turn them into bytes and back, `codec` makes those fewer,
//! `framer` says who does it. What a chunk says to readers is here; where chunks are kept is the business of `store` and of the tail ring.

mod builder;
mod codec;
mod columns;
mod frame;
mod framer;
mod hex;
mod index;
#[cfg(test)]
mod tests;
mod varint;

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use dbstreamd_model::{Epoch, Lsn, Offset, Op, StreamId, Timestamp};

pub(crate) use builder::{Builder, Parts};
pub(crate) use frame::{ChunkHeader, FrameError, Scratch, decode, encode, peek};
pub(crate) use framer::{Framed, Framer};

use crate::schemas::StoredSchema;
use crate::store::ChunkKey;

/// A run of events of one stream.
pub struct Chunk {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) first_offset: Offset,
    /// End of the newest unit that ended in or before this chunk.
    pub(crate) lsn_end: Lsn,
    /// Running maximum of the commit times of the units that ended in or before this chunk.
    pub(crate) commit_time_max: Timestamp,
    pub(crate) events: Vec<EventEntry>,
    pub(crate) units: Vec<UnitSpan>,
    pub(crate) schemas: Vec<StoredSchema>,
    /// What precedes the bodies in `bytes`: a chunk read from disk keeps the buffer it was decompressed into.
    pub(crate) body_start: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) encoded: OnceLock<Counted>,
    /// Where the memory of `encoded` is counted, for a chunk in the tail ring.
    pub(crate) encoded_bytes: Option<Arc<AtomicUsize>>,
    /// When readers could first find it; none for a chunk read from disk.
    pub(crate) visible_at: Option<Instant>,
}

/// One event's place in its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventEntry {
    /// Where its body ends, counted from the first body; it starts where the one before ends.
    pub(crate) body_end: u32,
    /// 1 + place in the chunk's schemas; 0 for none.
    pub(crate) schema: u16,
    pub(crate) op: Op,
}

/// One unit's part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitSpan {
    pub(crate) commit_lsn: Lsn,
    /// `Lsn::ZERO` while the unit's end is in a later chunk.
    pub(crate) end_lsn: Lsn,
    pub(crate) commit_time: Timestamp,
    /// Of the whole unit; zero while its end is in a later chunk.
    pub(crate) hash: u64,
    pub(crate) xid: u32,
    /// The unit's ordinal of its first event here; above zero in a later fragment.
    pub(crate) first_ordinal: u32,
    /// Place of its first event in the chunk.
    pub(crate) first_event: u32,
    /// How many of its events are here.
    pub(crate) events: u32,
    pub(crate) finished: bool,
}

/// A chunk's events in some outer encoding, made once and shared by all who hold the chunk.
#[derive(Debug, Clone)]
pub struct EncodedRun {
    /// The encoded events, one after the other.
    pub bytes: Bytes,
    /// Where event `i` ends in `bytes`.
    pub ends: Vec<u32>,
}

/// An encoding whose memory is counted for as long as it lives.
pub(crate) struct Counted {
    run: EncodedRun,
    total: Option<Arc<AtomicUsize>>,
}

impl Counted {
    fn new(run: EncodedRun, total: Option<Arc<AtomicUsize>>) -> Self {
        if let Some(total) = &total {
            total.fetch_add(run.memory(), Relaxed);
        }
        Self { run, total }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(total) = &self.total {
            total.fetch_sub(self.run.memory(), Relaxed);
        }
    }
}

impl EncodedRun {
    fn memory(&self) -> usize {
        self.bytes.len() + self.ends.capacity() * size_of::<u32>()
    }
}

/// One event, read in place.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Its place in the stream.
    pub offset: Offset,
    /// What happened.
    pub op: Op,
    /// The schema version of its rows; none for messages.
    pub schema: Option<&'a StoredSchema>,
    /// Its body, in the layout of `dbstreamd_model::EventBody`.
    pub body: &'a [u8],
    /// Its place in its unit, from 0.
    pub ordinal: u32,
    /// Whether its unit ends with it.
    pub last_in_unit: bool,
    /// The stream's epoch.
    pub epoch: Epoch,
    /// Where the unit's commit record starts.
    pub commit_lsn: Lsn,
    /// The unit's transaction id; 0 for a non-transactional message.
    pub xid: u32,
    /// The unit's commit time.
    pub commit_time: Timestamp,
}

/// Some events of a chunk.
#[derive(Clone, Debug)]
pub struct ChunkSlice {
    /// The chunk.
    pub chunk: Arc<Chunk>,
    /// Which of its events.
    pub range: Range<usize>,
}

impl ChunkSlice {
    /// Leaves out what lies before `next`.
    pub fn skip_to(&mut self, next: Offset) {
        let left_out = usize::try_from(next.events_since(self.chunk.first_offset())).unwrap_or(usize::MAX);
        self.range.start = left_out.clamp(self.range.start, self.range.end);
    }

    /// The events.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.chunk.events(self.range.clone())
    }
}

impl Chunk {
    /// How many events it holds; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a chunk is never empty")]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Offset of its first event.
    pub fn first_offset(&self) -> Offset {
        self.first_offset
    }

    /// Offset of its last event.
    pub fn last_offset(&self) -> Offset {
        Offset(self.first_offset.0.saturating_add(self.len() as u64).saturating_sub(1))
    }

    /// Where it is stored.
    pub(crate) fn key(&self) -> ChunkKey {
        ChunkKey { stream: self.stream, epoch: self.epoch, last_offset: self.last_offset() }
    }

    /// The epoch of all its events.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The schema versions its events use.
    pub fn schemas(&self) -> &[StoredSchema] {
        &self.schemas
    }

    /// The event at this place.
    pub fn event(&self, index: usize) -> Option<EventRef<'_>> {
        self.events(index..index.saturating_add(1)).next()
    }

    /// The events at these places, in order; places past the end are left out.
    pub fn events(&self, range: Range<usize>) -> Events<'_> {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        // Units lie one after the other, so the first wanted one is found by halving and the rest by walking.
        let first_unit = self.units.partition_point(|unit| unit.first_event as usize <= start).saturating_sub(1);
        let body_start = start.checked_sub(1).and_then(|i| self.events.get(i)).map_or(0, |e| e.body_end as usize);
        Events { chunk: self, units: self.units.get(first_unit..).unwrap_or_default(), next: start, end, body_start }
    }

    /// The chunk in an outer encoding: `make` runs at most once per chunk, whoever asks first.
    pub fn encoded(&self, make: impl FnOnce(&Self) -> EncodedRun) -> &EncodedRun {
        &self.encoded.get_or_init(|| Counted::new(make(self), self.encoded_bytes.clone())).run
    }

    /// When readers could first find it, for a chunk from the tail ring; none for one read from disk.
    pub fn visible_at(&self) -> Option<Instant> {
        self.visible_at
    }

    /// Whether its last unit ends in it, so that it can be made visible.
    pub(crate) fn finished(&self) -> bool {
        self.units.last().is_some_and(|unit| unit.finished)
    }

    /// All bodies, one after the other.
    pub(crate) fn bodies(&self) -> &[u8] {
        self.bytes.get(self.body_start..).unwrap_or_default()
    }

    /// How long the bodies of all its events are together.
    pub fn body_bytes(&self) -> usize {
        self.bodies().len()
    }

    /// Memory it takes, without what `encoded` adds.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.bytes.capacity()
            + self.events.capacity() * size_of::<EventEntry>()
            + self.units.capacity() * size_of::<UnitSpan>()
            + self.schemas.capacity() * size_of::<StoredSchema>()
    }
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunk")
            .field("stream", &self.stream)
            .field("first_offset", &self.first_offset)
            .field("events", &self.len())
            .finish_non_exhaustive()
    }
}

/// Iterator over events of a chunk.
#[derive(Debug)]
pub struct Events<'a> {
    chunk: &'a Chunk,
    /// From the unit of the next event on.
    units: &'a [UnitSpan],
    next: usize,
    end: usize,
    body_start: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        if self.next >= self.end {
            return None;
        }
        let entry = self.chunk.events.get(self.next)?;
        let mut unit = self.units.first()?;
        let place = u32::try_from(self.next).ok()?;
        if place >= unit.first_event + unit.events {
            self.units = self.units.get(1..)?;
            unit = self.units.first()?;
        }
        let within = place.checked_sub(unit.first_event)?;
        let body_end = entry.body_end as usize;
        let event = EventRef {
            offset: self.chunk.first_offset.advance(self.next as u64),
            op: entry.op,
            schema: usize::from(entry.schema).checked_sub(1).and_then(|i| self.chunk.schemas.get(i)),
            body: self.chunk.bodies().get(self.body_start..body_end)?,
            ordinal: unit.first_ordinal.saturating_add(within),
            last_in_unit: unit.finished && within + 1 == unit.events,
            epoch: self.chunk.epoch,
            commit_lsn: unit.commit_lsn,
            xid: unit.xid,
            commit_time: unit.commit_time,
        };
        self.body_start = body_end;
        self.next += 1;
        Some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Events<'_> {}
