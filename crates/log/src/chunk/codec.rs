//! How a chunk's block is compressed: lz4 where that is enough, zstd where lz4 leaves too much, nothing where neither
//! helps.
//!
//! lz4 finds repetitions, but writes everything else byte by byte; columns of hexadecimal digits, numbers or UUIDs in text
//! form stay at 0.5 to 0.7 of their size. zstd also writes frequent bytes shorter and brings those to 0.3 or 0.4, in about the
//! same time; of words it takes up to twice lz4's. Which of the two a stream's rows need does not change from chunk to chunk,
//! so it is tried now and then and remembered.

use std::io::Cursor;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
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
/// lz4 is enough when it leaves no more than this many percent.
const LZ4_ENOUGH_PERCENT: usize = 40;
/// zstd must leave no more than this many percent of what lz4 leaves, or its time is not worth it.
const ZSTD_WORTH_PERCENT: usize = 90;
/// A block smaller than this is not worth zstd: its own headers eat what it saves.
const ZSTD_BYTES_MIN: usize = 512;
/// After so many blocks both are tried again.
const REMEMBERED_BLOCKS: u8 = 100;
/// lz4 makes at most 255 bytes out of one.
const LZ4_RATIO_MAX: usize = 255;
/// A zstd block of 128 KiB takes at least 4 bytes.
const ZSTD_RATIO_MAX: usize = 32 * 1024;

/// What the last blocks of a stream said about the next ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodecChoice {
    /// How many more blocks go to zstd without asking lz4.
    zstd_for: u8,
    /// How many more blocks go to lz4 without asking zstd.
    lz4_for: u8,
}

/// The compressors' working memory.
#[derive(Default)]
pub(super) struct Compressor {
    lz4: Option<CompressTable>,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// Appends `raw` to `out`, as small as it is worth.
    pub(super) fn append(&mut self, raw: &[u8], out: &mut Vec<u8>, choice: &mut CodecChoice) -> Codec {
        let start = out.len();
        if choice.zstd_for > 0 {
            choice.zstd_for -= 1;
            if self.zstd(raw, out).is_some_and(|length| length < raw.len()) {
                return Codec::Zstd;
            }
            out.truncate(start);
        }
        let lz4_bytes = self.lz4(raw, out).unwrap_or(usize::MAX);
        let enough = lz4_bytes <= raw.len() / 100 * LZ4_ENOUGH_PERCENT || raw.len() < ZSTD_BYTES_MIN;
        if !enough && choice.lz4_for > 0 {
            choice.lz4_for -= 1;
        } else if !enough {
            let (lz4_end, lz4_or_raw) = (out.len(), lz4_bytes.min(raw.len()));
            if self.zstd(raw, out).is_some_and(|length| length <= lz4_or_raw / 100 * ZSTD_WORTH_PERCENT) {
                choice.zstd_for = REMEMBERED_BLOCKS;
                out.drain(start..lz4_end);
                return Codec::Zstd;
            }
            out.truncate(lz4_end);
            choice.lz4_for = REMEMBERED_BLOCKS;
        }
        if lz4_bytes < raw.len() {
            return Codec::Lz4;
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Codec::Raw
    }

    /// Appends `raw`, heads of columns, to `out`: as a zstd frame, or as it is when that is no longer.
    pub(super) fn append_heads(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        if self.zstd(raw, out).is_none_or(|length| length >= raw.len()) {
            out.truncate(start);
            out.extend_from_slice(raw);
        }
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

    /// How heads of columns were stored: they are not smaller only when they are as they are.
    pub(super) fn of_heads(block_bytes: usize, raw_bytes: usize) -> Self {
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
            Self::Zstd => zstd::bulk::decompress(block, raw_bytes).ok()?,
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
        let repeated = b"the same words again, ".repeat(1000);
        let digits: Vec<u8> = (0..40_000).map(|_| b"0123456789abcdef"[usize::from(noise() % 16)]).collect();
        let random: Vec<u8> = (0..40_000).map(|_| noise()).collect();
        let mut compressor = Compressor::default();
        for (raw, expected) in
            [(repeated, Codec::Lz4), (digits, Codec::Zstd), (random, Codec::Raw), (vec![7], Codec::Raw)]
        {
            let mut choice = CodecChoice::default();
            for _ in 0..3 {
                let mut out = vec![1, 2, 3];
                assert_eq!(compressor.append(&raw, &mut out, &mut choice), expected);
                assert!(expected.can_yield(out.len() - 3, raw.len()));
                assert_eq!(expected.decompress(&out[3..], raw.len()).as_ref(), Some(&raw));
                assert_eq!(expected.decompress(&out[3..], raw.len() + 1), None);
            }
        }
    }
}
