//! A chunk as bytes: frame, header, compressed block; written once, checked wholly at every read.
//!
//! ```text
//!   magic u16 │ version u8 │ flags u8 │ crc32 │ header, fixed size (rkyv) │ block: index, bodies; compressed
//!   └──────── covered by the crc ─────┘       └───────────────── covered by the crc, together with the key ────────┘
//! ```
//!
//! In version 2 the block is two: index and heads of the columns, then their values (`columns`). In version 3 there is
//! another one between them, of values that were packed.
//!
//! The key's bytes are under the checksum too, so a value that is found in a wrong place is damage, not data.
//! Nothing here panics on any bytes, and no allocation is larger than the bytes at hand can justify.

use std::sync::OnceLock;

use dbstreamd_model::{Epoch, Lsn, Offset, StreamId, Timestamp};
use rkyv::{Archive, Portable, Serialize};

use super::Chunk;
use super::codec::{Codec, Compressor};
use super::columns::{self, Apart, Columns};
use super::index::{self, IndexError};
use crate::schemas::SchemaRegistry;
use crate::store::ChunkKey;

/// "DC", little-endian: the first bytes of every chunk.
const MAGIC: u16 = u16::from_le_bytes(*b"DC");
/// Version of a chunk whose block is index and bodies.
const VERSION_PLAIN: u8 = 1;
/// Version of a chunk whose bodies are in columns.
const VERSION_COLUMNS: u8 = 2;
/// And some of them packed.
const VERSION_PACKED: u8 = 3;
/// The low bits of the flags say how the block is compressed.
const FLAGS_CODEC: u8 = 3;
/// The last unit does not end in this chunk.
const FLAG_UNFINISHED: u8 = 4;
/// Magic, version, flags, checksum.
const FRAME_BYTES: usize = 8;
const HEADER_BYTES: usize = size_of::<ArchivedChunkHeader>();
/// No chunk decompresses to more: one event of at most 1 GiB beside what fits a chunk, with room to spare.
const RAW_BYTES_MAX: usize = i32::MAX as usize;

/// A chunk's header: enough to search for a position or a time without decompressing.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(attr(allow(missing_docs)))]
pub(crate) struct ChunkHeader {
    pub(crate) stream: u32,
    pub(crate) epoch: u32,
    pub(crate) first_offset: u64,
    /// End of the newest unit that ended in or before this chunk.
    pub(crate) lsn_end: u64,
    /// Running maximum of the commit times of the units that ended in or before this chunk.
    pub(crate) commit_time_max: i64,
    pub(crate) events: u32,
    pub(crate) units: u32,
    /// Length of the index, which comes first in the block.
    pub(crate) index_bytes: u32,
    /// Length of index and bodies.
    pub(crate) raw_bytes: u32,
    /// Length of the block as stored.
    pub(crate) block_bytes: u32,
}

// The header is disk format: byte-aligned, little-endian, and of this size for good.
const _: () = assert!(HEADER_BYTES == 52 && align_of::<ArchivedChunkHeader>() == 1);
const fn portable<T: Portable>() {}
const _: () = portable::<ArchivedChunkHeader>();

/// Why a value is no chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the value is too short for a chunk")]
    Short,
    #[error("the value is not a chunk")]
    Magic,
    #[error("chunk format version {0} is not known to this version")]
    Version(u8),
    #[error("checksum mismatch")]
    Checksum,
    #[error("the header contradicts the rest")]
    Header,
    #[error("the block cannot be decompressed")]
    Block,
    #[error("the index contradicts the bodies")]
    Index,
    #[error("the columns contradict each other")]
    Columns,
    #[error("schema {0} is missing")]
    UnknownSchema(u32),
}

/// Buffers that encoding uses again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    compressor: Compressor,
    columns: Columns,
    /// In `heads`: index and bodies, or index and heads.
    apart: Apart,
    value: Vec<u8>,
}

/// A buffer larger than this, left by a huge event, is given back.
const SCRATCH_KEPT_MAX: usize = 1 << 20;

