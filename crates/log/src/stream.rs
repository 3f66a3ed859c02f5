//! What the threads share about one stream: positions, places, schemas, and the newest chunks.
//!
//! Only the writer thread changes any of it (but for `appended` and the count of what is in flight); everyone reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use dbstreamd_model::{
    ConsumerName, Epoch, Lsn, Notice, NoticeSink, Offset, Severity, StreamId, StreamName, Timestamp,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::chunk::Chunk;
use crate::epochs::{EpochRecord, epoch_of};
use crate::error::LogError;
use crate::holds::Known;
use crate::read::{Lent, Pieces};
use crate::schemas::SchemaRegistry;
use crate::skips::Skip;
use crate::store::{Entry, LoadedStream, PartitionSeq, SourceIdentity, StoredForm, Trim};
use crate::tables::SharedBook;
use crate::writer::Published;

const HOUR_MICROS: i64 = 3600 * 1_000_000;

/// One stream, shared.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) name: StreamName,
    /// Watermarks and `Durable` positions.
    pub(crate) published: Published,
    /// The newest offset the appender gave out.
    pub(crate) appended: AtomicU64,
    /// Durable schema versions. Who needs them for long takes the `Arc` out, so that the writer never waits for a disk read.
    pub(crate) schemas: RwLock<Arc<SchemaRegistry>>,
    /// What is durably known of its tables.
    pub(crate) tables: SharedBook,
    /// Where on disk what is.
    pub(crate) layout: RwLock<Layout>,
    /// Stretches that who cannot read them may leave out.
    pub(crate) skips: RwLock<Vec<Skip>>,
    /// Whose history it is, as far as that is durable.
    pub(crate) source: Mutex<Option<SourceIdentity>>,
    /// In which form its newest units are, as far as that is durable.
    pub(crate) form: Mutex<Option<StoredForm>>,
    /// Consumers with a durable commit; who of them is there is nobody's but memory's.
    pub(crate) consumers: RwLock<BTreeMap<ConsumerName, Known>>,
    /// How long it is kept (none: for ever), when that is not what all streams are kept for.
    pub(crate) retention_age: RwLock<Option<Option<Duration>>>,
    /// The newest visible chunks.
    pub(crate) ring: Ring,
    /// What a crowd got of them last.
    pub(crate) pieces: Pieces,
    /// Chunks from disk that readers have in hand.
    pub(crate) lent: Lent,
    /// Damage that was met, at the start or by readers.
    pub(crate) damage: Damage,
    /// What the appender handed over and the writer has not finished.
    pub(crate) flow: Flow,
    pub(crate) appender_taken: AtomicBool,
}

/// A stream's places on disk.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Partitions that hold events of the stream, in order.
    pub(crate) directory: Vec<(PartitionSeq, Entry)>,
    /// The epochs after the first, in order.
    pub(crate) epochs: Vec<EpochRecord>,
    pub(crate) trim: Trim,
    /// Bytes of all chunks ever written, as stored.
    pub(crate) bytes: u64,
}

impl Stream {
    pub(crate) fn new(id: StreamId, loaded: &LoadedStream, notices: NoticeSink) -> Self {
        Self {
            id,
            name: loaded.name.clone(),
            published: Published::restored(&loaded.state, loaded.trim.point),
            appended: AtomicU64::new(loaded.state.durable.0),
            schemas: RwLock::new(Arc::new(loaded.schemas.clone())),
            tables: RwLock::new(Arc::new(loaded.tables.clone())),
            layout: RwLock::new(Layout::new(loaded)),
            skips: RwLock::new(loaded.skips.clone()),
            source: Mutex::new(loaded.source),
            form: Mutex::new(loaded.form),
            consumers: RwLock::new(loaded.consumers.iter().map(|(name, c)| (name.clone(), Known::new(*c))).collect()),
            retention_age: RwLock::new(None),
            ring: Ring::default(),
            pieces: Pieces::default(),
            lent: Lent::default(),
            damage: Damage { stream: loaded.name.clone(), kept: Mutex::default(), notices },
            flow: Flow::default(),
            appender_taken: AtomicBool::new(false),
        }
    }
}

