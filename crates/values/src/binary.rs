//! PostgreSQL's binary form, of the types in which it is simple; what is not here stays binary.

use std::borrow::Cow;

use crate::calendar::{DATE_MAX, DATE_MIN};
use crate::decoder::Scalar;
use crate::error::ValueError;
use crate::octets::Octets;
use crate::times::DAY;
use crate::value::{Interval, Sign, TimeTz, Value};

/// First byte of a binary jsonb.
const JSONB_VERSION: u8 = 1;

pub(crate) fn scalar(scalar: Scalar, bytes: &[u8]) -> Result<Value<'_>, ValueError> {
    Ok(match scalar {
        Scalar::Boolean => match bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            _ => return Err(ValueError::new("a binary bool, one byte 0 or 1", 0)),
        },
        Scalar::Int2 => Value::Integer(i16::from_be_bytes(fixed(bytes, "a binary int2, 2 bytes")?).into()),
        Scalar::Int4 => Value::Integer(i32::from_be_bytes(fixed(bytes, "a binary int4, 4 bytes")?).into()),
        Scalar::Int8 => Value::Integer(i64::from_be_bytes(fixed(bytes, "a binary int8, 8 bytes")?)),
        Scalar::Unsigned4 => Value::Unsigned(u32::from_be_bytes(fixed(bytes, "a binary oid, 4 bytes")?).into()),
        Scalar::Unsigned8 => Value::Unsigned(u64::from_be_bytes(fixed(bytes, "a binary xid8, 8 bytes")?)),
        Scalar::Float4 => Value::Float(f32::from_be_bytes(fixed(bytes, "a binary float4, 4 bytes")?)),
        Scalar::Float8 => Value::Double(f64::from_be_bytes(fixed(bytes, "a binary float8, 8 bytes")?)),
        Scalar::Numeric => Value::Numeric(numeric(bytes)?),
        Scalar::Text => Value::Text(Cow::Borrowed(bytes)),
        Scalar::Char => char(bytes)?,
        Scalar::Bytes => Value::Bytes(Octets::Raw(bytes)),
        Scalar::Date => match i32::from_be_bytes(fixed(bytes, "a binary date, 4 bytes")?) {
            i32::MAX => Value::Infinity(Sign::Positive),
            i32::MIN => Value::Infinity(Sign::Negative),
            days if (DATE_MIN..=DATE_MAX).contains(&days.into()) => Value::Date(days),
            _ => return Err(ValueError::new("a binary date in its range", 0)),
        },
        Scalar::Time => Value::Time(time(bytes, "a binary time, 8 bytes")?),
        Scalar::TimeTz => timetz(bytes)?,
        Scalar::Timestamp => timestamp(bytes, Value::Timestamp)?,
        Scalar::TimestampTz => timestamp(bytes, Value::TimestampTz)?,
        Scalar::Interval => interval(bytes)?,
        Scalar::Uuid => Value::Uuid(fixed(bytes, "a binary uuid, 16 bytes")?),
        Scalar::Json => Value::Json(bytes),
        Scalar::Jsonb => match bytes.split_first() {
            Some((&JSONB_VERSION, text)) => Value::Json(text),
            _ => return Err(ValueError::new("a binary jsonb of version 1", 0)),
        },
        Scalar::Money => Value::Money(i64::from_be_bytes(fixed(bytes, "a binary money value, 8 bytes")?)),
        Scalar::Lsn => Value::Lsn(u64::from_be_bytes(fixed(bytes, "a binary pg_lsn, 8 bytes")?)),
        Scalar::Label => Value::Label(bytes),
        Scalar::Other
        | Scalar::Bits
        | Scalar::Inet
        | Scalar::Cidr
        | Scalar::Mac
        | Scalar::Mac8
        | Scalar::Geometry(_)
        | Scalar::TextVector
        // Its binary form may name another encoding in its head.
        | Scalar::Xml => Value::Binary(bytes),
    })
}

fn fixed<const N: usize>(bytes: &[u8], expected: &'static str) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError::new(expected, bytes.len().min(N)))
}

/// `"char"`: in text form nothing for 0, and an octal escape for what is not ASCII.
fn char(bytes: &[u8]) -> Result<Value<'_>, ValueError> {
    match bytes {
        [0] => Ok(Value::Text(Cow::Borrowed(b""))),
        [byte] if byte.is_ascii() => Ok(Value::Text(Cow::Borrowed(bytes))),
        [byte] => Ok(Value::Text(Cow::Owned(format!("\\{byte:03o}").into_bytes()))),
        _ => Err(ValueError::new("a binary \"char\", 1 byte", 0)),
    }
}

