//! Quoted and bare parts, as arrays, ranges, composites and text vectors write them.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::error::ValueError;

/// How a quoted part says its quote and its backslash.
#[derive(Clone, Copy)]
pub(crate) struct Escapes {
    pub(crate) quote: u8,
    /// A doubled quote is a quote; else it can only be escaped by a backslash. A backslash always escapes the next byte.
    pub(crate) doubled: bool,
}

/// Array elements: `"a\"b"`.
pub(crate) const BACKSLASHED: Escapes = Escapes { quote: b'"', doubled: false };
/// Bounds and attributes: `"a""b"`.
pub(crate) const DOUBLED: Escapes = Escapes { quote: b'"', doubled: true };

/// A part in quotes, the cursor at the first of them. Borrowed unless something in it was escaped.
pub(crate) fn quoted<'a>(cursor: &mut Cursor<'a>, escapes: Escapes) -> Result<Cow<'a, [u8]>, ValueError> {
    cursor.want(escapes.quote)?;
    let mut out: Option<Vec<u8>> = None;
    loop {
        let rest = cursor.rest();
        let Some(at) = memchr::memchr2(escapes.quote, b'\\', rest) else {
            cursor.skip(rest.len());
            return Err(cursor.fail());
        };
        let (plain, special) = rest.split_at(at);
        let escaped = match *special {
            [b'\\', next, ..] => Some(next),
            [b'\\'] => {
                cursor.skip(rest.len());
                return Err(cursor.fail());
            }
            [quote, next, ..] if escapes.doubled && next == quote => Some(quote),
            _ => None,
        };
        let Some(byte) = escaped else {
            cursor.skip(at + 1);
            return Ok(match out {
                None => Cow::Borrowed(plain),
                Some(mut out) => {
                    out.extend_from_slice(plain);
                    Cow::Owned(out)
                }
            });
        };
        let out = out.get_or_insert_with(Vec::new);
        out.extend_from_slice(plain);
        out.push(byte);
        cursor.skip(at + 2);
    }
}

/// A part without quotes: up to one of `stops`, which must come, without any of `forbidden`.
#[inline]
pub(crate) fn bare<'a>(cursor: &mut Cursor<'a>, stops: [u8; 2], forbidden: &[u8]) -> Result<&'a [u8], ValueError> {
    let rest = cursor.rest();
    let ends = |byte: &u8| stops.contains(byte) || forbidden.contains(byte);
    let length = rest.iter().position(ends).unwrap_or(rest.len());
    cursor.skip(length);
    match rest.split_at(length) {
        (part, [stop, ..]) if stops.contains(stop) => Ok(part),
        _ => Err(cursor.fail()),
    }
}
