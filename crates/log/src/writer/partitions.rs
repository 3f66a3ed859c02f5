//! Which partition is written to, and when the next one begins.

use std::collections::BTreeMap;
use std::time::Duration;

use dbstreamd_model::Timestamp;

use super::Writer;
use crate::error::LogError;
use crate::failpoint::Failpoint;
use crate::store::{Batch, Loaded, MetaKey, Partition, PartitionSeq, Store};

/// All partitions; the last one is written to.
pub(super) struct Partitions {
    all: BTreeMap<PartitionSeq, Kept>,
    /// The next partition's number: also after all were dropped never one that was used before.
    next: PartitionSeq,
}

/// A partition and its size.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) created_at: Timestamp,
    pub(super) bytes: u64,
}

impl Partitions {
    pub(super) fn restored(store: &Store, loaded: &Loaded) -> Self {
        let kept =
            |seq: PartitionSeq, p: &Partition| Kept { created_at: p.created_at, bytes: store.partition_bytes(seq) };
        let all: BTreeMap<_, _> = loaded.partitions.iter().map(|(&seq, p)| (seq, kept(seq, p))).collect();
        let next = all.keys().next_back().map_or(PartitionSeq(1), |last| PartitionSeq(last.0.saturating_add(1)));
        Self { all, next }
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = (PartitionSeq, Kept)> + '_ {
        self.all.iter().map(|(&seq, &kept)| (seq, kept))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.all.values().map(|kept| kept.bytes).sum()
    }

    pub(super) fn active(&self) -> Option<(PartitionSeq, Kept)> {
        self.all().next_back()
    }

    pub(super) fn grow_active(&mut self, bytes: usize) {
        if let Some(mut active) = self.all.last_entry() {
            active.get_mut().bytes += bytes as u64;
        }
    }

    pub(super) fn remove(&mut self, seq: PartitionSeq) {
        self.all.remove(&seq);
    }
}

impl Writer {
    /// The partition to write to; begins a new one when there is none or the last one is full or old. The new one's
    /// record goes into `batch`, with the first chunk: a crash before that leaves an empty family, which is removed
    /// at the next start.
    pub(super) fn active_partition(
        &mut self,
        batch: &mut Batch,
    ) -> Result<(PartitionSeq, Option<PartitionSeq>), LogError> {
        let active = self.partitions.active();
        match active {
            Some((seq, kept)) if !self.is_over(&kept) => return Ok((seq, None)),
            _ => {}
        }
        let seq = self.partitions.next;
        self.store.create_partition(seq)?;
        Failpoint::PartitionCreated.reach();
        let partition = Partition { created_at: Timestamp::now(), dropping: false };
        self.store.put_meta(batch, MetaKey::Partition(seq), &partition.encode())?;
        self.partitions.next = PartitionSeq(seq.0.saturating_add(1));
        self.partitions.all.insert(seq, Kept { created_at: partition.created_at, bytes: 0 });
        Ok((seq, active.map(|(previous, _)| previous)))
    }

    /// Whether a partition is large or old enough to be closed. An empty one is never old.
    pub(super) fn is_over(&self, kept: &Kept) -> bool {
        let options = &self.shared.options;
        kept.bytes >= options.partition_bytes_max
            || (kept.bytes > 0 && age(kept.created_at) >= options.partition_age_max)
    }
}

/// Time since `then`; zero when the clock went back.
pub(super) fn age(then: Timestamp) -> Duration {
    let micros = Timestamp::now().0.saturating_sub(then.0);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
