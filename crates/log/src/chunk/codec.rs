//! How a chunk's block is compressed: lz4 when it is small, zstd when there is something to learn from, nothing where that
//! does not help.
//!
//! lz4 finds repetitions, but writes everything else byte by byte. zstd also writes frequent bytes shorter, and leaves two
//! fifths less of words and JSON and half of numbers; but it has to say first how it writes them, which a small block
//! does not give back.

use std::io::Cursor;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use parking_lot::Mutex;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::{CParameter, ParamSwitch, Strategy, compress_bound};

/// How a block is stored; the number is in the chunk's flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Codec {
    /// As it is.
    Raw = 0,
    /// An lz4 block without a length in front.
    Lz4 = 1,
    /// A zstd frame.
    Zstd = 2,
}

/// What zstd starts from: its fastest level.
const ZSTD_LEVEL: i32 = 1;
/// And what differs from it: most of its time would go into looking for repetitions, so it looks for long ones only and at fewer
/// places, which in columns are still enough; what frequent bytes save is left as it is, which a negative level would
/// give up.
const ZSTD_PARAMETERS: [CParameter; 5] = [
    CParameter::Strategy(Strategy::ZSTD_fast),
    CParameter::HashLog(13),
    CParameter::MinMatch(7),
    CParameter::TargetLength(5),
    CParameter::LiteralCompressionMode(ParamSwitch::Enable),
];
/// A smaller block is left to lz4.
const ZSTD_BYTES_MIN: usize = 512;
/// lz4 makes at most 255 bytes out of one.
const LZ4_RATIO_MAX: usize = 255;
/// A zstd block of 128 KiB takes at least 4 bytes.
const ZSTD_RATIO_MAX: usize = 32 * 1024;

/// What zstd needs to decompress a block, 100 KB, takes as long to set up as a small block to decompress.
static IDLE: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());
/// So many are kept.
const IDLE_MAX: usize = 4;

/// The compressors' working memory.
#[derive(Default)]
pub(super) struct Compressor {
    lz4: Option<CompressTable>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// Appends `raw` to `out`, as small as it is worth.
    pub(super) fn append(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Codec {
        let start = out.len();
        let (codec, bytes) = if raw.len() < ZSTD_BYTES_MIN {
            (Codec::Lz4, self.lz4(raw, out))
        } else {
            (Codec::Zstd, self.zstd(raw, out))
        };
        if bytes.is_some_and(|bytes| bytes < raw.len()) {
            return codec;
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Codec::Raw
    }

    /// Appends `raw` to `out`, as a zstd frame, or as it is when that is no longer; returns how many bytes that were.
    pub(super) fn append_zstd(&mut self, raw: &[u8], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        if raw.is_empty() || self.zstd(raw, out).is_none_or(|length| length >= raw.len()) {
            out.truncate(start);
            out.extend_from_slice(raw);
        }
        out.len() - start
    }

    fn lz4(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        out.resize(start + get_maximum_output_size(raw.len()), 0);
        let table = self.lz4.get_or_insert_with(CompressTable::large);
        let length = compress_into_with_table(raw, out.get_mut(start..)?, table).ok()?;
        out.truncate(start + length);
        Some(length)
    }

    fn zstd(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = zstd_compressor();
        }
        out.reserve(compress_bound(raw.len()));
        let mut end = Cursor::new(&mut *out);
        end.set_position(end.get_ref().len() as u64);
        self.zstd.as_mut()?.compress_to_buffer(raw, &mut end).ok()
    }
}

fn zstd_compressor() -> Option<zstd::bulk::Compressor<'static>> {
    let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?;
    ZSTD_PARAMETERS.into_iter().try_for_each(|parameter| compressor.set_parameter(parameter)).ok()?;
    Some(compressor)
}

impl Codec {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        [Self::Raw, Self::Lz4, Self::Zstd].into_iter().find(|codec| *codec as u8 == code)
    }

    /// How [`Compressor::append_zstd`] has stored something: it is not smaller only when it is as it was.
    pub(super) fn of_zstd(block_bytes: usize, raw_bytes: usize) -> Self {
        if block_bytes == raw_bytes { Self::Raw } else { Self::Zstd }
    }

    /// Whether `block_bytes` can decompress to `raw_bytes`: asked before memory is set aside.
    pub(super) fn can_yield(self, block_bytes: usize, raw_bytes: usize) -> bool {
        match self {
            Self::Raw => raw_bytes == block_bytes,
            Self::Lz4 => raw_bytes / LZ4_RATIO_MAX <= block_bytes,
            Self::Zstd => raw_bytes / ZSTD_RATIO_MAX <= block_bytes,
        }
    }

    /// The block as it was; none unless it is exactly of that length.
    pub(super) fn decompress(self, block: &[u8], raw_bytes: usize) -> Option<Vec<u8>> {
        let raw = match self {
            Self::Raw => block.to_vec(),
            Self::Lz4 => {
                let mut raw = vec![0; raw_bytes];
                let length = decompress_into(block, &mut raw).ok()?;
                raw.truncate(length);
                raw
            }
            Self::Zstd => {
                let kept = IDLE.lock().pop();
                let mut decompressor = kept.or_else(|| Decompressor::new().ok())?;
                let raw = decompressor.decompress(block, raw_bytes);
                let mut idle = IDLE.lock();
                if idle.len() < IDLE_MAX {
                    idle.push(decompressor);
                }
                raw.ok()?
            }
        };
        (raw.len() == raw_bytes).then_some(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_data_gets_the_codec_that_suits_it_and_comes_back() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let (few, repeated) = (b"the same words again, ".repeat(10), b"the same words again, ".repeat(1000));
        let digits: Vec<u8> = (0..40_000).map(|_| b"0123456789abcdef"[usize::from(noise() % 16)]).collect();
        let random: Vec<u8> = (0..40_000).map(|_| noise()).collect();
        let mut compressor = Compressor::default();
        for (raw, expected) in [
            (few, Codec::Lz4),
            (repeated, Codec::Zstd),
            (digits, Codec::Zstd),
            (random, Codec::Raw),
            (vec![7], Codec::Raw),
        ] {
            let mut out = vec![1, 2, 3];
            assert_eq!(compressor.append(&raw, &mut out), expected);
            assert!(expected.can_yield(out.len() - 3, raw.len()));
            assert_eq!(expected.decompress(&out[3..], raw.len()).as_ref(), Some(&raw));
            assert_eq!(expected.decompress(&out[3..], raw.len() + 1), None);
        }
    }
}
