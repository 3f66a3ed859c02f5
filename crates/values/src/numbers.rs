//! Numbers: `bool`, the integers, the floats, `numeric`, `money`, `pg_lsn`.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::cursor::{Cursor, signed};
use crate::error::ValueError;

/// `t` or `f`.
pub(crate) fn boolean(text: &[u8]) -> Result<bool, ValueError> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(ValueError::new("a bool, t or f", 0)),
    }
}

/// A decimal integer in this range.
#[inline]
pub(crate) fn integer(text: &[u8], expected: &'static str, range: RangeInclusive<i64>) -> Result<i64, ValueError> {
    let mut cursor = Cursor::new(text, expected);
    let value = cursor.signed()?;
    cursor.end()?;
    if range.contains(&value) { Ok(value) } else { Err(ValueError::new(expected, 0)) }
}

/// A decimal integer from 0 to this.
pub(crate) fn unsigned(text: &[u8], expected: &'static str, max: u64) -> Result<u64, ValueError> {
    let mut cursor = Cursor::new(text, expected);
    let value = cursor.unsigned()?;
    cursor.end()?;
    if value <= max { Ok(value) } else { Err(ValueError::new(expected, 0)) }
}

/// What both sizes of floats have.
pub(crate) trait Float: FromStr + Copy {
    const NAN: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    fn is_finite(self) -> bool;
}

impl Float for f32 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Float for f64 {
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// A float as PostgreSQL prints it: the shortest text that reads back to the same bits, which the standard parser does.
pub(crate) fn float<F: Float>(text: &[u8], expected: &'static str) -> Result<F, ValueError> {
    let wrong = ValueError::new(expected, 0);
    match text {
        b"NaN" => return Ok(F::NAN),
        b"Infinity" => return Ok(F::INFINITY),
        b"-Infinity" => return Ok(F::NEG_INFINITY),
        _ => {}
    }
    // The standard parser takes more than PostgreSQL writes: words, a sign or a dot in front.
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|_| wrong)?;
    match text.parse::<F>() {
        Ok(value) if unsigned.first().is_some_and(u8::is_ascii_digit) && value.is_finite() => Ok(value),
        _ => Err(wrong),
    }
}

/// A numeric, checked and left as it is.
#[inline]
pub(crate) fn numeric(text: &[u8]) -> Result<&[u8], ValueError> {
    let mut cursor = Cursor::new(text, "a numeric");
    if matches!(text, b"NaN" | b"Infinity" | b"-Infinity") {
        return Ok(text);
    }
    cursor.eat(b'-');
    digits(&mut cursor)?;
    if cursor.eat(b'.') {
        digits(&mut cursor)?;
    }
    cursor.end()?;
    Ok(text)
}

/// One digit or more, of any number.
#[inline]
fn digits(cursor: &mut Cursor<'_>) -> Result<(), ValueError> {
    cursor.digit().ok_or_else(|| cursor.fail())?;
    while cursor.digit().is_some() {}
    Ok(())
}

/// `-$1,234.56`: what `lc_monetary` C makes of hundredths.
pub(crate) fn money(text: &[u8]) -> Result<i64, ValueError> {
    let expected = "a money value, $1,234.56";
    let mut cursor = Cursor::new(text, expected);
    let negative = cursor.eat(b'-');
    cursor.want(b'$')?;
    let mut units = 0_u64;
    let wrong = ValueError::new(expected, 0);
    let mut add = |digit: u8| {
        units = units.checked_mul(10)?.checked_add(digit.into())?;
        Some(())
    };
    add(cursor.digit().ok_or_else(|| cursor.fail())?).ok_or(wrong)?;
    loop {
        if let Some(digit) = cursor.digit() {
            add(digit).ok_or(wrong)?;
        } else if !cursor.eat(b',') {
            break;
        }
    }
    cursor.want(b'.')?;
    let cents = cursor.two()?;
    cursor.end()?;
    let hundredths = units.checked_mul(100).and_then(|units| units.checked_add(cents.into())).ok_or(wrong)?;
    signed(negative, hundredths).ok_or(wrong)
}

/// `16/B374D848`.
pub(crate) fn lsn(text: &[u8]) -> Result<u64, ValueError> {
    let mut cursor = Cursor::new(text, "an LSN, X/Y");
    let high = hex32(&mut cursor)?;
    cursor.want(b'/')?;
    let low = hex32(&mut cursor)?;
    cursor.end()?;
    Ok(high << 32 | low)
}

/// One to eight hexadecimal digits.
fn hex32(cursor: &mut Cursor<'_>) -> Result<u64, ValueError> {
    let mut value = 0;
    for place in 0..8 {
        match cursor.peek().and_then(|byte| char::from(byte).to_digit(16)) {
            Some(digit) => {
                value = value << 4 | u64::from(digit);
                cursor.skip(1);
            }
            None if place == 0 => return Err(cursor.fail()),
            None => break,
        }
    }
    Ok(value)
}
