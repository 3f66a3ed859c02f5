//! Every key the log writes. Layout in docs/format.md, "Keys".
//!
//! Integers in keys are big-endian, so that the order of bytes is the order of numbers.

use dbstreamd_model::{Epoch, Offset, SchemaId, StreamId};

/// The key of a chunk, in a partition's column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkKey {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    /// Offset of the chunk's last event: a seek to an offset then finds the chunk that holds it.
    pub(crate) last_offset: Offset,
}

impl ChunkKey {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let whole = u128::from(self.stream.0) << 96 | u128::from(self.epoch.0) << 64 | u128::from(self.last_offset.0);
        whole.to_be_bytes()
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the number apart again")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let whole = u128::from_be_bytes(bytes.try_into().ok()?);
        Some(Self {
            stream: StreamId((whole >> 96) as u32),
            epoch: Epoch((whole >> 64) as u32),
            last_offset: Offset(whole as u64),
        })
    }
}

/// A partition's number: rises with time, never reused. Its column family is `p-` and 8 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PartitionSeq(pub(crate) u32);

impl PartitionSeq {
    pub(crate) fn family(self) -> String {
        format!("p-{:08x}", self.0)
    }

    pub(crate) fn from_family(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("p-").filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// Every key of the `meta` column family: one byte that says which, then its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaKey<'a> {
    /// `01` → the format version. The only record that every version must be able to read.
    FormatVersion,
    /// `02 stream` → the stream's name.
    StreamName(StreamId),
    /// `03 stream` → watermarks (`StreamState`).
    StreamState(StreamId),
    /// `04 stream epoch` → where and why the epoch began (`EpochRecord`).
    Epoch(StreamId, Epoch),
    /// `05 stream schema` → fingerprint and schema.
    Schema(StreamId, SchemaId),
    /// `06 stream name` → a consumer's committed offset (`Committed`).
    Consumer(StreamId, &'a str),
    /// `07 partition` → when it was created and whether it is being dropped (`Partition`).
    Partition(PartitionSeq),
    /// `08 stream partition` → where the stream starts in that partition (`Entry`).
    Directory(StreamId, PartitionSeq),
    /// `09 stream` → how far retention went (`Trim`).
    Trim(StreamId),
    /// `0a stream` → whose history the stream is, and in which form (`SourceRecord`).
    Source(StreamId),
    /// `0e stream offset` → a stretch from that offset on that may be left out (`Skip`).
    Skip(StreamId, Offset),
    /// `0b name` → a setting's value, chosen while the daemon ran (`encode_setting`).
    Setting(&'a str),
    /// `0c stream schema 00 table` → the relation that has the name (`TableBinding`).
    Table(StreamId, &'a str),
    /// `0d stream schema 00 table` → that its rows changed without events (`Divergence`).
    Diverged(StreamId, &'a str),
}

impl<'a> MetaKey<'a> {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let mut put = |tag: u8, numbers: &[u32]| {
            out.push(tag);
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        };
        match self {
            Self::FormatVersion => put(1, &[]),
            Self::StreamName(stream) => put(2, &[stream.0]),
            Self::StreamState(stream) => put(3, &[stream.0]),
            Self::Epoch(stream, epoch) => put(4, &[stream.0, epoch.0]),
            Self::Schema(stream, schema) => put(5, &[stream.0, schema.0]),
            Self::Consumer(stream, name) => {
                put(6, &[stream.0]);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Partition(seq) => put(7, &[seq.0]),
            Self::Directory(stream, seq) => put(8, &[stream.0, seq.0]),
            Self::Trim(stream) => put(9, &[stream.0]),
            Self::Source(stream) => put(10, &[stream.0]),
            Self::Skip(stream, first) => {
                put(14, &[stream.0]);
                out.extend_from_slice(&first.0.to_be_bytes());
            }
            Self::Setting(name) => {
                put(11, &[]);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Table(stream, name) => {
                put(12, &[stream.0]);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Diverged(stream, name) => {
                put(13, &[stream.0]);
                out.extend_from_slice(name.as_bytes());
            }
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let (&tag, mut rest) = bytes.split_first()?;
        let mut take = || {
            let (number, tail) = rest.split_first_chunk::<4>()?;
            rest = tail;
            Some(u32::from_be_bytes(*number))
        };
        let key = match tag {
            1 => Self::FormatVersion,
            2 => Self::StreamName(StreamId(take()?)),
            3 => Self::StreamState(StreamId(take()?)),
            4 => Self::Epoch(StreamId(take()?), Epoch(take()?)),
            5 => Self::Schema(StreamId(take()?), SchemaId(take()?)),
            6 => return Some(Self::Consumer(StreamId(take()?), std::str::from_utf8(rest).ok()?)),
            7 => Self::Partition(PartitionSeq(take()?)),
            8 => Self::Directory(StreamId(take()?), PartitionSeq(take()?)),
            9 => Self::Trim(StreamId(take()?)),
            10 => Self::Source(StreamId(take()?)),
            14 => {
                let stream = StreamId(take()?);
                return Some(Self::Skip(stream, Offset(u64::from_be_bytes(rest.try_into().ok()?))));
            }
            11 => return Some(Self::Setting(std::str::from_utf8(rest).ok()?)),
            12 => return Some(Self::Table(StreamId(take()?), std::str::from_utf8(rest).ok()?)),
            13 => return Some(Self::Diverged(StreamId(take()?), std::str::from_utf8(rest).ok()?)),
            _ => return None,
        };
        rest.is_empty().then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_keys_sort_by_stream_epoch_and_offset() {
        let key = |s, e, o| ChunkKey { stream: StreamId(s), epoch: Epoch(e), last_offset: Offset(o) };
        let sorted = [key(1, 1, 1), key(1, 1, 256), key(1, 2, 1), key(2, 1, 0), key(256, 1, u64::MAX)];
        assert!(sorted.is_sorted_by_key(|key| key.to_bytes()));
        sorted.iter().for_each(|key| assert_eq!(ChunkKey::from_bytes(&key.to_bytes()), Some(*key)));
        assert_eq!(ChunkKey::from_bytes(&[0; 15]), None);
    }

    #[test]
    fn every_meta_key_comes_back_and_no_two_look_alike() {
        let s = StreamId(7);
        let keys = [
            MetaKey::FormatVersion,
            MetaKey::StreamName(s),
            MetaKey::StreamState(s),
            MetaKey::Epoch(s, Epoch(2)),
            MetaKey::Schema(s, SchemaId(9)),
            MetaKey::Consumer(s, "audit"),
            MetaKey::Partition(PartitionSeq(3)),
            MetaKey::Directory(s, PartitionSeq(3)),
            MetaKey::Trim(s),
            MetaKey::Source(s),
            MetaKey::Setting("retention-age"),
            MetaKey::Skip(s, Offset(5)),
            MetaKey::Table(s, "public\0orders"),
            MetaKey::Diverged(s, "public\0orders"),
        ];
        for key in keys {
            let bytes = key.to_bytes();
            assert_eq!(MetaKey::from_bytes(&bytes), Some(key));
            assert_eq!(keys.iter().filter(|other| other.to_bytes() == bytes).count(), 1);
        }
        assert_eq!(MetaKey::from_bytes(&[99]), None);
        assert_eq!(MetaKey::from_bytes(&[9, 0, 0, 0, 7, 1]), None);
    }

    #[test]
    fn a_partitions_column_family_is_named_by_eight_digits() {
        assert_eq!(PartitionSeq(0x2a).family(), "p-0000002a");
        assert_eq!(PartitionSeq::from_family("p-0000002a"), Some(PartitionSeq(0x2a)));
        assert_eq!(PartitionSeq::from_family("p-2a"), None);
    }
}
