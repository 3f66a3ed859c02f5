//! One consumer's cursor: the newest chunks from memory, everything else from disk.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dbstreamd_model::{Epoch, Offset};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;

use super::disk::{self, Budget};
use super::lent::Held;
use crate::chunk::{Chunk, ChunkSlice};
use crate::error::LogError;
use crate::log::Watermarks;
use crate::shared::Shared;
use crate::stream::Stream;

/// What a reader takes from disk in one go: several chunks, so that it need not go there for each, and few enough
/// that ten thousand lagging readers do not fill the memory. A stream that was quiet has a chunk for each commit, many of which make a
/// response.
const READ_AHEAD: Budget = Budget { chunks: 256, bytes: 256 * 1024 };

/// What a reader with chunks from disk holds at most, unless one row alone is larger: the chunks it delivers and those it
/// reads meanwhile, the last of which passed the limit each time, and the encoding of the one that is being delivered.
pub const READ_AHEAD_BYTES_MAX: usize = 4 * READ_AHEAD.bytes;

/// How many chunks are taken out of the ring under one lock: what comes in while a subscriber waits for its next turn.
const RING_RUN: usize = 16;

type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// How long a reader waits when the log is being opened anew after a failed write.
const REOPENING_PAUSE: Duration = Duration::from_millis(50);

