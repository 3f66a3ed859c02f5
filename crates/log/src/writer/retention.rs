//! Retention: the oldest partition goes, whole, once it is too old or all of them are too large.
//!
//! First the trim points are made durable, together with a mark that the partition is being dropped; then its files
//! go. A crash between the two is finished at the next start. Nothing is rewritten and nothing stalls.

use std::sync::Arc;
use std::time::Instant;

use dbstreamd_model::Offset;

use super::partitions::age;
use super::{Slot, Writer};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::read;
use crate::store::{Batch, MetaKey, Partition, PartitionSeq, Trim};

impl Writer {
    /// Removes what retention does not keep.
    pub(super) fn retain(&mut self) -> Result<(), LogError> {
        self.retained = Instant::now();
        self.close_aged()?;
        while let Some(seq) = self.expired() {
            if self.is_held(seq) || !self.remove(seq)? {
                break;
            }
        }
        Ok(())
    }

    /// Begins a new partition when the last one is over: in a log that fell silent nothing else would.
    fn close_aged(&mut self) -> Result<(), LogError> {
        if !self.partitions.active().is_some_and(|(_, kept)| self.is_over(&kept)) {
            return Ok(());
        }
        let mut batch = Batch::default();
        let (_, closed) = self.active_partition(&mut batch)?;
        self.store.commit(&batch)?;
        closed.map_or(Ok(()), |closed| self.store.flush_partition(closed, false))
    }

    /// The oldest partition, when it is not to be kept. The one that is written to always is.
    fn expired(&self) -> Option<PartitionSeq> {
        let retention = &self.shared.options.retention;
        let mut all = self.partitions.all();
        let ((oldest, _), (_, next)) = (all.next()?, all.next()?);
        let too_old = retention.age.is_some_and(|limit| age(next.created_at) >= limit);
        let too_large = retention.bytes.is_some_and(|limit| self.partitions.bytes() > limit);
        (too_old || too_large).then_some(oldest)
    }

    /// Whether a consumer that still holds the log has not read all that lies in a partition.
    fn is_held(&self, seq: PartitionSeq) -> bool {
        let (limits, space_low) = (&self.shared.options.holds, self.shared.space_low());
        self.streams.values().filter(|slot| slot.lies_in(seq)).any(|slot| {
            let stream = &slot.stream;
            let next =
                stream.layout.read().directory.iter().find(|(other, _)| *other > seq).map(|(_, e)| e.first_offset);
            let last = next.map_or(slot.state.visible, Offset::previous);
            stream
                .consumers
                .read()
                .values()
                .any(|known| known.committed.offset < last && stream.standing(known, space_low).state(limits).holds())
        })
    }

    /// Trims all streams past a partition and drops it; false when it holds the beginning of an unfinished unit.
    fn remove(&mut self, seq: PartitionSeq) -> Result<bool, LogError> {
        let mut trims = Vec::new();
        for slot in self.streams.values().filter(|slot| slot.lies_in(seq)) {
            let Some(trim) = self.trim_past(slot, seq) else { return Ok(false) };
            trims.push((Arc::clone(&slot.stream), trim));
        }
        let created_at = self.partitions.all().next().map(|(_, kept)| kept.created_at).unwrap_or_default();
        let mut batch = Batch::default();
        let dropping = Partition { created_at, dropping: true };
        self.store.put_meta(&mut batch, MetaKey::Partition(seq), &dropping.encode())?;
        for (stream, trim) in &trims {
            self.store.put_meta(&mut batch, MetaKey::Trim(stream.id), &trim.encode())?;
            self.store.delete_meta(&mut batch, MetaKey::Directory(stream.id, seq))?;
        }
        self.store.commit(&batch)?;
        Failpoint::TrimCommitted.reach();

        for (stream, trim) in trims {
            let mut layout = stream.layout.write();
            layout.directory.retain(|(other, _)| *other != seq);
            layout.trim = trim;
            let emptied = layout.directory.is_empty();
            drop(layout);
            stream.published.publish_trim(trim.point);
            if emptied && let Some(slot) = self.streams.get_mut(&stream.id) {
                slot.partition = None;
            }
            tracing::info!(stream = %stream.name, trim_point = %trim.point, "retention moved the trim point");
        }
        self.store.drop_partition(seq)?;
        Failpoint::PartitionDropped.reach();
        batch.clear();
        self.store.delete_meta(&mut batch, MetaKey::Partition(seq))?;
        self.store.commit(&batch)?;
        Failpoint::PartitionForgotten.reach();
        self.partitions.remove(seq);
        self.shared.metrics.partitions_dropped.inc();
        Ok(true)
    }

    /// How far a stream is trimmed when `seq` goes: to the end of what lies in it, and to the end of the unit that
    /// goes on in the next partition, since nobody may start in its middle. None while that unit has no end.
    fn trim_past(&self, slot: &Slot, seq: PartitionSeq) -> Option<Trim> {
        let state = &slot.state;
        let layout = slot.stream.layout.read();
        let next = layout.directory.iter().find(|(other, _)| *other > seq).map(|(_, entry)| *entry);
        let trimmed = layout.trim;
        drop(layout);
        let Some(next) = next else {
            let all = Trim { point: state.visible, lsn: state.visible_lsn, commit_time: state.commit_time_max };
            return (state.durable == state.visible).then_some(all);
        };
        let point = next.first_offset.previous();
        let mut trim = Trim { point, lsn: next.lsn_before, commit_time: next.commit_time_before };
        if point > state.visible {
            return None;
        }
        if trimmed.point >= point {
            // A unit that lay in several partitions: its end is the trim point already, and that never moves back.
            return Some(trimmed);
        }
        while trim.point < state.visible {
            // A chunk that cannot be read is reported where it is read, and must not keep the log from writing: then
            // the trim point stays at the partition's border.
            let Ok(chunk) = read::chunk_at(&self.store, &slot.stream, trim.point.next(), state.visible) else { break };
            let Some(unit) = chunk.units.first().filter(|unit| unit.first_ordinal > 0) else { break };
            trim.point = chunk.first_offset.advance(u64::from(unit.events)).previous();
            if unit.finished {
                (trim.lsn, trim.commit_time) = (chunk.lsn_end, chunk.commit_time_max);
                break;
            }
        }
        Some(trim)
    }
}

impl Slot {
    fn lies_in(&self, seq: PartitionSeq) -> bool {
        self.stream.layout.read().directory.iter().any(|(other, _)| *other == seq)
    }
}
