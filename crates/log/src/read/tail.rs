//! The newest events for a crowd: one piece of bytes for all who stand at the same place.
//!
//! Ten thousand followers that are woken together all want the same: what has become visible since they were woken last. Put
//! together for each of them anew, that would be ten thousand times the same copy and as many looks into the ring. So the first who
//! asks makes the piece, and the others get the same bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dbstreamd_model::{Epoch, Offset, SchemaId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::chunk::{Chunk, EncodedRun};
use crate::error::LogError;
use crate::log::Watermarks;
use crate::schemas::StoredSchema;
use crate::shared::Shared;
use crate::stream::Stream;

/// So many pieces are kept for each stream: of the place where the crowd is, and of those where some are who came late. They are
/// bounded in bytes by who asks.
const PIECES_MAX: usize = 4;

/// Room for a head, as a first guess.
const HEAD_BYTES: usize = 16;

/// How many chunks are taken out of the ring under one lock.
const RING_RUN: usize = 16;

/// The visible end of a stream, for many who follow it. Clones are the same.
#[derive(Clone)]
pub struct Tail {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
}

/// Tells when the visible end has moved.
pub struct TailMoves {
    marks: watch::Receiver<Watermarks>,
    closed: watch::Receiver<bool>,
}

/// How a piece is made. Who shares a stream's pieces uses the same functions.
#[derive(Clone, Copy, Debug)]
pub struct PieceForm {
    /// Makes a chunk's outer encoding.
    pub encode: fn(&Chunk) -> EncodedRun,
    /// Puts what comes before so many bytes of encoded events.
    pub head: fn(usize, &mut BytesMut),
    /// Encoded events in a piece, at most.
    pub bytes_max: usize,
}

/// Whole chunks from memory, in an outer encoding, as one run of bytes.
#[derive(Debug)]
pub struct TailPiece {
    first: Offset,
    last: Offset,
    epoch: Epoch,
    schemas: Vec<SchemaId>,
    bytes: Bytes,
    visible_at: Option<Instant>,
    chunks: u64,
    /// What it may have in bytes.
    bytes_max: usize,
    /// There was more to see, which does not go into it: making it anew would give no more.
    ends_early: bool,
    /// Where the memory of a copy is counted.
    total: Option<Arc<AtomicUsize>>,
}

/// The pieces made last of one stream, newest first.
#[derive(Default)]
pub(crate) struct Pieces(Mutex<VecDeque<Arc<TailPiece>>>);

impl Tail {
    pub(crate) fn new(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        Self { shared, stream }
    }

    /// How many wait at this stream, or are about to.
    pub fn followers(&self) -> usize {
        self.stream.published.followers()
    }

    /// How long they rest between two wake-ups; none when there are so few that every commit wakes them.
    pub fn beat(&self) -> Option<Duration> {
        crate::writer::beat(self.followers())
    }

    /// The visible end. Costs nothing: for who looks by itself and is not woken.
    pub fn visible(&self) -> Offset {
        self.stream.published.watermarks().visible
    }

    /// The moves of the visible end from now on.
    pub fn moves(&self) -> TailMoves {
        TailMoves { marks: self.stream.published.watch(), closed: self.shared.closed.subscribe() }
    }

    /// The events from `first` on, at least through `through` unless that is more than fits. None
    /// when they are not in memory as whole chunks that fit: then a reader is what helps. Never waits.
    pub fn piece(&self, first: Offset, through: Offset, form: PieceForm) -> Option<Arc<TailPiece>> {
        let piece = self.stream.pieces.piece(&self.stream, first, through, form)?;
        self.shared.metrics.ring_hits.inc_by(piece.chunks);
        Some(piece)
    }

    /// A schema version of the stream; every one that a piece names is there.
    pub fn schema(&self, id: SchemaId) -> Option<StoredSchema> {
        self.stream.schemas.read().get(id).cloned()
    }
}

impl Pieces {
    fn piece(&self, stream: &Stream, first: Offset, through: Offset, form: PieceForm) -> Option<Arc<TailPiece>> {
        // Made under the lock: who comes meanwhile wants the same.
        let mut pieces = self.0.lock();
        let fits = |piece: &Arc<TailPiece>| {
            piece.first == first && piece.bytes_max == form.bytes_max && (piece.last >= through || piece.ends_early)
        };
        let known = pieces.iter().find(|piece| fits(piece)).cloned();
        let piece = match known {
            Some(piece) => piece,
            None => {
                let piece = Arc::new(make(stream, first, form)?);
                pieces.retain(|other| other.first != first || other.bytes_max != form.bytes_max);
                pieces.truncate(PIECES_MAX - 1);
                pieces.push_front(Arc::clone(&piece));
                piece
            }
        };
        Some(piece)
    }

    pub(crate) fn clear(&self) {
        let before = std::mem::take(&mut *self.0.lock());
        // Freed without the lock.
        drop(before);
    }
}

impl TailMoves {
    /// The visible end.
    pub fn visible(&mut self) -> Offset {
        self.marks.borrow_and_update().visible
    }

