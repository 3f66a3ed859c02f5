//! Walks over stored units, to recognise what a source sends again.

use std::collections::VecDeque;
use std::sync::Arc;

use dbstreamd_model::{Lsn, Offset, Timestamp};

use super::disk::chunk_at;
use super::seek::first_unit_after;
use crate::error::LogError;
use crate::shared::Shared;
use crate::stream::Stream;

/// A complete stored unit, as it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRecord {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// Its transaction id.
    pub xid: u32,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Content hash of its events, as of `UnitHasher`.
    pub hash: u64,
    /// How many events it has.
    pub events: u32,
}

impl std::fmt::Display for UnitRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { commit_lsn, end_lsn, xid, commit_time, hash, events } = self;
        let time = commit_time.0;
        write!(f, "xid {xid} at {commit_lsn} to {end_lsn}, commit time {time} µs, {events} events, hash {hash:016x}")
    }
}

/// The stored units of the newest epoch that end after a position, in order, up to what was visible when the walk began.
pub struct UnitCursor {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    after: Lsn,
    /// Where the next chunk starts; none before the first read.
    next: Option<Offset>,
    through: Offset,
    units: VecDeque<UnitRecord>,
}

impl UnitCursor {
    pub(crate) fn new(shared: Arc<Shared>, stream: Arc<Stream>, after: Lsn) -> Self {
        let through = stream.published.watermarks().visible;
        Self { shared, stream, after, next: None, through, units: VecDeque::new() }
    }

    /// The next unit; none at the end. Reads the disk: not for an async task's own thread.
    ///
    /// # Errors
    /// When a chunk cannot be read.
    #[expect(clippy::should_implement_trait, reason = "an iterator over results invites dropping the errors")]
    pub fn next(&mut self) -> Result<Option<UnitRecord>, LogError> {
        loop {
            if let Some(unit) = self.units.pop_front() {
                return Ok(Some(unit));
            }
            let store = self.shared.store()?;
            let next = match self.next {
                Some(next) => next,
                None => first_unit_after(&store, &self.stream, self.after)?,
            };
            if next > self.through {
                return Ok(None);
            }
            let chunk = chunk_at(&store, &self.stream, next, self.through)?;
            self.next = Some(chunk.last_offset().next());
            let wanted = chunk.units.iter().filter(|unit| unit.finished && unit.end_lsn > self.after);
            self.units.extend(wanted.map(|unit| UnitRecord {
                commit_lsn: unit.commit_lsn,
                end_lsn: unit.end_lsn,
                xid: unit.xid,
                commit_time: unit.commit_time,
                hash: unit.hash,
                events: unit.first_ordinal.saturating_add(unit.events),
            }));
        }
    }
}

impl std::fmt::Debug for UnitCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnitCursor")
            .field("stream", &self.stream.name)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}