impl Stream {
    /// Takes over what was read back after a failed write. Readers' positions stay good: nothing visible has changed.
    pub(crate) fn restore(&self, loaded: &LoadedStream) {
        *self.schemas.write() = Arc::new(loaded.schemas.clone());
        *self.tables.write() = Arc::new(loaded.tables.clone());
        *self.layout.write() = Layout::new(loaded);
        *self.skips.write() = loaded.skips.clone();
        *self.source.lock() = loaded.source;
        *self.form.lock() = loaded.form;
        let mut consumers = self.consumers.write();
        consumers.retain(|name, _| loaded.consumers.contains_key(name));
        for (name, committed) in &loaded.consumers {
            consumers.entry(name.clone()).or_insert_with(|| Known::new(*committed)).committed = *committed;
        }
        drop(consumers);
        // Its chunks are as good as ever, but the writer's account of them is gone.
        self.ring.take();
        self.pieces.clear();
        self.published.restore(&loaded.state, loaded.trim.point);
    }
}

impl Layout {
    fn new(loaded: &LoadedStream) -> Self {
        Self {
            directory: loaded.directory.clone(),
            epochs: loaded.epochs.clone(),
            trim: loaded.trim,
            bytes: loaded.state.bytes,
        }
    }

    /// The partition that holds `offset`, and the first offset that it does not hold any more, if it is not the last.
    pub(crate) fn partition_of(&self, offset: Offset) -> Option<(PartitionSeq, Option<Offset>)> {
        let after = self.directory.partition_point(|(_, entry)| entry.first_offset <= offset);
        let (seq, _) = self.directory.get(after.checked_sub(1)?)?;
        Some((*seq, self.directory.get(after).map(|(_, entry)| entry.first_offset)))
    }

    /// The epoch of `offset`, and the first offset of the next epoch, if there is one.
    pub(crate) fn epoch_of(&self, offset: Offset) -> (Epoch, Option<Offset>) {
        epoch_of(&self.epochs, offset)
    }

    /// The first offset of the epoch after `epoch`, if there is one.
    pub(crate) fn end_of(&self, epoch: Epoch) -> Option<Offset> {
        self.epochs.iter().find(|record| record.epoch > epoch).map(|record| record.first_offset)
    }

    /// The first offset of the newest epoch. LSNs are in order from here on, and only from here on.
    pub(crate) fn newest_epoch_start(&self) -> Offset {
        self.epochs.last().map_or(Offset::FIRST, |record| record.first_offset)
    }

    /// End of the newest unit of the newest epoch that retention removed; zero when there is none.
    pub(crate) fn trimmed_in_newest_epoch(&self) -> Lsn {
        if self.trim.point >= self.newest_epoch_start() { self.trim.lsn } else { Lsn::ZERO }
    }

    /// How many epochs began within the last hour; those that began in the future, by a clock that was set back, too.
    pub(crate) fn epochs_last_hour(&self) -> usize {
        let since = Timestamp::now().0.saturating_sub(HOUR_MICROS);
        self.epochs.iter().rev().take_while(|record| record.started_at.0 > since).count()
    }

