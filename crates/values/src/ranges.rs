//! Ranges and multiranges.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::{Budget, Decoder};
use crate::error::ValueError;
use crate::quoting::{DOUBLED, bare, quoted};
use crate::value::{Range, Value};

const RANGE: &str = "a range, [lower,upper) or empty";
const MULTIRANGE: &str = "a multirange, {[lower,upper),...}";

pub(crate) fn range<'a>(text: &'a [u8], subtype: &Decoder, budget: &mut Budget) -> Result<Value<'a>, ValueError> {
    let mut cursor = Cursor::new(text, RANGE);
    let range = if cursor.eat_all(b"empty") { Range::Empty } else { bounds(&mut cursor, subtype, budget)? };
    cursor.end()?;
    Ok(Value::Range(Box::new(range)))
}

pub(crate) fn multirange<'a>(text: &'a [u8], subtype: &Decoder, budget: &mut Budget) -> Result<Value<'a>, ValueError> {
    let mut cursor = Cursor::new(text, MULTIRANGE);
    cursor.want(b'{')?;
    let mut ranges = Vec::new();
    while !cursor.eat(b'}') {
        if !ranges.is_empty() {
            cursor.want(b',')?;
        }
        budget.spend()?;
        ranges.push(bounds(&mut cursor, subtype, budget)?);
    }
    cursor.end()?;
    Ok(Value::Multirange(ranges))
}

fn bounds<'a>(cursor: &mut Cursor<'a>, subtype: &Decoder, budget: &mut Budget) -> Result<Range<'a>, ValueError> {
    let lower_inclusive = cursor.eat(b'[');
    if !lower_inclusive {
        cursor.want(b'(')?;
    }
    let lower = bound(cursor, subtype, budget, [b',', b','])?;
    cursor.want(b',')?;
    let upper = bound(cursor, subtype, budget, [b')', b']'])?;
    let upper_inclusive = cursor.eat(b']');
    if !upper_inclusive {
        cursor.want(b')')?;
    }
    Ok(Range::Bounds { lower, upper, lower_inclusive, upper_inclusive })
}

fn bound<'a>(
    cursor: &mut Cursor<'a>,
    subtype: &Decoder,
    budget: &mut Budget,
    stops: [u8; 2],
) -> Result<Option<Value<'a>>, ValueError> {
    let at = cursor.at();
    let part = match cursor.peek() {
        Some(byte) if stops.contains(&byte) => return Ok(None),
        Some(b'"') => quoted(cursor, DOUBLED)?,
        _ => Cow::Borrowed(bare(cursor, stops, b"\"\\()[],")?),
    };
    subtype.part(part, budget).map(Some).map_err(|error| error.within(at))
}