    /// Waits until it has moved since it was looked at, or a crowd is woken for another reason. Cancel-safe.
    ///
    /// # Errors
    /// When the log is closed.
    pub async fn moved(&mut self) -> Result<(), LogError> {
        tokio::select! {
            moved = self.marks.changed() => moved.map_err(|_| LogError::Closed),
            _ = self.closed.wait_for(|closed| *closed) => Err(LogError::Closed),
        }
    }
}

impl TailPiece {
    /// The last event in it.
    pub fn last_offset(&self) -> Offset {
        self.last
    }

    /// The epoch of all its events.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The schema versions its events use, each once.
    pub fn schemas(&self) -> &[SchemaId] {
        &self.schemas
    }

    /// The head, and the encoded events one after the other.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// When readers could first find its first event.
    pub fn visible_at(&self) -> Option<Instant> {
        self.visible_at
    }
}

impl Drop for TailPiece {
    fn drop(&mut self) {
        if let Some(total) = &self.total {
            total.fetch_sub(self.bytes.len(), Relaxed);
        }
    }
}

/// Puts together what is in the ring from `first` on, as far as it is visible and of one epoch.
fn make(stream: &Stream, first: Offset, form: PieceForm) -> Option<TailPiece> {
    let PieceForm { encode, head, bytes_max } = form;
    let marks = stream.published.watermarks();
    if first <= marks.trim_point {
        return None;
    }
    let visible = marks.visible;
    let (mut chunks, mut bytes, mut next): (Vec<Arc<Chunk>>, _, _) = (Vec::new(), 0, first);
    'all: while next <= visible {
        let some: [_; RING_RUN] = stream.ring.find_run(next);
        let found = some.iter().flatten().count();
        for chunk in some.into_iter().flatten() {
            if chunk.last_offset() > visible {
                break 'all;
            }
            let run = chunk.encoded(encode);
            let fits = chunk.first_offset() == next
                && chunks.first().is_none_or(|front| front.epoch() == chunk.epoch())
                // One that is broken is met by itself.
                && run.ends.len() == chunk.len()
                && bytes + run.bytes.len() <= bytes_max;
            if !fits {
                break 'all;
            }
            bytes += run.bytes.len();
            next = chunk.last_offset().next();
            chunks.push(chunk);
        }
        if found < RING_RUN {
            break;
        }
    }
    let front = chunks.first()?;
    let mut together = BytesMut::with_capacity(bytes + HEAD_BYTES);
    head(bytes, &mut together);
    chunks.iter().for_each(|chunk| together.extend_from_slice(&chunk.encoded(encode).bytes));
    let together = together.freeze();
    let total = front.encoded_bytes.clone();
    if let Some(total) = &total {
        total.fetch_add(together.len(), Relaxed);
    }
    let mut schemas: Vec<SchemaId> = chunks.iter().flat_map(|chunk| chunk.schemas()).map(|stored| stored.id).collect();
    schemas.sort_unstable();
    schemas.dedup();
    Some(TailPiece {
        first,
        last: next.previous(),
        epoch: front.epoch(),
        schemas,
        bytes: together,
        visible_at: front.visible_at(),
        chunks: chunks.len() as u64,
        bytes_max,
        ends_early: next <= visible,
        total,
    })
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").field("stream", &self.stream.name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TailMoves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TailMoves").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use dbstreamd_model::{Lsn, NoticeSink, Op, StreamId, Timestamp};

    use super::*;
    use crate::chunk::EventEntry;
    use crate::store::LoadedStream;

    const SIZE: usize = 100;

    /// A stream whose ring holds one event in each chunk, from 1 through `ring`, and of which `visible` can be seen.
    fn stream(ring: u64, visible: u64, epoch_of: impl Fn(u64) -> u32, total: &Arc<AtomicUsize>) -> Stream {
        let mut loaded = LoadedStream::new("shop".parse().unwrap());
        (loaded.state.visible, loaded.state.durable) = (Offset(visible), Offset(ring));
        let stream = Stream::new(StreamId(1), &loaded, NoticeSink::default());
        for offset in 1..=ring {
            stream.ring.push(Arc::new(Chunk {
                stream: StreamId(1),
                epoch: Epoch(epoch_of(offset)),
                first_offset: Offset(offset),
                lsn_end: Lsn(offset),
                commit_time_max: Timestamp(0),
                events: vec![EventEntry { body_end: 1, schema: 0, op: Op::Message }],
                units: Vec::new(),
                schemas: Vec::new(),
                body_start: 0,
                bytes: vec![u8::try_from(offset).unwrap()],
                encoded: OnceLock::new(),
                encoded_bytes: Some(Arc::clone(total)),
                visible_at: None,
            }));
        }
        stream
    }

    fn encode(chunk: &Chunk) -> EncodedRun {
        let body = *chunk.bodies().first().unwrap();
        // Event 99 cannot be encoded.
        let ends = if body == 99 { Vec::new() } else { vec![100] };
        EncodedRun { bytes: vec![body; SIZE].into(), ends }
    }

    fn piece(stream: &Stream, first: u64, through: u64, bytes_max: usize) -> Option<Arc<TailPiece>> {
        let form = PieceForm { encode, head: |_, _| {}, bytes_max };
        stream.pieces.piece(stream, Offset(first), Offset(through), form)
    }

    fn through(piece: Option<&Arc<TailPiece>>) -> Option<u64> {
        piece.map(|piece| piece.last_offset().0)
    }

    #[test]
    fn who_stands_at_the_same_place_gets_the_same_bytes_and_nobody_else_does() {
        let total = Arc::default();
        let stream = stream(30, 20, |_| 1, &total);
        let one = piece(&stream, 5, 20, 10_000).unwrap();
        assert_eq!(through(Some(&one)), Some(20), "what is in the ring and not visible is not in it");
        assert_eq!(one.bytes().len(), 16 * SIZE);
        assert!(one.bytes().chunks(SIZE).zip(5..).all(|(event, offset)| event == [offset; SIZE]));
        let same = |other: &Arc<TailPiece>| one.bytes().as_ptr() == other.bytes().as_ptr();
        assert!(same(&piece(&stream, 5, 20, 10_000).unwrap()));
        assert!(same(&piece(&stream, 5, 11, 10_000).unwrap()), "who was woken for less gets as much");
        assert!(!same(&piece(&stream, 6, 20, 10_000).unwrap()), "another place");
        let small = piece(&stream, 5, 20, 3 * SIZE + 1).unwrap();
        assert!(!same(&small), "another bound");
        assert_eq!(through(Some(&small)), Some(7));
        assert!(Arc::ptr_eq(&small, &piece(&stream, 5, 20, 3 * SIZE + 1).unwrap()), "it holds all it may");
    }

    #[test]
    fn a_piece_that_ends_too_soon_is_made_again() {
        let total = Arc::default();
        let stream = stream(30, 10, |_| 1, &total);
        assert_eq!(through(piece(&stream, 1, 10, 10_000).as_ref()), Some(10));
        let mut loaded = LoadedStream::new("shop".parse().unwrap());
        (loaded.state.visible, loaded.state.durable) = (Offset(12), Offset(30));
        stream.published.restore(&loaded.state, Offset::NONE);
        assert_eq!(through(piece(&stream, 1, 10, 10_000).as_ref()), Some(10), "enough for who was woken for that");
        assert_eq!(through(piece(&stream, 1, 12, 10_000).as_ref()), Some(12));
        assert_eq!(through(piece(&stream, 1, 10, 10_000).as_ref()), Some(12));
    }

    #[test]
    fn a_piece_before_what_is_on_disk_only_is_made_once_for_all() {
        let total = Arc::default();
        let stream = stream(10, 20, |_| 1, &total);
        let one = piece(&stream, 1, 20, 10_000).unwrap();
        assert_eq!(through(Some(&one)), Some(10));
        assert!(Arc::ptr_eq(&one, &piece(&stream, 1, 20, 10_000).unwrap()));
        assert!(piece(&stream, 11, 20, 10_000).is_none(), "a reader's business");
    }

    #[test]
    fn a_piece_ends_before_another_epoch_and_before_what_cannot_be_encoded_and_none_is_made_of_what_is_not_there() {
        let total = Arc::default();
        let stream = stream(110, 110, |offset| if offset < 50 { 1 } else { 2 }, &total);
        let of_one = piece(&stream, 40, 110, 100_000).unwrap();
        assert_eq!((through(Some(&of_one)), of_one.epoch()), (Some(49), Epoch(1)));
        assert_eq!(through(piece(&stream, 90, 110, 100_000).as_ref()), Some(98));
        assert!(piece(&stream, 99, 110, 100_000).is_none(), "it is met by itself, by a reader");
        assert!(piece(&stream, 1, 110, SIZE - 1).is_none(), "one that is too large");
        assert!(piece(&stream, 111, 111, 100_000).is_none(), "not there yet");
        stream.ring.pop_oldest();
        assert!(piece(&stream, 1, 110, 100_000).is_none(), "on disk only");
    }

    #[test]
    fn few_pieces_are_kept_and_their_memory_is_counted_until_nobody_has_them() {
        let total: Arc<AtomicUsize> = Arc::default();
        let stream = stream(60, 60, |_| 1, &total);
        drop(piece(&stream, 1, 60, 100_000));
        stream.pieces.clear();
        let encodings = total.load(Relaxed);
        for first in 1..=50 {
            piece(&stream, first, 60, 100_000).unwrap();
        }
        let kept = (47..=50).map(|first| (61 - first) * SIZE).sum::<usize>();
        assert_eq!(total.load(Relaxed) - encodings, kept, "of the newest {PIECES_MAX}");
        let held = piece(&stream, 50, 60, 100_000).unwrap();
        stream.pieces.clear();
        assert_eq!(total.load(Relaxed) - encodings, held.bytes().len());
        drop(held);
        assert_eq!(total.load(Relaxed), encodings);
    }
}