/// The chunk's value under `key`; valid until the scratch is used again.
pub(crate) fn encode<'a>(chunk: &Chunk, key: &ChunkKey, scratch: &'a mut Scratch) -> Result<&'a [u8], FrameError> {
    let Scratch { compressor, columns, apart, value } = scratch;
    for buffer in [&mut apart.heads, &mut apart.values, &mut apart.packed, &mut *value] {
        buffer.clear();
        buffer.shrink_to(SCRATCH_KEPT_MAX);
    }
    columns.shrink_to(SCRATCH_KEPT_MAX);
    index::encode(chunk, &mut apart.heads);
    let index_bytes = apart.heads.len();
    let raw_bytes = index_bytes + chunk.body_bytes();
    if raw_bytes > RAW_BYTES_MAX {
        return Err(FrameError::Header);
    }

    let fit = |length: usize| u32::try_from(length).map_err(|_| FrameError::Header);
    value.resize(FRAME_BYTES + HEADER_BYTES, 0);
    let in_columns = columns::BODY_BYTES.contains(&chunk.body_bytes()) && columns.split(chunk, apart).is_some();
    let (version, codec) = if in_columns {
        let Apart { heads, values, packed } = apart;
        let version = if packed.is_empty() { VERSION_COLUMNS } else { VERSION_PACKED };
        let lengths_at = value.len();
        value.resize(lengths_at + Lengths::bytes(version), 0);
        let lengths = Lengths {
            heads_stored: fit(compressor.append_zstd(heads, value))?,
            heads: fit(heads.len())?,
            values: fit(values.len())?,
            packed_stored: fit(compressor.append_zstd(packed, value))?,
            packed: fit(packed.len())?,
        };
        lengths.write(value.get_mut(lengths_at..).ok_or(FrameError::Header)?, version);
        (version, compressor.append(values, value))
    } else {
        apart.heads.extend_from_slice(chunk.bodies());
        (VERSION_PLAIN, compressor.append(&apart.heads, value))
    };
    let block_bytes = value.len() - FRAME_BYTES - HEADER_BYTES;
    let flags = codec as u8 | if chunk.finished() { 0 } else { FLAG_UNFINISHED };

    let header = ChunkHeader {
        stream: chunk.stream.0,
        epoch: chunk.epoch.0,
        first_offset: chunk.first_offset.0,
        lsn_end: chunk.lsn_end.0,
        commit_time_max: chunk.commit_time_max.0,
        events: fit(chunk.events.len())?,
        units: fit(chunk.units.len())?,
        index_bytes: fit(index_bytes)?,
        raw_bytes: fit(raw_bytes)?,
        block_bytes: fit(block_bytes)?,
    };
    let header = rkyv::to_bytes::<rkyv::rancor::Error>(&header).map_err(|_| FrameError::Header)?;
    let (frame, rest) = value.split_first_chunk_mut::<FRAME_BYTES>().ok_or(FrameError::Header)?;
    rest.get_mut(..HEADER_BYTES).ok_or(FrameError::Header)?.copy_from_slice(&header);
    let [m0, m1] = MAGIC.to_le_bytes();
    let start = [m0, m1, version, flags];
    let [c0, c1, c2, c3] = checksum(start, key, rest).to_le_bytes();
    *frame = [m0, m1, version, flags, c0, c1, c2, c3];
    Ok(value)
}

/// The header of the chunk stored under `key`, checked like the whole chunk up to its checksum.
pub(crate) fn peek(key: &ChunkKey, value: &[u8]) -> Result<ChunkHeader, FrameError> {
    open(key, value).map(|opened| opened.header)
}

