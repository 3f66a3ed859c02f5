//! Columns of bytes in hexadecimal digits (UUIDs, hashes, bytea), as the bytes that the digits stand for.
//!
//! A compressor brings such digits to half their size and no further, and most of its time goes into that. Here eight of
//! them cost a few instructions, and what is left to the compressor is half as long.

use std::ops::{Range, RangeInclusive};

/// Lengths of values that are tried. In shorter ones there is little to win.
const VALUE_BYTES: RangeInclusive<usize> = 16..=4096;
/// A column of less is not worth a pattern.
const COLUMN_BYTES_MIN: usize = 512;
/// So much of a value must be digits: the rest is stored once, but has to be compared.
const DIGITS_PERCENT_MIN: usize = 75;
/// So many of the digits must be letters: columns of decimal numbers compress better as they are.
const LETTERS_PERCENT_MIN: usize = 12;

/// In a pattern: here is a digit. No text has such a byte.
const DIGIT: u8 = 0;
/// So many digits are packed at a time.
const STEP_DIGITS: usize = 8;
/// And make so many bytes.
const STEP_BYTES: usize = STEP_DIGITS / 2;
/// Values are compared with their pattern in blocks of about this size.
const BLOCK_BYTES: usize = 2048;

/// What the values of a column have in common: all are as long, and the same but where there are digits.
#[derive(Default)]
pub(super) struct Pattern {
    /// That of a value; again and again for a block of them in a pattern that packs.
    tiled: Vec<u8>,
    value_bytes: usize,
    packed_bytes: usize,
    /// In the order of places. What one does behind its run's end, the next one or the next value does over.
    steps: Vec<Step>,
    /// Which number each digit of a block is.
    numbers: Vec<u8>,
}

/// Eight digits of a value, or what is left of a run of them.
struct Step {
    /// Where they are in a value.
    digits: usize,
    /// Where the bytes that they make are among a value's.
    bytes: usize,
}

impl Pattern {
    /// Becomes what `count` values, one after the other, seem to have in common; false if they are not worth it.
    pub(super) fn guess(&mut self, values: &[u8], count: usize) -> bool {
        let length = values.len().checked_div(count).filter(|length| VALUE_BYTES.contains(length));
        let Some(first) = length.and_then(|length| values.get(..length)) else { return false };
        if values.len() < COLUMN_BYTES_MIN || values.len() != count * first.len() {
            return false;
        }
        let digits = first.iter().filter(|byte| is_digit(**byte)).count();
        let letters = first.iter().filter(|byte| matches!(byte, b'a'..=b'f')).count();
        if digits * 100 < first.len() * DIGITS_PERCENT_MIN || letters * 100 < digits * LETTERS_PERCENT_MIN {
            return false;
        }
        let mut pattern = first.to_vec();
        for run in runs(first, is_digit) {
            // Digits make bytes in pairs: of an odd number the first one is taken for a part of the pattern.
            let pairs = pattern.get_mut(run.start + run.len() % 2..run.end);
            pairs.into_iter().flatten().for_each(|byte| *byte = DIGIT);
        }
        let worth = self.set(&pattern).is_some();
        while worth && self.tiled.len() < BLOCK_BYTES {
            self.tiled.extend_from_slice(&pattern);
        }
        worth
    }

