//! LEB128 variable-length integers, and zigzag for signed differences.

/// Appends `value`, 7 bits a byte, lowest first.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low 7 bits are meant")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 128")]
    out.push(value as u8);
}

/// Appends the difference `to - from`, which may be negative and may wrap.
#[inline]
pub(super) fn put_delta(out: &mut Vec<u8>, from: u64, to: u64) {
    let delta = to.wrapping_sub(from).cast_signed();
    put(out, (delta << 1 ^ delta >> 63).cast_unsigned());
}

/// Reads what [`put`] wrote; none when it is cut off or longer than a `u64` can be.
#[inline]
pub(super) fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7F);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Reads what [`put_delta`] wrote.
#[inline]
pub(super) fn take_delta(input: &mut &[u8], from: u64) -> Option<u64> {
    let zigzag = take(input)?;
    let delta = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
    Some(from.wrapping_add(delta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_and_difference_comes_back_and_no_cut_of_it_does() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), 1 << 62, u64::MAX - 1, u64::MAX];
        for (&a, &b) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))) {
            let mut bytes = Vec::new();
            put(&mut bytes, a);
            let cut = bytes.len();
            put_delta(&mut bytes, a, b);
            let mut input = bytes.as_slice();
            assert_eq!((take(&mut input), take_delta(&mut input, a)), (Some(a), Some(b)));
            assert!(input.is_empty());
            (0..cut).for_each(|end| assert_eq!(take(&mut &bytes[..end]), None));
        }
        assert_eq!(take(&mut [0xFF; 11].as_slice()), None);
        assert_eq!(take(&mut [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02].as_slice()), None);
    }
}