/// The chunk stored under `key`.
pub(crate) fn decode(key: &ChunkKey, value: &[u8], registry: &SchemaRegistry) -> Result<Chunk, FrameError> {
    let Opened { version, flags, header, block } = open(key, value)?;
    let length = |n: u32| usize::try_from(n).map_err(|_| FrameError::Header);
    let (raw_bytes, index_bytes) = (length(header.raw_bytes)?, length(header.index_bytes)?);
    let body_bytes = raw_bytes - index_bytes;
    let codec = Codec::from_code(flags & FLAGS_CODEC).ok_or(FrameError::Header)?;
    let counts = (length(header.events)?, length(header.units)?);
    let finished = flags & FLAG_UNFINISHED == 0;
    let read_index = |index: &[u8]| {
        index::decode(index, counts, body_bytes, finished, registry).map_err(|error| match error {
            IndexError::Damaged => FrameError::Index,
            IndexError::UnknownSchema(id) => FrameError::UnknownSchema(id),
        })
    };
    let (index, body_start, bytes) = if version == VERSION_COLUMNS || version == VERSION_PACKED {
        let Apart { heads, values, packed } =
            decompress_columns(version, codec, block, body_bytes).ok_or(FrameError::Block)?;
        let (index, heads) = heads.split_at_checked(index_bytes).ok_or(FrameError::Header)?;
        (read_index(index)?, 0, columns::join(heads, &values, &packed, body_bytes).ok_or(FrameError::Columns)?)
    } else {
        let bytes = codec.decompress(block, raw_bytes).ok_or(FrameError::Block)?;
        (read_index(bytes.get(..index_bytes).ok_or(FrameError::Header)?)?, index_bytes, bytes)
    };
    Ok(Chunk {
        stream: StreamId(header.stream),
        epoch: Epoch(header.epoch),
        first_offset: Offset(header.first_offset),
        lsn_end: Lsn(header.lsn_end),
        commit_time_max: Timestamp(header.commit_time_max),
        events: index.events,
        units: index.units,
        schemas: index.schemas,
        body_start,
        bytes,
        encoded: OnceLock::new(),
        encoded_bytes: None,
        visible_at: None,
    })
}

/// What a block in columns begins with, each in four bytes, little-endian; the last two in version 3 only.
#[derive(Default)]
struct Lengths {
    /// Of index and heads as stored.
    heads_stored: u32,
    /// Of index and heads.
    heads: u32,
    /// Of the values; they are stored behind everything else.
    values: u32,
    /// Of the packed values as stored.
    packed_stored: u32,
    /// Of the packed values.
    packed: u32,
}

impl Lengths {
    /// How many bytes they take.
    fn bytes(version: u8) -> usize {
        if version == VERSION_PACKED { 20 } else { 12 }
    }

    /// Writes them to the front of `to`.
    fn write(&self, to: &mut [u8], version: u8) {
        let all = [self.heads_stored, self.heads, self.values, self.packed_stored, self.packed];
        let (places, _) = to.as_chunks_mut();
        for (place, length) in places.iter_mut().take(Self::bytes(version) / 4).zip(all) {
            *place = length.to_le_bytes();
        }
    }

    /// Takes them from the front of a block.
    fn take(block: &mut &[u8], version: u8) -> Option<Self> {
        let (all, _) = block.split_off(..Self::bytes(version))?.as_chunks();
        let mut all = all.iter().copied().map(u32::from_le_bytes);
        let (heads_stored, heads, values) = (all.next()?, all.next()?, all.next()?);
        let (packed_stored, packed) = all.next().zip(all.next()).unwrap_or_default();
        Some(Self { heads_stored, heads, values, packed_stored, packed })
    }
}

/// What a block in columns holds whose bodies are `body_bytes` long.
fn decompress_columns(version: u8, codec: Codec, mut block: &[u8], body_bytes: usize) -> Option<Apart> {
    let lengths = Lengths::take(&mut block, version)?;
    let heads = block.split_off(..lengths.heads_stored as usize)?;
    let packed = block.split_off(..lengths.packed_stored as usize)?;
    let (heads_bytes, values_bytes, packed_bytes) =
        (lengths.heads as usize, lengths.values as usize, lengths.packed as usize);
    let (heads_codec, packed_codec) =
        (Codec::of_zstd(heads.len(), heads_bytes), Codec::of_zstd(packed.len(), packed_bytes));
    let plausible = values_bytes <= body_bytes
        && packed_bytes <= body_bytes
        && heads_bytes <= RAW_BYTES_MAX
        // Nothing packed is version 2.
        && (version == VERSION_PACKED) == (packed_bytes > 0)
        && heads_codec.can_yield(heads.len(), heads_bytes)
        && packed_codec.can_yield(packed.len(), packed_bytes)
        && codec.can_yield(block.len(), values_bytes);
    if !plausible {
        return None;
    }
    Some(Apart {
        heads: heads_codec.decompress(heads, heads_bytes)?,
        values: codec.decompress(block, values_bytes)?,
        packed: packed_codec.decompress(packed, packed_bytes)?,
    })
}

