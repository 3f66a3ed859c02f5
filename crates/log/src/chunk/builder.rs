//! Puts a chunk together, event by event, in bounded memory.
//!
//! It keeps whole units and the one that is open apart by a single mark, so that whole units can be taken out at any
//! time and the open one stays. When to take is the appender's decision.

use dbstreamd_model::{Lsn, Op};

use super::{EventEntry, UnitSpan};
use crate::schemas::StoredSchema;

/// What an event adds to a chunk's weight beside its body: its index entry, so that tiny bodies are bounded too.
const EVENT_WEIGHT: usize = 8;
/// What a unit adds to a chunk's weight.
const UNIT_WEIGHT: usize = 48;
/// A chunk that uses this many schema versions is full: an index entry has 16 bits for them.
const SCHEMAS_MAX: usize = 4096;

/// A buffer is never started larger than this, whatever the last chunk was.
const BUFFER_HINT_MAX: usize = 256 * 1024;

/// A chunk in the making.
#[derive(Default)]
pub(crate) struct Builder {
    parts: Parts,
    /// How much of `parts` belongs to whole units.
    whole: Mark,
    /// By schema id: place + 1 in `parts.schemas`.
    places: Vec<u16>,
}

/// What a chunk is made of.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) events: Vec<EventEntry>,
    pub(crate) units: Vec<UnitSpan>,
    pub(crate) schemas: Vec<StoredSchema>,
    pub(crate) bodies: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    events: usize,
    units: usize,
    bodies: usize,
}

impl Builder {
    /// Starts a unit; `unit.events` counts up from zero.
    pub(crate) fn begin_unit(&mut self, unit: UnitSpan) {
        let first_event = u32::try_from(self.parts.events.len()).unwrap_or(u32::MAX);
        self.parts.units.push(UnitSpan { first_event, events: 0, end_lsn: Lsn::ZERO, finished: false, ..unit });
    }

    /// Adds an event to the open unit.
    #[inline]
    pub(crate) fn push(&mut self, op: Op, schema: Option<&StoredSchema>, body: &[u8]) {
        let schema = schema.map_or(0, |schema| self.place(schema));
        self.parts.bodies.extend_from_slice(body);
        // The appender cuts far below 4 GiB: at 128 KiB, or after one event of at most 1 GiB.
        let body_end = u32::try_from(self.parts.bodies.len()).unwrap_or(u32::MAX);
        self.parts.events.push(EventEntry { body_end, schema, op });
        if let Some(unit) = self.parts.units.last_mut() {
            unit.events += 1;
        }
    }

    /// Ends the open unit.
    pub(crate) fn end_unit(&mut self, end_lsn: Lsn, hash: u64) {
        if let Some(unit) = self.parts.units.last_mut() {
            (unit.end_lsn, unit.hash, unit.finished) = (end_lsn, hash, true);
        }
        self.whole = self.parts.mark();
    }

    /// Bytes it stands for in memory.
    #[inline]
    pub(crate) fn weight(&self) -> usize {
        self.parts.mark().weight()
    }

    /// Bytes of the bodies of the open unit.
    pub(crate) fn open_body_bytes(&self) -> usize {
        self.parts.bodies.len() - self.whole.bodies
    }

    /// Whether it holds a whole unit.
    pub(crate) fn has_whole_units(&self) -> bool {
        self.whole.units > 0
    }

    /// Whether an event would belong to no unit: the next one must be begun first.
    #[inline]
    pub(crate) fn needs_unit(&self) -> bool {
        self.parts.units.last().is_none_or(|unit| unit.finished)
    }

    /// How many events it holds.
    pub(crate) fn len(&self) -> u64 {
        self.parts.events.len() as u64
    }

