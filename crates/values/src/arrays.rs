//! Arrays: up to six dimensions, with lower bounds, of elements that may be quoted.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::{Budget, Decoder};
use crate::error::ValueError;
use crate::quoting::{BACKSLASHED, bare, quoted};
use crate::value::{Array, Dimension, Value};

const ARRAY: &str = "an array, {...} or [lower:upper]={...}";

/// PostgreSQL's own limit (`MAXDIM`).
const DIMENSIONS_MAX: usize = 6;

pub(crate) fn array<'a>(
    text: &'a [u8],
    delimiter: u8,
    element: &Decoder,
    budget: &mut Budget,
) -> Result<Value<'a>, ValueError> {
    let mut cursor = Cursor::new(text, ARRAY);
    let bounds = bounds(&mut cursor)?;
    let mut elements = Vec::new();
    let mut shape = Shape::default();
    let start = cursor.at();
    if bounds.is_empty() && cursor.eat_all(b"{}") {
        cursor.end()?;
        return Ok(made(Vec::new(), elements, delimiter));
    }
    loop {
        // An item: one level deeper, or an element.
        let at = cursor.at();
        if cursor.eat(b'{') {
            if !shape.open() {
                return Err(ValueError::new(ARRAY, at));
            }
            continue;
        }
        if !shape.element() {
            return Err(ValueError::new(ARRAY, at));
        }
        budget.spend()?;
        elements.push(item(&mut cursor, delimiter, element, budget)?);
        // Behind an item: the end of as many levels as there are braces, and then the next item.
        while cursor.peek() == Some(b'}') {
            if !shape.close() {
                return Err(cursor.fail());
            }
            cursor.skip(1);
        }
        if shape.depth == 0 {
            break;
        }
        cursor.want(delimiter)?;
    }
    cursor.end()?;
    let dimensions = shape.dimensions(&bounds).ok_or(ValueError::new(ARRAY, start))?;
    Ok(made(dimensions, elements, delimiter))
}

fn made(dimensions: Vec<Dimension>, elements: Vec<Value<'_>>, delimiter: u8) -> Value<'_> {
    Value::Array(Box::new(Array { dimensions, elements, delimiter }))
}

/// `[lower:upper]` for each dimension and `=`, if any lower bound is not 1; as (length, lower).
fn bounds(cursor: &mut Cursor<'_>) -> Result<Vec<Dimension>, ValueError> {
    let mut bounds = Vec::new();
    while cursor.peek() == Some(b'[') {
        let wrong = cursor.fail();
        if bounds.len() == DIMENSIONS_MAX {
            return Err(wrong);
        }
        cursor.skip(1);
        let lower = cursor.signed()?;
        cursor.want(b':')?;
        let upper = cursor.signed()?;
        cursor.want(b']')?;
        let lower_bound = i32::try_from(lower).map_err(|_| wrong)?;
        let upper = i32::try_from(upper).map_err(|_| wrong)?;
        let length = i64::from(upper) - i64::from(lower_bound) + 1;
        let length = u32::try_from(length).ok().filter(|&length| length > 0).ok_or(wrong)?;
        bounds.push(Dimension { length, lower_bound });
    }
    if !bounds.is_empty() {
        cursor.want(b'=')?;
    }
    Ok(bounds)
}

fn item<'a>(
    cursor: &mut Cursor<'a>,
    delimiter: u8,
    element: &Decoder,
    budget: &mut Budget,
) -> Result<Value<'a>, ValueError> {
    let at = cursor.at();
    let part = if cursor.peek() == Some(b'"') {
        quoted(cursor, BACKSLASHED)?
    } else {
        let part = bare(cursor, [delimiter, b'}'], b"{\"\\")?;
        if part.eq_ignore_ascii_case(b"NULL") {
            return Ok(Value::Null);
        }
        if part.is_empty() {
            // An empty text is always quoted.
            return Err(cursor.fail());
        }
        Cow::Borrowed(part)
    };
    element.part(part, budget).map_err(|error| error.within(at))
}

/// How long each dimension is: found out by the first of its kind, and the same for all others.
#[derive(Default)]
struct Shape {
    /// Open braces.
    depth: usize,
    /// Braces around elements; 0 as long as there was none.
    leaf_depth: usize,
    /// Items so far in the open braces of each level.
    counts: [u32; DIMENSIONS_MAX],
    /// Items in the braces of each level; 0 as long as none were closed.
    lengths: [u32; DIMENSIONS_MAX],
}

impl Shape {
    /// A brace opens; false where none may.
    fn open(&mut self) -> bool {
        let fits = self.depth < DIMENSIONS_MAX && (self.leaf_depth == 0 || self.depth < self.leaf_depth);
        self.depth += usize::from(fits);
        fits
    }

    /// An element; false where none may be.
    fn element(&mut self) -> bool {
        if self.leaf_depth == 0 {
            self.leaf_depth = self.depth;
        }
        self.depth > 0 && self.depth == self.leaf_depth && self.count()
    }

    /// One more item in the innermost open braces.
    fn count(&mut self) -> bool {
        let level = self.depth.checked_sub(1).and_then(|level| self.counts.get_mut(level));
        level.is_some_and(|count| {
            *count = count.saturating_add(1);
            true
        })
    }

    /// A brace closes; false when there are more or fewer items in it than in the ones before.
    fn close(&mut self) -> bool {
        let Some(level) = self.depth.checked_sub(1) else { return false };
        let (Some(count), Some(length)) = (self.counts.get_mut(level), self.lengths.get_mut(level)) else {
            return false;
        };
        let count = std::mem::take(count);
        if *length == 0 {
            *length = count;
        }
        let fits = *length == count;
        self.depth = level;
        fits && (level == 0 || self.count())
    }

    /// The dimensions; none when the bounds say something else.
    fn dimensions(&self, bounds: &[Dimension]) -> Option<Vec<Dimension>> {
        let lengths = self.lengths.get(..self.leaf_depth)?;
        if bounds.is_empty() {
            return Some(lengths.iter().map(|&length| Dimension { length, lower_bound: 1 }).collect());
        }
        let same = bounds.len() == lengths.len() && bounds.iter().zip(lengths).all(|(b, &length)| b.length == length);
        same.then(|| bounds.to_vec())
    }
}