/// A value whose checksum, header and key agree.
struct Opened<'a> {
    version: u8,
    flags: u8,
    header: ChunkHeader,
    block: &'a [u8],
}

fn open<'a>(key: &ChunkKey, value: &'a [u8]) -> Result<Opened<'a>, FrameError> {
    let (frame, rest) = value.split_first_chunk::<FRAME_BYTES>().ok_or(FrameError::Short)?;
    let [m0, m1, version, flags, c0, c1, c2, c3] = *frame;
    if u16::from_le_bytes([m0, m1]) != MAGIC {
        return Err(FrameError::Magic);
    }
    if !matches!(version, VERSION_PLAIN | VERSION_COLUMNS | VERSION_PACKED) {
        return Err(FrameError::Version(version));
    }
    if checksum([m0, m1, version, flags], key, rest) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum);
    }
    let (header, block) = rest.split_at_checked(HEADER_BYTES).ok_or(FrameError::Short)?;
    let header = read_header(header)?;
    if flags & !(FLAGS_CODEC | FLAG_UNFINISHED) != 0 || !header.fits(key, version, flags, block.len()) {
        return Err(FrameError::Header);
    }
    Ok(Opened { version, flags, header, block })
}

fn read_header(bytes: &[u8]) -> Result<ChunkHeader, FrameError> {
    let header = rkyv::access::<ArchivedChunkHeader, rkyv::rancor::Error>(bytes).map_err(|_| FrameError::Header)?;
    Ok(ChunkHeader {
        stream: header.stream.to_native(),
        epoch: header.epoch.to_native(),
        first_offset: header.first_offset.to_native(),
        lsn_end: header.lsn_end.to_native(),
        commit_time_max: header.commit_time_max.to_native(),
        events: header.events.to_native(),
        units: header.units.to_native(),
        index_bytes: header.index_bytes.to_native(),
        raw_bytes: header.raw_bytes.to_native(),
        block_bytes: header.block_bytes.to_native(),
    })
}

impl ChunkHeader {
    /// Offset of the last event.
    pub(crate) fn last_offset(&self) -> Offset {
        Offset(self.first_offset.saturating_add(u64::from(self.events)).saturating_sub(1))
    }

    /// Whether it agrees with its key and with the length of the block behind it.
    fn fits(&self, key: &ChunkKey, version: u8, flags: u8, block_bytes: usize) -> bool {
        let raw_bytes = self.raw_bytes as usize;
        let Some(codec) = Codec::from_code(flags & FLAGS_CODEC) else { return false };
        let raw_fits = if version == VERSION_COLUMNS || version == VERSION_PACKED {
            columns::BODY_BYTES.contains(&raw_bytes.saturating_sub(self.index_bytes as usize))
        } else {
            raw_bytes <= RAW_BYTES_MAX && codec.can_yield(block_bytes, raw_bytes)
        };
        (self.stream, self.epoch) == (key.stream.0, key.epoch.0)
            && self.first_offset > 0
            && self.last_offset() == key.last_offset
            && self.block_bytes as usize == block_bytes
            && raw_fits
            && self.index_bytes <= self.raw_bytes
            // An event takes a byte of index at least, a unit more than eight.
            && (1..=self.index_bytes).contains(&self.events)
            && (1..=self.events.min(self.index_bytes / 8)).contains(&self.units)
    }
}

fn checksum(start: [u8; 4], key: &ChunkKey, rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&start);
    crc.update(&key.to_bytes());
    crc.update(rest);
    crc.finalize()
}
