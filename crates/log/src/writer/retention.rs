//! Retention: the oldest partition of a class goes, whole, once it is too old, and the oldest of all while they are too
//! large together.
//!
//! First the trim points are made durable, together with a mark that the partition is being dropped; then its files
//! go. A crash between the two is finished at the next start. Nothing is rewritten and nothing stalls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbstreamd_model::{Notice, Severity};

use super::partitions::{Class, age};
use super::{Slot, Writer};
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::read;
use crate::store::{Batch, MetaKey, PartitionSeq, Trim};
use crate::stream::Stream;

impl Writer {
    /// Removes what retention does not keep.
    pub(super) fn retain(&mut self) -> Result<(), LogError> {
        self.retained = Instant::now();
        self.close_aged()?;
        let (mut held, mut waiting) = (None, BTreeSet::new());
        while let Some((seq, class)) = self.expired(&waiting, held.is_none()) {
            let why = if self.is_held(seq) {
                "a consumer holds the oldest history; dbstreamd consumers shows which"
            } else if !self.remove(seq)? {
                "the oldest partition holds the beginning of a transaction that has not ended"
            } else {
                continue;
            };
            held = Some(why);
            waiting.insert(class);
        }
        self.tell_held(held);
        Ok(())
    }

    /// How long a stream is kept; none for ever.
    pub(super) fn kept_for(&self, stream: &Stream) -> Option<Duration> {
        let own = *stream.retention_age.read();
        own.unwrap_or_else(|| self.shared.tunables.retention().age)
    }

    /// Says when retention has to wait, and when it goes on.
    fn tell_held(&mut self, held: Option<&'static str>) {
        if std::mem::replace(&mut self.retention_held, held) == held {
            return;
        }
        let notice = match held {
            Some(why) => {
                let text = format!("retention waits: {why}; it goes on by itself, watch the disk until then");
                Notice::new(Severity::Warning, "retention_paused", text)
            }
            None => Notice::new(Severity::Info, "retention_resumed", "retention goes on"),
        };
        self.shared.options.notices.push(notice);
    }

    /// Begins a new partition when the last one of a class is over: in a log that fell silent nothing else would.
    fn close_aged(&mut self) -> Result<(), LogError> {
        let all = self.partitions.all();
        let over: BTreeSet<_> = all
            .filter(|(seq, kept)| self.partitions.next_of(*seq).is_none() && self.is_over(kept))
            .map(|(_, kept)| kept.class)
            .collect();
        for class in over {
            let mut batch = Batch::default();
            let (_, closed) = self.active_partition(&mut batch, class, None)?;
            self.store.commit(&batch)?;
            closed.map_or(Ok(()), |closed| self.store.flush_partition(closed, false))?;
        }
        Ok(())
    }

    /// The oldest partition of a class that is not to be kept, if the class is not `waiting`. The one that is written to
    /// always is. `by_size`: nothing older has to stay, so that the oldest may go for want of room.
    fn expired(&self, waiting: &BTreeSet<Class>, by_size: bool) -> Option<(PartitionSeq, Class)> {
        let too_large =
            by_size && self.shared.tunables.retention().bytes.is_some_and(|limit| self.partitions.bytes() > limit);
        let mut seen = waiting.clone();
        for (seq, kept) in self.partitions.all() {
            // Only the oldest of each class is looked at.
            if !seen.insert(kept.class) {
                continue;
            }
            let Some(next) = self.partitions.next_of(seq) else { continue };
            if too_large || self.is_outlived(seq, age(next.created_at)) {
                return Some((seq, kept.class));
            }
        }
        None
    }

    /// Whether no stream in a partition is kept as long as it has been closed.
    fn is_outlived(&self, seq: PartitionSeq, closed_for: Duration) -> bool {
        let mut slots = self.streams.values().filter(|slot| slot.lies_in(seq));
        slots.all(|slot| self.kept_for(&slot.stream).is_some_and(|limit| closed_for >= limit))
    }

    /// Whether a consumer that still holds the log has not read all that would go with a partition.
    fn is_held(&self, seq: PartitionSeq) -> bool {
        let (limits, space_low) = (self.shared.tunables.holds(), self.shared.space_low());
        self.streams.values().filter(|slot| slot.lies_in(seq)).any(|slot| {
            let stream = &slot.stream;
            self.trim_past(slot, seq).is_some_and(|trim| {
                stream.consumers.read().values().any(|known| {
                    known.committed.offset < trim.point && stream.standing(known, space_low).state(&limits).holds()
                })
            })
        })
    }

    /// Trims all streams past a partition and drops it; false when it holds the beginning of an unfinished unit.
    fn remove(&mut self, seq: PartitionSeq) -> Result<bool, LogError> {
        let mut trims = Vec::new();
        for slot in self.streams.values().filter(|slot| slot.lies_in(seq)) {
            let Some(trim) = self.trim_past(slot, seq) else { return Ok(false) };
            trims.push((Arc::clone(&slot.stream), trim));
        }
        let mut batch = Batch::default();
        if let Some(kept) = self.partitions.get(seq) {
            self.store.put_meta(&mut batch, MetaKey::Partition(seq), &kept.dropping().encode())?;
        }
        for (stream, trim) in &trims {
            self.store.put_meta(&mut batch, MetaKey::Trim(stream.id), &trim.encode())?;
            // Also what it has in an older partition, of the class it was in before: others may keep that one.
            for (gone, _) in stream.layout.read().directory.iter().filter(|(other, _)| *other <= seq) {
                self.store.delete_meta(&mut batch, MetaKey::Directory(stream.id, *gone))?;
            }
        }
        self.store.commit(&batch)?;
        Failpoint::TrimCommitted.reach();

        for (stream, trim) in trims {
            let mut layout = stream.layout.write();
            layout.directory.retain(|(other, _)| *other > seq);
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
