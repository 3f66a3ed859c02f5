//! Ranges and multiranges.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::Decoder;
use crate::error::ValueError;
use crate::parts::Part;
use crate::quoting::{DOUBLED, bare, quoted};

const RANGE: &str = "a range, [lower,upper) or empty";
const MULTIRANGE: &str = "a multirange, {[lower,upper),...}";

/// A range of values, not yet read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) subtype: &'a Decoder,
}

/// What a range that contains something lies between.
#[derive(Clone, Debug)]
pub struct Bounds<'a> {
    /// None: unbounded.
    pub lower: Option<Part<'a>>,
    /// None: unbounded.
    pub upper: Option<Part<'a>>,
    /// Whether the lower bound belongs to it.
    pub lower_inclusive: bool,
    /// Whether the upper bound belongs to it.
    pub upper_inclusive: bool,
}

impl<'a> Range<'a> {
    /// Its bounds, themselves not yet read; none for the range that contains nothing.
    ///
    /// # Errors
    /// When the text is not a range.
    pub fn read(&self) -> Result<Option<Bounds<'a>>, ValueError> {
        let mut cursor = Cursor::new(self.text, RANGE);
        let bounds = if cursor.eat_all(b"empty") { None } else { Some(bounds(&mut cursor, self.subtype)?) };
        cursor.end()?;
        Ok(bounds)
    }
}

/// Ranges in order, not yet read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Multirange<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) subtype: &'a Decoder,
}

impl Multirange<'_> {
    /// Gives each range in order.
    ///
    /// # Errors
    /// When the text is not a multirange, though ranges may have been given before that was found; and what `each` fails
    /// with.
    pub fn read(&self, mut each: impl FnMut(Bounds<'_>) -> Result<(), ValueError>) -> Result<(), ValueError> {
        let mut cursor = Cursor::new(self.text, MULTIRANGE);
        cursor.want(b'{')?;
        let mut first = true;
        while !cursor.eat(b'}') {
            if !first {
                cursor.want(b',')?;
            }
            first = false;
            each(bounds(&mut cursor, self.subtype)?)?;
        }
        cursor.end()
    }
}

fn bounds<'a>(cursor: &mut Cursor<'a>, subtype: &'a Decoder) -> Result<Bounds<'a>, ValueError> {
    let lower_inclusive = cursor.eat(b'[');
    if !lower_inclusive {
        cursor.want(b'(')?;
    }
    let lower = bound(cursor, subtype, [b',', b','])?;
    cursor.want(b',')?;
    let upper = bound(cursor, subtype, [b')', b']'])?;
    let upper_inclusive = cursor.eat(b']');
    if !upper_inclusive {
        cursor.want(b')')?;
    }
    Ok(Bounds { lower, upper, lower_inclusive, upper_inclusive })
}

fn bound<'a>(cursor: &mut Cursor<'a>, subtype: &'a Decoder, stops: [u8; 2]) -> Result<Option<Part<'a>>, ValueError> {
    let at = cursor.at();
    let text = match cursor.peek() {
        Some(byte) if stops.contains(&byte) => return Ok(None),
        Some(b'"') => quoted(cursor, DOUBLED)?,
        _ => Cow::Borrowed(bare(cursor, stops, b"\"\\()[],")?),
    };
    Ok(Some(Part::new(text, at, subtype)))
}
