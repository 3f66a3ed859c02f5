//! Chunks from disk: found, checked, and never served when anything about them does not fit.

use std::ops::ControlFlow;
use std::sync::Arc;

use dbstreamd_model::{Epoch, Offset};

use crate::chunk::{Chunk, ChunkHeader, FrameError, decode, peek};
use crate::error::LogError;
use crate::store::{ChunkKey, PartitionSeq, Store};
use crate::stream::Stream;

/// How much to read at once.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub(super) chunks: usize,
    pub(super) bytes: usize,
}

/// A run of offsets that lie in one partition and one epoch.
#[derive(Clone, Copy)]
struct Place {
    partition: PartitionSeq,
    epoch: Epoch,
    /// The last offset of the run, not past what was asked for.
    through: Offset,
}

/// Reads chunks from the one that holds `from` on, at least one, none beyond `through`.
pub(super) fn read(
    store: &Store,
    stream: &Stream,
    from: Offset,
    through: Offset,
    budget: Budget,
) -> Result<Vec<Arc<Chunk>>, LogError> {
    let place = locate(stream, from, through)?;
    let mut run = read_run(store, stream, &place, from, from, budget);
    if let Some(seek) = run.around_damage(store, stream, from, &place) {
        run = read_run(store, stream, &place, seek, from, budget);
    }
    // What was read before the damage is sound; the damage is met again when it is its turn.
    if run.chunks.is_empty() {
        Err(explain(store, stream, from, &place, run.failed, run.scan_error))
    } else {
        Ok(run.chunks)
    }
}

/// What came of one scan.
#[derive(Default)]
struct Run {
    chunks: Vec<Arc<Chunk>>,
    bytes: usize,
    /// A chunk that does not fit: where it ends, and why.
    failed: Option<(Offset, Failure)>,
    scan_error: Option<LogError>,
}

/// What is wrong with a chunk.
enum Failure {
    /// It uses a schema version that is not known.
    Schema(u32),
    Damage(String),
}

/// Scans from the key of `seek` on for chunks from the one that holds `from` on.
fn read_run(store: &Store, stream: &Stream, place: &Place, seek: Offset, from: Offset, budget: Budget) -> Run {
    let mut run = Run::default();
    let registry = Arc::clone(&stream.schemas.read());
    let scanned = store.scan(place.partition, place.key(stream, seek), place.through, false, |key, value| {
        let expected = run.chunks.last().map_or(from, |chunk| chunk.last_offset().next());
        match checked(decode(&key, value, &registry), expected, run.chunks.is_empty()) {
            Ok(chunk) => {
                run.bytes += chunk.memory();
                run.chunks.push(Arc::new(chunk));
                if run.chunks.len() < budget.chunks && run.bytes < budget.bytes {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            }
            Err(reason) => {
                run.failed = Some((key.last_offset, reason));
                ControlFlow::Break(())
            }
        }
    });
    run.scan_error = scanned.err();
    run
}

impl Run {
    /// When a block cannot be read, a seek to the chunk right after it may end up in that block all the same, as
    /// blocks are told apart by shortened keys: where to seek to for a chunk that holds `from` and can be read.
    fn around_damage(&self, store: &Store, stream: &Stream, from: Offset, place: &Place) -> Option<Offset> {
        if self.scan_error.is_none() || !self.chunks.is_empty() {
            return None;
        }
        let (seek, first) = first_readable(store, stream, from, place)?;
        (first <= from).then_some(seek)
    }
}

/// The one chunk that holds `offset`.
pub(crate) fn chunk_at(
    store: &Store,
    stream: &Stream,
    offset: Offset,
    through: Offset,
) -> Result<Arc<Chunk>, LogError> {
    let chunks = read(store, stream, offset, through, Budget { chunks: 1, bytes: usize::MAX })?;
    chunks.into_iter().next().ok_or(LogError::Closed)
}

/// The header of the chunk that holds `offset`; its checksum is verified.
pub(super) fn header_at(
    store: &Store,
    stream: &Stream,
    offset: Offset,
    through: Offset,
) -> Result<ChunkHeader, LogError> {
    let place = locate(stream, offset, through)?;
    let mut found = None;
    let mut failed: Option<(Offset, Failure)> = None;
    let scanned = store.scan(place.partition, place.key(stream, offset), place.through, true, |key, value| {
        match peek(&key, value) {
            Ok(header) if header.first_offset <= offset.0 => found = Some(header),
            Ok(_) => failed = Some((key.last_offset, Failure::Damage("chunks before it are missing".into()))),
            Err(error) => failed = Some((key.last_offset, error.into())),
        }
        ControlFlow::Break(())
    });
    found.ok_or_else(|| explain(store, stream, offset, &place, failed, scanned.err()))
}

/// Reads the newest chunk of a stream and checks it: at the start, where damage is likeliest.
pub(crate) fn verify_newest(store: &Store, stream: &Stream) -> Result<(), LogError> {
    let visible = stream.published.watermarks().visible;
    if visible == stream.layout.read().trim.point {
        return Ok(());
    }
    let place = locate(stream, visible, visible)?;
    let newest = match store.newest(place.partition, (stream.id, place.epoch)) {
        Ok(newest) => newest,
        Err(error) => return Err(explain(store, stream, visible, &place, None, Some(error))),
    };
    let registry = Arc::clone(&stream.schemas.read());
    let failure = match &newest {
        None => Some(Failure::Damage("it is missing".to_owned())),
        Some((key, _)) if key.last_offset != visible => {
            Some(Failure::Damage(format!("the newest chunk ends at offset {}", key.last_offset)))
        }
        Some((key, value)) => decode(key, value, &registry).err().map(Failure::from),
    };
    failure.map_or(Ok(()), |failure| Err(explain(store, stream, visible, &place, Some((visible, failure)), None)))
}

fn locate(stream: &Stream, from: Offset, through: Offset) -> Result<Place, LogError> {
    let layout = stream.layout.read();
    if from <= layout.trim.point {
        return Err(LogError::OffsetTrimmed { requested: from, trim_point: layout.trim.point });
    }
    let (epoch, next_epoch) = layout.epoch_of(from);
    let Some((partition, next_partition)) = layout.partition_of(from) else {
        return Err(damaged(stream, (from, from), PartitionSeq(0), "no partition holds it".into()));
    };
    let ends = [next_epoch, next_partition].into_iter().flatten().map(Offset::previous);
    Ok(Place { partition, epoch, through: ends.fold(through, Offset::min) })
}

impl Place {
    fn key(&self, stream: &Stream, offset: Offset) -> ChunkKey {
        ChunkKey { stream: stream.id, epoch: self.epoch, last_offset: offset }
    }
}

/// The chunk must hold the offset that is wanted, and the ones after it must follow without a gap.
fn checked(decoded: Result<Chunk, FrameError>, expected: Offset, first: bool) -> Result<Chunk, Failure> {
    let chunk = decoded?;
    let follows = if first { chunk.first_offset <= expected } else { chunk.first_offset == expected };
    if follows { Ok(chunk) } else { Err(Failure::Damage("chunks before it are missing".into())) }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::UnknownSchema(id) => Self::Schema(id),
            other => Self::Damage(other.to_string()),
        }
    }
}

