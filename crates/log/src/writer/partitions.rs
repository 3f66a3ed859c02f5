//! Which partition is written to, and when the next one begins.
//!
//! A partition is dropped whole, so that only streams that are kept about as long as each other share one: there are
//! classes of retention, and each has its own partitions. A stream only ever moves on to a newer partition, also when its
//! class changes: so its directory is in the order of partitions, and of offsets.

use std::collections::BTreeMap;
use std::time::Duration;

use dbstreamd_model::Timestamp;

use super::Writer;
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::store::{Batch, Loaded, MetaKey, Partition, PartitionSeq, Store};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Classes by the longest age, in seconds, of what is kept in them; the last one keeps longer. Few, since each that is in
/// use has a partition, and a piece of memory, of its own.
const CLASS_AGES: [u64; 7] = [MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY];
/// Into how many partitions the age of a class is cut at least: what retention by age may be late by.
const PARTITIONS_PER_AGE: u32 = 4;

/// Streams that are kept about as long as each other. 0 is nobody's: partitions from before there were classes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Class(u8);

impl Class {
    /// Of what is kept for this long; none for ever.
    pub(super) fn of(age: Option<Duration>) -> Self {
        let after =
            age.map_or(CLASS_AGES.len(), |age| CLASS_AGES.partition_point(|&limit| Duration::from_secs(limit) < age));
        Self(u8::try_from(after + 1).unwrap_or(u8::MAX))
    }

    /// A partition of this class is closed at this age, unless something else closes it sooner.
    fn partition_age_max(self) -> Duration {
        let limit = usize::from(self.0).checked_sub(1).and_then(|place| CLASS_AGES.get(place));
        limit.map_or(Duration::MAX, |&seconds| Duration::from_secs(seconds) / PARTITIONS_PER_AGE)
    }
}

/// Of how many classes streams are that are kept for these ages (none: for ever).
pub fn retention_classes(ages: impl IntoIterator<Item = Option<Duration>>) -> usize {
    ages.into_iter().map(Class::of).collect::<std::collections::BTreeSet<_>>().len()
}

/// All partitions; the last one of each class is written to.
pub(super) struct Partitions {
    all: BTreeMap<PartitionSeq, Kept>,
    /// The next partition's number: also after all were dropped never one that was used before.
    next: PartitionSeq,
}

/// A partition and its size.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) created_at: Timestamp,
    pub(super) class: Class,
    pub(super) bytes: u64,
}

impl Partitions {
    pub(super) fn restored(store: &Store, loaded: &Loaded) -> Self {
        let kept = |seq: PartitionSeq, p: &Partition| Kept {
            created_at: p.created_at,
            class: Class(p.class),
            bytes: store.partition_bytes(seq),
        };
        let all: BTreeMap<_, _> = loaded.partitions.iter().map(|(&seq, p)| (seq, kept(seq, p))).collect();
        let next = all.keys().next_back().map_or(PartitionSeq(1), |last| PartitionSeq(last.0.saturating_add(1)));
        Self { all, next }
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = (PartitionSeq, Kept)> + '_ {
        self.all.iter().map(|(&seq, &kept)| (seq, kept))
    }

    pub(super) fn get(&self, seq: PartitionSeq) -> Option<Kept> {
        self.all.get(&seq).copied()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.all.values().map(|kept| kept.bytes).sum()
    }

    /// The partition of this class that is written to.
    pub(super) fn active(&self, class: Class) -> Option<(PartitionSeq, Kept)> {
        self.all().rfind(|(_, kept)| kept.class == class)
    }

    /// What a partition's successor in its class is; none for the one that is written to. (One from before there were
    /// classes is succeeded by any.)
    pub(super) fn next_of(&self, seq: PartitionSeq) -> Option<Kept> {
        let class = self.all.get(&seq)?.class;
        let mut later = self.all.iter().filter(|(other, _)| **other > seq);
        later.find(|(_, kept)| kept.class == class || class == Class(0)).map(|(_, kept)| *kept)
    }

    pub(super) fn grow(&mut self, seq: PartitionSeq, bytes: usize) {
        if let Some(kept) = self.all.get_mut(&seq) {
            kept.bytes += bytes as u64;
        }
    }

    pub(super) fn remove(&mut self, seq: PartitionSeq) {
        self.all.remove(&seq);
    }
}

impl Writer {
    /// The partition to write to for a stream of this class that wrote to `last` before, and the one that is closed by it;
    /// begins a new one when there is none, or when the last one is full, old or behind the stream. The new one's record goes
    /// into `batch`, with the first chunk: a crash before that leaves an empty family, which is removed at the next start.
    pub(super) fn active_partition(
        &mut self,
        batch: &mut Batch,
        class: Class,
        last: Option<PartitionSeq>,
    ) -> Result<(PartitionSeq, Option<PartitionSeq>), LogError> {
        let active = self.partitions.active(class);
        match active {
            Some((seq, kept)) if !self.is_over(&kept) && last.is_none_or(|last| last <= seq) => return Ok((seq, None)),
            _ => {}
        }
        let seq = self.partitions.next;
        self.store.create_partition(seq)?;
        Failpoint::PartitionCreated.reach();
        let partition = Partition { created_at: Timestamp::now(), dropping: false, class: class.0 };
        self.store.put_meta(batch, MetaKey::Partition(seq), &partition.encode())?;
        self.partitions.next = PartitionSeq(seq.0.saturating_add(1));
        self.partitions.all.insert(seq, Kept { created_at: partition.created_at, class, bytes: 0 });
        Ok((seq, active.map(|(previous, _)| previous)))
    }

    /// Whether a partition is large or old enough to be closed. An empty one is never old.
    pub(super) fn is_over(&self, kept: &Kept) -> bool {
        let options = &self.shared.options;
        let age_max = options.partition_age_max.min(kept.class.partition_age_max());
        kept.bytes >= options.partition_bytes_max || (kept.bytes > 0 && age(kept.created_at) >= age_max)
    }
}

impl Kept {
    /// The record that says that it is being dropped.
    pub(super) fn dropping(&self) -> Partition {
        Partition { created_at: self.created_at, dropping: true, class: self.class.0 }
    }
}

/// Time since `then`; zero when the clock went back.
pub(super) fn age(then: Timestamp) -> Duration {
    let micros = Timestamp::now().0.saturating_sub(then.0);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_about_as_long_is_of_one_class() {
        let class = |seconds| Class::of(Some(Duration::from_secs(seconds))).0;
        assert_eq!([class(0), class(60), class(61), class(3600)], [1, 1, 2, 3]);
        assert_eq!([class(7 * DAY), class(30 * DAY), class(31 * DAY), Class::of(None).0], [6, 7, 8, 8]);
        assert_eq!(retention_classes([None, Some(Duration::ZERO), Some(Duration::from_secs(60))]), 2);
        assert_eq!(Class(1).partition_age_max(), Duration::from_secs(15));
        assert_eq!(Class(8).partition_age_max(), Duration::MAX);
        assert_eq!(Class(0).partition_age_max(), Duration::MAX);
    }
}