/// One consumer's cursor over a stream. Follows the tail without polling.
pub struct Reader {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    marks: watch::Receiver<Watermarks>,
    closed: watch::Receiver<bool>,
    next: Offset,
    /// Read from disk and not delivered.
    ahead: VecDeque<Arc<Chunk>>,
    /// How much is read from disk at once.
    budget: Budget,
    /// Whether it needs a turn for that.
    takes_turns: bool,
    /// The right to hold what was read from disk; kept until all of it was delivered and the caller came back.
    held: Option<Held>,
    /// The place in the line for it. Kept here, so that a dropped future does not lose it.
    turn: Option<Turn>,
    /// A read under way. Kept here, so that a dropped future does not waste it.
    reading: Option<JoinHandle<Result<Vec<Arc<Chunk>>, LogError>>>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, stream: Arc<Stream>, next: Offset) -> Self {
        let marks = stream.published.watch();
        let closed = shared.closed.subscribe();
        Self {
            shared,
            stream,
            marks,
            closed,
            next,
            ahead: VecDeque::new(),
            budget: READ_AHEAD,
            takes_turns: true,
            held: None,
            turn: None,
            reading: None,
        }
    }

    /// The next offset it will deliver.
    pub fn position(&self) -> Offset {
        self.next
    }

    /// From now on one chunk is read at a time, and no turn is needed for it: for readers that are few and may stop at any
    /// moment with something in hand.
    #[must_use]
    pub fn one_at_a_time(mut self) -> Self {
        self.budget = Budget { chunks: 1, ..READ_AHEAD };
        self.takes_turns = false;
        self
    }

    /// Whether it holds memory for chunks from disk that another reader may be waiting for, or a place in the line for it:
    /// whose turn has come without anybody asking keeps the others waiting too.
    pub fn holds_read_ahead(&self) -> bool {
        self.held.is_some() || self.turn.is_some()
    }

    /// Lets go of everything read from disk and goes on at `next`, which must not be past [`position`](Self::position). For
    /// who cannot deliver for a while; the caller drops what it has in hand itself.
    pub fn let_go(&mut self, next: Offset) {
        self.next = next.min(self.next);
        self.ahead = VecDeque::new();
        self.reading = None;
        self.turn = None;
        self.held = None;
    }

    /// Goes on at `next`, further on, without what lies between: for who may leave out what cannot be read.
    pub fn skip_to(&mut self, next: Offset) {
        if next > self.next {
            self.let_go(self.next);
            self.next = next;
        }
    }

    /// The next events, as soon as there are any. Cancel-safe.
    ///
    /// # Errors
    /// When they were removed by retention, cannot be read, or the log is closed.
    pub async fn next(&mut self) -> Result<ChunkSlice, LogError> {
        loop {
            if let Some(slice) = self.try_next().await? {
                return Ok(slice);
            }
            // Either channel lives as long as this reader holds its other end's owner.
            tokio::select! {
                _ = self.marks.changed() => {}
                _ = self.closed.wait_for(|closed| *closed) => return Err(LogError::Closed),
            }
        }
    }

    /// The next events, or none at the visible end. Waits for the disk, never for the source. Cancel-safe.
    ///
    /// # Errors
    /// When they were removed by retention or cannot be read.
    pub async fn try_next(&mut self) -> Result<Option<ChunkSlice>, LogError> {
        loop {
            let marks = *self.marks.borrow_and_update();
            if self.next <= marks.trim_point {
                return Err(LogError::OffsetTrimmed { requested: self.next, trim_point: marks.trim_point });
            }
            if self.next > marks.visible {
                self.held = None;
                return Ok(None);
            }
            if let Some(chunk) = self.find_in_memory() {
                let slice = self.deliver(chunk);
                self.read_on(marks.visible);
                return Ok(Some(slice));
            }
            self.read_ahead(marks.visible).await?;
        }
    }

    /// Goes on through whole chunks that are in memory, for as long as `take` takes them. Never waits. For who makes one
    /// piece of many small chunks.
    pub fn take_following(&mut self, mut take: impl FnMut(&Arc<Chunk>) -> bool) {
        let visible = self.marks.borrow_and_update().visible;
        while let Some(chunk) = self.ahead.pop_front() {
            if chunk.first_offset() != self.next || !take(&chunk) {
                self.ahead.push_front(chunk);
                return;
            }
            self.next = chunk.last_offset().next();
        }
        while self.next <= visible {
            let some: [_; RING_RUN] = self.stream.ring.find_run(self.next);
            let found = some.iter().flatten().count();
            for chunk in some.iter().flatten() {
                // What has come into the ring since is not visible yet.
                if chunk.first_offset() != self.next || chunk.last_offset() > visible || !take(chunk) {
                    return;
                }
                self.shared.metrics.ring_hits.inc();
                self.next = chunk.last_offset().next();
            }
            if found < RING_RUN {
                return;
            }
        }
    }

    /// The next chunk, if it is in memory and of this epoch. Never waits.
    pub fn following(&mut self, epoch: Epoch) -> Option<ChunkSlice> {
        let visible = self.marks.borrow_and_update().visible;
        let chunk = match self.ahead.front() {
            Some(chunk) => Arc::clone(chunk),
            None if self.next <= visible => self.stream.ring.find(self.next)?,
            None => return None,
        };
        if chunk.first_offset() != self.next || chunk.epoch() != epoch {
            return None;
        }
        if self.ahead.pop_front().is_none() {
            self.shared.metrics.ring_hits.inc();
        }
        Some(self.deliver(chunk))
    }

    fn find_in_memory(&mut self) -> Option<Arc<Chunk>> {
        // The ring first: its chunks are shared, and so is what they are encoded to.
        if let Some(chunk) = self.stream.ring.find(self.next) {
            self.shared.metrics.ring_hits.inc();
            self.ahead.clear();
            self.reading = None;
            self.held = None;
            return Some(chunk);
        }
        while let Some(chunk) = self.ahead.pop_front() {
            if chunk.last_offset() >= self.next {
                return Some(chunk);
            }
        }
        None
    }

    fn deliver(&mut self, chunk: Arc<Chunk>) -> ChunkSlice {
        let skipped = self.next.events_since(chunk.first_offset());
        let start = usize::try_from(skipped).unwrap_or(usize::MAX).min(chunk.len());
        self.next = chunk.last_offset().next();
        ChunkSlice { range: start..chunk.len(), chunk }
    }

    /// Waits in line for the right to hold chunks from disk. Who had its share goes to the end of the line.
    async fn take_turn(&mut self) -> Result<(), LogError> {
        if self.held.is_some() && self.shared.read_ahead.available_permits() > 0 {
            return Ok(());
        }
        if self.turn.is_none() {
            self.held = None;
            self.turn = Some(Box::pin(Arc::clone(&self.shared.read_ahead).acquire_owned()));
        }
        if let Some(turn) = &mut self.turn {
            let permit = turn.await;
            self.turn = None;
            self.held = Some(Held::new(permit.map_err(|_| LogError::Closed)?, &self.shared, &self.stream));
        }
        Ok(())
    }

    /// Fills `ahead` from disk. Reads are few at a time in the whole process: memory and threads are bounded, and one
    /// disk is not made faster by many.
    async fn read_ahead(&mut self, visible: Offset) -> Result<(), LogError> {
        if self.reading.is_none() {
            if self.takes_turns {
                self.take_turn().await?;
            }
            self.start_reading(self.next, visible);
        }
        if let Some(reading) = &mut self.reading {
            let result = reading.await;
            self.reading = None;
            match result.map_err(|error| LogError::Store { action: "read", reason: error.to_string() })? {
                Ok(chunks) => self.ahead = chunks.into(),
                // The caller looks again.
                Err(LogError::Reopening) => tokio::time::sleep(REOPENING_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Reader {
    /// While what was read is delivered the next is read, unless others wait in line for that.
    fn read_on(&mut self, visible: Offset) {
        if self.held.is_none() || self.reading.is_some() || self.shared.read_ahead.available_permits() == 0 {
            return;
        }
        let from = self.ahead.back().map_or(self.next, |chunk| chunk.last_offset().next());
        if from <= visible && self.stream.ring.find(from).is_none() {
            self.start_reading(from, visible);
        }
    }

    /// Starts a read from disk. Few are under way at a time in the whole process; of those who want the same, one.
    fn start_reading(&mut self, from: Offset, visible: Offset) {
        let (shared, stream) = (Arc::clone(&self.shared), Arc::clone(&self.stream));
        let budget = self.budget;
        self.reading = Some(tokio::spawn(async move {
            let _place = stream.lent.place(from).await;
            let found = stream.lent.find(from, budget);
            if !found.is_empty() {
                return Ok(found);
            }
            let _permit = Arc::clone(&shared.disk_reads).acquire_owned().await.map_err(|_| LogError::Closed)?;
            let reading = (Arc::clone(&shared), Arc::clone(&stream));
            let read = tokio::task::spawn_blocking(move || {
                let (shared, stream) = reading;
                shared.store().and_then(|store| disk::read(&store, &stream, from, visible, budget))
            });
            let read = read.await.map_err(|error| LogError::Store { action: "read", reason: error.to_string() })?;
            match &read {
                Ok(chunks) => {
                    stream.lent.add(chunks);
                    shared.last_read.hold(&stream, chunks);
                    shared.metrics.disk_chunks.inc_by(chunks.len() as u64);
                }
                Err(LogError::Damaged { .. }) => drop(shared.metrics.damaged_chunks.inc()),
                Err(_) => {}
            }
            read
        }));
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("stream", &self.stream.name).field("next", &self.next).finish_non_exhaustive()
    }
}