/// The chunk that holds `offset`, as it is stored; for who wants to find out what it is.
pub(super) fn raw_at(
    store: &Store,
    stream: &Stream,
    offset: Offset,
    through: Offset,
) -> Result<Option<(ChunkKey, Vec<u8>)>, LogError> {
    let place = locate(stream, offset, through)?;
    let mut found = None;
    store.scan(place.partition, place.key(stream, offset), place.through, false, |key, value| {
        found = Some((key, value.to_vec()));
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// How RocksDB's messages about bytes that are not what was written begin (`Status::ToString`).
const CORRUPTION: &str = "Corruption";

/// Why the chunk that holds `from` could not be read: because retention was faster, or because of damage.
fn explain(
    store: &Store,
    stream: &Stream,
    from: Offset,
    place: &Place,
    failed: Option<(Offset, Failure)>,
    scan_error: Option<LogError>,
) -> LogError {
    let trim_point = stream.layout.read().trim.point;
    if from <= trim_point {
        return LogError::OffsetTrimmed { requested: from, trim_point };
    }
    let (last, reason) = match (failed, scan_error) {
        (Some((last, Failure::Schema(schema))), _) => {
            // No damage to these bytes: it can be mended, and whoever meets it tries.
            return LogError::SchemaUnknown { stream: stream.name.to_string(), schema, first: from, last };
        }
        (Some((last, Failure::Damage(reason))), _) => (last, reason),
        // RocksDB's own checksums; anything else (no descriptors left, say) passes and is no damage.
        (None, Some(LogError::Store { reason, .. })) if reason.starts_with(CORRUPTION) => {
            (damage_end(store, stream, from, place), reason)
        }
        (None, Some(error)) => return error,
        (None, None) => (damage_end(store, stream, from, place), "chunks are missing".into()),
    };
    damaged(stream, (from, last.max(from)), place.partition, reason)
}

/// Makes damage known: to whoever asks for the stream's damage, as a notice, and as the error.
fn damaged(stream: &Stream, (first, last): (Offset, Offset), partition: PartitionSeq, reason: String) -> LogError {
    let stream_name = stream.name.to_string();
    let error = LogError::Damaged { stream: stream_name, first, last, partition: partition.0, reason };
    stream.damage.keep(&error);
    error
}

/// The last offset before the next chunk that can be read.
fn damage_end(store: &Store, stream: &Stream, from: Offset, place: &Place) -> Offset {
    first_readable(store, stream, from, place).map_or(place.through, |(_, first)| first.previous())
}

/// The lowest offset from `from` on to which a seek succeeds, and the first offset of the chunk found there. By
/// halving, since in a damaged block not even the keys can be read.
fn first_readable(store: &Store, stream: &Stream, from: Offset, place: &Place) -> Option<(Offset, Offset)> {
    let probe = |offset: Offset| {
        let mut found = None;
        // An error is the answer "cannot be read".
        let _ = store.scan(place.partition, place.key(stream, offset), place.through, false, |key, value| {
            found = peek(&key, value).ok().map(|header| (offset, Offset(header.first_offset)));
            ControlFlow::Break(())
        });
        found
    };
    let mut best = None;
    let (mut low, mut end) = (from.0, place.through.0.saturating_add(1));
    while low < end {
        let middle = low + (end - low) / 2;
        match probe(Offset(middle)) {
            Some(found) => (best, end) = (Some(found), middle),
            None => low = middle + 1,
        }
    }
    best
}