    /// A pattern that was stored; none if it is not one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut pattern = Self::default();
        pattern.set(bytes)?;
        Some(pattern)
    }

    fn set(&mut self, value: &[u8]) -> Option<()> {
        self.value_bytes = value.len();
        self.packed_bytes = 0;
        self.steps.clear();
        for run in runs(value, |byte| byte == DIGIT) {
            if run.len() % 2 > 0 {
                return None;
            }
            let (start, bytes) = (run.start, self.packed_bytes);
            let step = |digits: usize| Step { digits, bytes: bytes + (digits - start) / 2 };
            self.packed_bytes += run.len() / 2;
            self.steps.extend(run.step_by(STEP_DIGITS).map(step));
        }
        self.tiled.clear();
        self.tiled.extend_from_slice(value);
        (self.packed_bytes > 0).then_some(())
    }

    /// What is stored of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.tiled.get(..self.value_bytes).unwrap_or_default()
    }

    /// How many bytes `bytes` of values are when packed; none if that is no whole number of values.
    pub(super) fn packed_bytes(&self, bytes: usize) -> Option<usize> {
        bytes.is_multiple_of(self.value_bytes).then(|| bytes / self.value_bytes * self.packed_bytes)
    }

    /// Appends `values`, packed, to `out`; false, and nothing is appended, if they are not all of this pattern.
    pub(super) fn pack(&mut self, values: &[u8], out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let packed = self.packed_bytes(values.len()).and_then(|bytes| {
            out.resize(start + bytes + STEP_BYTES, 0);
            let mut to = out.get_mut(start..)?;
            for block in values.chunks(self.tiled.len()) {
                to = self.pack_block(block, to)?;
            }
            Some(bytes)
        });
        out.truncate(start + packed.unwrap_or_default());
        packed.is_some()
    }

    /// Packs a block to the front of `to`, and gives back what is behind.
    fn pack_block<'a>(&mut self, block: &[u8], mut to: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.numbers.resize(self.tiled.len() + STEP_DIGITS, 0);
        let mut other = false;
        for ((number, byte), pattern) in self.numbers.iter_mut().zip(block).zip(&self.tiled) {
            other |= if *pattern == DIGIT { !is_digit(*byte) } else { byte != pattern };
            *number = number_of(*byte);
        }
        if other {
            return None;
        }
        let mut numbers = self.numbers.as_slice();
        for _ in 0..block.len() / self.value_bytes {
            for step in &self.steps {
                let digits = numbers.get(step.digits..)?.first_chunk()?;
                *to.get_mut(step.bytes..)?.first_chunk_mut()? = pack_step(*digits);
            }
            numbers = numbers.get(self.value_bytes..)?;
            to = to.get_mut(self.packed_bytes..)?;
        }
        Some(to)
    }

    /// Appends the values of so many `bytes` that were packed to `out`; none if `packed` are not those.
    pub(super) fn unpack(&self, packed: &[u8], bytes: usize, out: &mut Vec<u8>) -> Option<()> {
        if self.packed_bytes(bytes)? != packed.len() {
            return None;
        }
        let start = out.len();
        out.resize(start + bytes + STEP_DIGITS, 0);
        let mut to = out.get_mut(start..)?;
        let fixed = runs(self.bytes(), |byte| byte != DIGIT);
        for place in (0..packed.len()).step_by(self.packed_bytes) {
            for step in &self.steps {
                let rest = packed.get(place + step.bytes..)?;
                let four = rest.first_chunk().copied().unwrap_or_else(|| {
                    // The last ones.
                    let mut four = [0; STEP_BYTES];
                    four.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                    four
                });
                *to.get_mut(step.digits..)?.first_chunk_mut()? = unpack_step(four);
            }
            for run in &fixed {
                to.get_mut(run.clone())?.copy_from_slice(self.tiled.get(run.clone())?);
            }
            to = to.get_mut(self.value_bytes..)?;
        }
        out.truncate(start + bytes);
        Some(())
    }
}

/// Where `bytes` are as they should be.
fn runs(bytes: &[u8], are: impl Fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| are(**byte)) {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}

#[inline]
fn is_digit(byte: u8) -> bool {
    (byte.wrapping_sub(b'0') < 10) | (byte.wrapping_sub(b'a') < 6)
}

/// Of a digit; of anything else it means nothing.
#[inline]
fn number_of(digit: u8) -> u8 {
    (digit & 15).wrapping_add(if digit < b'a' { 0 } else { 9 })
}

/// Of eight numbers below 16 the bytes that each two of them make.
#[inline]
fn pack_step(numbers: [u8; STEP_DIGITS]) -> [u8; STEP_BYTES] {
    // Eight lanes become four, and are moved together.
    let wide = u64::from_le_bytes(numbers);
    let wide = (wide << 4 | wide >> 8) & 0x00FF_00FF_00FF_00FF;
    let wide = (wide | wide >> 8) & 0x0000_FFFF_0000_FFFF;
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    ((wide | wide >> 16) as u32).to_le_bytes()
}