    /// Whether it holds nothing at all.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.events.is_empty()
    }

    /// Whether the index has no room for another schema.
    #[inline]
    pub(crate) fn schemas_full(&self) -> bool {
        self.parts.schemas.len() >= SCHEMAS_MAX
    }

    /// Takes out all whole units; the open one stays.
    pub(crate) fn take_whole(&mut self) -> Parts {
        let mark = std::mem::take(&mut self.whole);
        let mut whole = std::mem::take(&mut self.parts);
        self.start_buffer(mark);
        if mark.events < whole.events.len() {
            move_tail(&mut whole.events, mark.events, &mut self.parts.events);
            move_tail(&mut whole.bodies, mark.bodies, &mut self.parts.bodies);
            move_tail(&mut whole.units, mark.units, &mut self.parts.units);
            // The open unit's events point into the same list of schemas.
            self.parts.schemas.clone_from(&whole.schemas);
            let moved = u32::try_from(mark.bodies).unwrap_or(u32::MAX);
            self.parts.events.iter_mut().for_each(|event| event.body_end -= moved);
            self.parts.units.iter_mut().for_each(|unit| unit.first_event = 0);
        } else {
            self.places.clear();
        }
        whole.trim();
        whole
    }

    /// Takes out everything: a fragment of the open unit. The caller begins the unit again for the rest.
    pub(crate) fn take_all(&mut self) -> Parts {
        self.whole = Mark::default();
        self.places.clear();
        let mut all = std::mem::take(&mut self.parts);
        self.start_buffer(all.mark());
        all.trim();
        all
    }

    /// Takes out a fragment of the open unit, all but its last event: when the unit then ends, there is an event left
    /// to carry its end. None when there is only one.
    pub(crate) fn take_all_but_last(&mut self) -> Option<Parts> {
        let cut = self.parts.events.len().checked_sub(1)?;
        let body_end = self.parts.events.get(cut.checked_sub(1)?)?.body_end;
        let mut taken = std::mem::take(&mut self.parts);
        self.whole = Mark::default();
        self.parts.events = taken.events.split_off(cut);
        self.parts.bodies = taken.bodies.split_off(body_end as usize);
        self.parts.events.iter_mut().for_each(|event| event.body_end -= body_end);
        self.parts.schemas.clone_from(&taken.schemas);
        let unit = taken.units.last_mut()?;
        unit.events -= 1;
        let first_ordinal = unit.first_ordinal.saturating_add(unit.events);
        self.parts.units.push(UnitSpan { first_ordinal, first_event: 0, events: 1, ..*unit });
        taken.trim();
        Some(taken)
    }

    /// Starts with about as much room as the last chunk took: so a busy stream does not grow its buffers again and again,
    /// and a quiet one does not hold 128 KiB.
    fn start_buffer(&mut self, taken: Mark) {
        // With an eighth to spare: chunks that are about as long as each other are never grown, which would be a copy.
        let (bodies, events) = (taken.bodies + taken.bodies / 8, taken.events + taken.events / 8);
        self.parts.bodies.reserve(bodies.min(BUFFER_HINT_MAX));
        self.parts.events.reserve(events.min(BUFFER_HINT_MAX / EVENT_WEIGHT));
        self.parts.units.reserve(taken.units.min(BUFFER_HINT_MAX / UNIT_WEIGHT));
    }

    #[inline]
    fn place(&mut self, schema: &StoredSchema) -> u16 {
        let id = schema.id.0 as usize;
        if let Some(&place) = self.places.get(id)
            && place != 0
        {
            return place;
        }
        if self.places.len() <= id {
            self.places.resize(id + 1, 0);
        }
        self.parts.schemas.push(schema.clone());
        let place = u16::try_from(self.parts.schemas.len()).unwrap_or(u16::MAX);
        if let Some(slot) = self.places.get_mut(id) {
            *slot = place;
        }
        place
    }
}

/// Moves what is behind `start`; `split_off` would leave a list without room for more.
fn move_tail<T: Copy>(from: &mut Vec<T>, start: usize, to: &mut Vec<T>) {
    to.extend_from_slice(from.get(start..).unwrap_or_default());
    from.truncate(start);
}

impl Parts {
    fn mark(&self) -> Mark {
        Mark { events: self.events.len(), units: self.units.len(), bodies: self.bodies.len() }
    }

    /// Gives back memory that growing left over: the chunk may stay in the tail ring for long.
    fn trim(&mut self) {
        if self.bodies.len() < self.bodies.capacity() / 4 * 3 {
            self.bodies.shrink_to_fit();
        }
        if self.events.len() < self.events.capacity() / 4 * 3 {
            self.events.shrink_to_fit();
        }
        if self.units.len() < self.units.capacity() / 4 * 3 {
            self.units.shrink_to_fit();
        }
    }
}

impl Mark {
    fn weight(self) -> usize {
        self.bodies + self.events * EVENT_WEIGHT + self.units * UNIT_WEIGHT
    }
}