fn time(bytes: &[u8], expected: &'static str) -> Result<i64, ValueError> {
    let time = i64::from_be_bytes(fixed(bytes, expected)?);
    if (0..=DAY).contains(&time) { Ok(time) } else { Err(ValueError::new(expected, 0)) }
}

fn timetz(bytes: &[u8]) -> Result<Value<'static>, ValueError> {
    let expected = "a binary timetz, 12 bytes";
    let Some((head, west)) = bytes.split_at_checked(8) else { return Err(ValueError::new(expected, bytes.len())) };
    let west = i32::from_be_bytes(fixed(west, expected).map_err(|error| error.within(8))?);
    let utc_offset = west.checked_neg().ok_or(ValueError::new(expected, 8))?;
    Ok(Value::TimeTz(TimeTz { time: time(head, expected)?, utc_offset }))
}

fn timestamp(bytes: &[u8], finite: fn(i64) -> Value<'static>) -> Result<Value<'static>, ValueError> {
    Ok(match i64::from_be_bytes(fixed(bytes, "a binary timestamp, 8 bytes")?) {
        i64::MAX => Value::Infinity(Sign::Positive),
        i64::MIN => Value::Infinity(Sign::Negative),
        micros => finite(micros),
    })
}

fn interval(bytes: &[u8]) -> Result<Value<'static>, ValueError> {
    let all: [u8; 16] = fixed(bytes, "a binary interval, 16 bytes")?;
    let all = i128::from_be_bytes(all);
    // Time, days and months, from the highest bits on; each cast keeps exactly its part.
    #[expect(clippy::cast_possible_truncation, reason = "that is how a part is taken")]
    let (time, days, months) = ((all >> 64) as i64, (all >> 32) as i32, all as i32);
    Ok(match (time, days, months) {
        // Since PostgreSQL 17; before, the longest interval that could be written.
        (i64::MAX, i32::MAX, i32::MAX) => Value::Infinity(Sign::Positive),
        (i64::MIN, i32::MIN, i32::MIN) => Value::Infinity(Sign::Negative),
        _ => Value::Interval(Interval { months, days, time }),
    })
}

/// Digits to the base of 10,000 → the text that PostgreSQL would write.
fn numeric(bytes: &[u8]) -> Result<Cow<'static, [u8]>, ValueError> {
    let expected = "a binary numeric";
    let wrong = |at| ValueError::new(expected, at);
    let Some((head, digits)) = bytes.split_first_chunk::<8>() else { return Err(wrong(bytes.len())) };
    let [count_high, count_low, weight_high, weight_low, sign_high, sign_low, scale_high, scale_low] = *head;
    let count = usize::from(u16::from_be_bytes([count_high, count_low]));
    let weight = i32::from(i16::from_be_bytes([weight_high, weight_low]));
    let scale = usize::from(u16::from_be_bytes([scale_high, scale_low]));
    if digits.len() != 2 * count || scale > 0x3FFF {
        return Err(wrong(0));
    }
    let negative = match u16::from_be_bytes([sign_high, sign_low]) {
        0x0000 => false,
        0x4000 => true,
        0xC000 => return Ok(Cow::Borrowed(b"NaN")),
        0xD000 => return Ok(Cow::Borrowed(b"Infinity")),
        0xF000 => return Ok(Cow::Borrowed(b"-Infinity")),
        _ => return Err(wrong(4)),
    };
    let mut groups = digits.as_chunks::<2>().0.iter().map(|&group| u16::from_be_bytes(group));
    if groups.clone().any(|group| group > 9_999) {
        return Err(wrong(8));
    }
    let mut text = Vec::with_capacity(count * 4 + scale + 8);
    if negative {
        text.push(b'-');
    }
    let whole_from = text.len();
    for _ in 0..=weight {
        push_group(&mut text, groups.next().unwrap_or(0));
    }
    let zeroes = text.iter().skip(whole_from).take_while(|&&digit| digit == b'0').count();
    text.drain(whole_from..whole_from + zeroes);
    if text.len() == whole_from {
        text.push(b'0');
    }
    if scale > 0 {
        text.push(b'.');
        let fraction_from = text.len();
        // Groups between the point and the first digit.
        let mut missing = -1 - weight;
        while text.len() < fraction_from + scale {
            let group = if missing > 0 { 0 } else { groups.next().unwrap_or(0) };
            missing -= 1;
            push_group(&mut text, group);
        }
        text.truncate(fraction_from + scale);
    }
    Ok(Cow::Owned(text))
}

fn push_group(text: &mut Vec<u8>, group: u16) {
    for power in [1_000, 100, 10, 1] {
        text.push(b'0' + u8::try_from(group / power % 10).unwrap_or(0));
    }
}