/// The digits of four bytes.
#[inline]
fn unpack_step(bytes: [u8; STEP_BYTES]) -> [u8; STEP_DIGITS] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let wide = u64::from(u32::from_le_bytes(bytes));
    let wide = (wide | wide << 16) & 0x0000_FFFF_0000_FFFF;
    let wide = (wide | wide << 8) & 0x00FF_00FF_00FF_00FF;
    let numbers = (wide >> 4 & 0x000F_000F_000F_000F) | (wide & 0x000F_000F_000F_000F) << 8;
    // One in each lane from ten on.
    let letters = (numbers + 6 * EACH) >> 4 & EACH;
    (numbers + u64::from(b'0') * EACH + letters * u64::from(b'a' - b'9' - 1)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Packed if they have a pattern, and the same again.
    fn packed(values: &[&str]) -> Option<Vec<u8>> {
        let column = values.concat().into_bytes();
        let (mut pattern, mut out) = (Pattern::default(), vec![7]);
        if !pattern.guess(&column, values.len()) {
            return None;
        }
        if !pattern.pack(&column, &mut out) {
            assert_eq!(out, [7], "nothing is left behind");
            return None;
        }
        let stored = Pattern::read(pattern.bytes()).unwrap();
        let mut back = vec![7];
        stored.unpack(&out[1..], column.len(), &mut back).unwrap();
        assert_eq!(&back[1..], column);
        assert_eq!(stored.packed_bytes(column.len()), Some(out.len() - 1));
        out.remove(0);
        Some(out)
    }

    #[test]
    fn digits_become_bytes_and_the_rest_is_stored_once() {
        let uuid = packed(&["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"; 100]).unwrap();
        let bytes = [0xA0, 0xEE, 0xBC, 0x99, 0x9C, 0x0B, 0x4E, 0xF8, 0xBB, 0x6D, 0x6B, 0xB9, 0xBD, 0x38, 0x0A, 0x11];
        assert_eq!(uuid, bytes.repeat(100));
        let bytea = packed(&["\\xdeadbeef00112233"; 100]).unwrap();
        assert_eq!(bytea, [0xDE, 0xAD, 0xBE, 0xEF, 0, 0x11, 0x22, 0x33].repeat(100));
        let odd = packed(&["ord_0123456789abcdef012"; 100]).unwrap();
        assert_eq!(odd, [0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE, 0xF0, 0x12].repeat(100));
    }

    #[test]
    fn what_is_not_worth_it_or_has_an_exception_is_left_alone() {
        assert_eq!(packed(&["0123456789abcdef"; 10]), None, "too few");
        assert_eq!(packed(&["0123456789012345"; 100]), None, "decimal");
        assert_eq!(packed(&["0123456789ABCDEF"; 100]), None, "another alphabet");
        assert_eq!(packed(&["abc"; 400]), None, "too short");
        assert_eq!(packed(&["some words that are as long"; 100]), None);
        let good = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for bad in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
            "a0eebc99_9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            let mut values = [good; 200];
            values[199] = bad;
            assert_eq!(packed(&values), None, "{bad}");
        }
        let mut values = [good; 200].to_vec();
        values.push("0");
        assert_eq!(packed(&values), None, "another length");
    }

    proptest! {
        #[test]
        fn any_values_of_a_pattern_come_back(
            shape in proptest::collection::vec(prop_oneof![8 => Just(true), 1 => Just(false)], 16..200),
            seed: u64,
        ) {
            let mut state = seed;
            let values: Vec<String> = (0..60).map(|_| shape.iter().map(|is_digit| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if *is_digit { char::from_digit((state >> 60) as u32, 16).unwrap() } else { '-' }
            }).collect()).collect();
            packed(&values.iter().map(String::as_str).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_read_is_a_pattern_or_not_and_unpacks_what_fits_but_never_panics(
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..40),
            packed in proptest::collection::vec(any::<u8>(), 0..60),
            length in 0..300_usize,
        ) {
            let mut out = Vec::new();
            if let Some(pattern) = Pattern::read(&bytes) && pattern.unpack(&packed, length, &mut out).is_some() {
                prop_assert_eq!(out.len(), length);
            }
        }
    }
}