    /// Estimated bytes on disk of everything up to and including `offset`, since the stream began.
    pub(crate) fn bytes_through(&self, offset: Offset, durable: Offset) -> u64 {
        let after = self.directory.partition_point(|(_, entry)| entry.first_offset <= offset);
        let Some((_, entry)) = after.checked_sub(1).and_then(|i| self.directory.get(i)) else {
            return self.directory.first().map_or(self.bytes, |(_, first)| first.bytes_before);
        };
        let (end, bytes_end) = self
            .directory
            .get(after)
            .map_or((durable.next(), self.bytes), |(_, next)| (next.first_offset, next.bytes_before));
        let events = end.events_since(entry.first_offset).max(1);
        let wanted = offset.next().events_since(entry.first_offset).min(events);
        let bytes = u128::from(bytes_end.saturating_sub(entry.bytes_before)) * u128::from(wanted) / u128::from(events);
        entry.bytes_before.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

/// The newest visible chunks of one stream, oldest first; gaps are possible, order is not lost. How many there are
/// is decided by the writer, for all streams together.
#[derive(Default)]
pub(crate) struct Ring {
    chunks: Mutex<VecDeque<Arc<Chunk>>>,
}

impl Ring {
    /// The chunk that holds `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Option<Arc<Chunk>> {
        let chunks = self.chunks.lock();
        chunks.get(place(&chunks, offset)).filter(|chunk| chunk.first_offset() <= offset).cloned()
    }

    /// The chunk that holds `offset`, and those that come next.
    pub(crate) fn find_run<const N: usize>(&self, offset: Offset) -> [Option<Arc<Chunk>>; N] {
        let chunks = self.chunks.lock();
        let place = place(&chunks, offset);
        std::array::from_fn(|i| chunks.get(place + i).cloned())
    }

    pub(crate) fn push(&self, chunk: Arc<Chunk>) {
        self.chunks.lock().push_back(chunk);
    }

    /// All of it; nothing stays.
    pub(crate) fn take(&self) -> VecDeque<Arc<Chunk>> {
        std::mem::take(&mut *self.chunks.lock())
    }

    pub(crate) fn pop_oldest(&self) -> Option<Arc<Chunk>> {
        let mut chunks = self.chunks.lock();
        let oldest = chunks.pop_front();
        // A burst's room is given back once it is over.
        if chunks.is_empty() {
            chunks.shrink_to_fit();
        }
        oldest
    }
}

/// Where the chunk is that holds `offset`, or the first one behind it. Most who ask are at the end, and a look at a chunk is a
/// miss of the processor's caches: the newest are looked at first, in steps that double.
fn place(chunks: &VecDeque<Arc<Chunk>>, offset: Offset) -> usize {
    let before = |at: usize| chunks.get(at).is_some_and(|chunk| chunk.last_offset() < offset);
    let (mut end, mut step) = (chunks.len(), 1);
    let mut start = end;
    while start > 0 && !before(start) {
        end = start;
        start = start.saturating_sub(step);
        step *= 2;
    }
    // Not before `end`, and all before `start` are before.
    while start < end {
        let middle = start + (end - start) / 2;
        if before(middle) { start = middle + 1 } else { end = middle }
    }
    start
}

/// What could not be read, each place once.
pub(crate) struct Damage {
    stream: StreamName,
    kept: Mutex<Vec<LogError>>,
    notices: NoticeSink,
}

/// So many places are kept for each stream: enough to see how bad it is.
const DAMAGE_KEPT_MAX: usize = 20;

impl Damage {
    /// Keeps it, and makes it known unless it is known already.
    pub(crate) fn keep(&self, error: &LogError) {
        let mut kept = self.kept.lock();
        if kept.len() < DAMAGE_KEPT_MAX && kept.iter().all(|known| ends(known).is_none_or(|e| Some(e) != ends(error))) {
            kept.push(error.clone());
            drop(kept);
            self.notices.push(Notice::new(Severity::Error, "damage_found", error.to_string()).of_stream(&self.stream));
        }
    }

    /// What is kept of it and was not removed by retention since.
    pub(crate) fn kept(&self, trim_point: Offset) -> Vec<LogError> {
        let mut kept = self.kept.lock();
        kept.retain(|error| ends(error).is_none_or(|last| last > trim_point));
        kept.clone()
    }
}

/// Readers meet the same damage from different offsets; where it ends is the same for all.
fn ends(error: &LogError) -> Option<Offset> {
    if let LogError::Damaged { last, .. } = error { Some(*last) } else { None }
}

/// One thing in flight; ends when it is dropped, whatever became of it.
pub(crate) struct InFlight(Arc<Stream>);

impl InFlight {
    pub(crate) fn start(stream: &Arc<Stream>) -> Self {
        stream.flow.in_flight.fetch_add(1, Relaxed);
        Self(Arc::clone(stream))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.flow.in_flight.fetch_sub(1, Release) == 1 {
            self.0.flow.idle.notify_waiters();
        }
    }
}

/// Counts what one appender has in flight, and wakes it when that is nothing.
#[derive(Default)]
pub(crate) struct Flow {
    in_flight: AtomicUsize,
    idle: Notify,
}

impl Flow {
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Acquire) == 0
    }

    /// Resolves once nothing is in flight.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            // Enlisted before looking, so that an end between looking and waiting is not missed.
            notified.as_mut().enable();
            if self.is_idle() {
                return;
            }
            notified.await;
        }
    }
}
