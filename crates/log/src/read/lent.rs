//! Chunks from disk that somebody has in hand, for others who read the same: read and decompressed once, and encoded once.
//!
//! Nothing is kept here for later: a chunk is gone when the last reader lets go of it, so that whoever replays a log takes no memory
//! from anybody else. Only while several readers of a stream are at it, what was read last is held for the others, who may be a moment
//! late: one read in the whole process. A reader that finds its chunks here is faster than the one who reads them, so readers that
//! start close to each other soon go together.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, Weak};

use dbstreamd_model::Offset;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::disk::Budget;
use crate::chunk::Chunk;
use crate::shared::Shared;
use crate::stream::Stream;

/// So many chunks are remembered for each stream: what some readers have in hand, also of chunks with one event.
const REMEMBERED_MAX: usize = 2048;

/// Readers that want to read from the same offset wait for one of them. Others seldom meet in so many places.
const PLACES: usize = 16;

/// What is lent of one stream.
pub(crate) struct Lent {
    /// By first offset, with the last one.
    chunks: Mutex<BTreeMap<Offset, (Offset, Weak<Chunk>)>>,
    under_way: [tokio::sync::Mutex<()>; PLACES],
    /// Readers that are at it.
    readers: AtomicUsize,
}

/// What was read last of a stream that several read; the one of its kind.
#[derive(Default)]
pub(crate) struct LastRead(Mutex<Vec<Arc<Chunk>>>);

/// A reader's right to hold chunks from disk.
pub(super) struct Held {
    _permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
    stream: Arc<Stream>,
}

impl Held {
    pub(super) fn new(permit: OwnedSemaphorePermit, shared: &Arc<Shared>, stream: &Arc<Stream>) -> Self {
        stream.lent.readers.fetch_add(1, AcqRel);
        Self { _permit: permit, shared: Arc::clone(shared), stream: Arc::clone(stream) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.stream.lent.readers.fetch_sub(1, AcqRel) <= 2 {
            self.shared.last_read.forget(&self.stream);
        }
    }
}

impl LastRead {
    /// Holds what was just read, if others may be about to ask for it.
    pub(super) fn hold(&self, stream: &Stream, chunks: &[Arc<Chunk>]) {
        if stream.lent.readers.load(Acquire) > 1 {
            let before = std::mem::replace(&mut *self.0.lock(), chunks.to_vec());
            // Freed without the lock.
            drop(before);
        }
    }

    fn forget(&self, stream: &Stream) {
        let mut chunks = self.0.lock();
        if chunks.first().is_some_and(|chunk| chunk.stream == stream.id) {
            *chunks = Vec::new();
        }
    }
}

impl Default for Lent {
    fn default() -> Self {
        Self {
            chunks: Mutex::default(),
            under_way: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            readers: AtomicUsize::new(0),
        }
    }
}

impl Lent {
    /// The right to read from `from` on. Who had to wait for it looks here first.
    pub(super) async fn place(&self, from: Offset) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let place = usize::try_from(from.0 % PLACES as u64).ok()?;
        Some(self.under_way.get(place)?.lock().await)
    }

    /// The chunk that holds `from` and those behind it, as far as somebody has them and the budget goes.
    pub(super) fn find(&self, from: Offset, budget: Budget) -> Vec<Arc<Chunk>> {
        let (mut found, mut bytes, mut next): (Vec<Arc<Chunk>>, _, _) = (Vec::new(), 0, from);
        let chunks = self.chunks.lock();
        while found.len() < budget.chunks && bytes < budget.bytes {
            let before = chunks.range(..=next).next_back().filter(|(_, (last, _))| *last >= next);
            let Some(chunk) = before.and_then(|(_, (_, chunk))| chunk.upgrade()) else { break };
            bytes += chunk.memory();
            next = chunk.last_offset().next();
            found.push(chunk);
        }
        found
    }

    /// Somebody has these now.
    pub(super) fn add(&self, chunks: &[Arc<Chunk>]) {
        let mut all = self.chunks.lock();
        all.extend(chunks.iter().map(|chunk| (chunk.first_offset(), (chunk.last_offset(), Arc::downgrade(chunk)))));
        if all.len() > REMEMBERED_MAX {
            all.retain(|_, (_, chunk)| chunk.strong_count() > 0);
        }
        while all.len() > REMEMBERED_MAX {
            all.pop_first();
        }
    }
}
