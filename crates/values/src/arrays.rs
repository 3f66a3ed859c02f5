//! Arrays: up to six dimensions, with lower bounds, of elements that may be quoted.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::decoder::Decoder;
use crate::error::ValueError;
use crate::parts::Part;
use crate::quoting::{BACKSLASHED, bare, quoted};

const ARRAY: &str = "an array, {...} or [lower:upper]={...}";

/// PostgreSQL's own limit (`MAXDIM`).
const DIMENSIONS_MAX: usize = 6;

/// An array of up to six dimensions, its elements not yet read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Array<'a> {
    pub(crate) text: &'a [u8],
    /// What stands between two elements.
    pub(crate) delimiter: u8,
    pub(crate) element: &'a Decoder,
}

/// One dimension of an array.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Dimension {
    /// How many elements; at least one.
    pub length: u32,
    /// Subscript of the first one; 1 unless the array says otherwise.
    pub lower_bound: i32,
}

/// An array's dimensions, outermost first; none of an empty array.
#[derive(Clone, Copy, Default, Debug)]
pub struct Dimensions {
    all: [Dimension; DIMENSIONS_MAX],
    count: usize,
}

impl Dimensions {
    /// As a slice.
    pub fn as_slice(&self) -> &[Dimension] {
        self.all.get(..self.count).unwrap_or_default()
    }

    /// One more; false when there are too many.
    fn push(&mut self, dimension: Dimension) -> bool {
        let Some(place) = self.all.get_mut(self.count) else { return false };
        *place = dimension;
        self.count += 1;
        true
    }
}

impl Array<'_> {
    /// Gives each element in row-major order, NULL as none, and then says what the dimensions are: that can be seen only
    /// from all elements.
    ///
    /// # Errors
    /// When the text is not an array, though elements may have been given before that was found; and what `each` fails
    /// with.
    pub fn read(
        &self,
        mut each: impl FnMut(Option<Part<'_>>) -> Result<(), ValueError>,
    ) -> Result<Dimensions, ValueError> {
        let mut cursor = Cursor::new(self.text, ARRAY);
        let bounds = bounds(&mut cursor)?;
        let mut shape = Shape::default();
        let start = cursor.at();
        if bounds.as_slice().is_empty() && cursor.eat_all(b"{}") {
            cursor.end()?;
            return Ok(bounds);
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
            each(self.item(&mut cursor)?)?;
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
            cursor.want(self.delimiter)?;
        }
        cursor.end()?;
        shape.dimensions(&bounds).ok_or(ValueError::new(ARRAY, start))
    }

    #[inline]
    fn item<'b>(&'b self, cursor: &mut Cursor<'b>) -> Result<Option<Part<'b>>, ValueError> {
        let at = cursor.at();
        if cursor.peek() == Some(b'"') {
            return Ok(Some(Part::new(quoted(cursor, BACKSLASHED)?, at, self.element)));
        }
        let text = bare(cursor, [self.delimiter, b'}'], b"{\"\\")?;
        if text.eq_ignore_ascii_case(b"NULL") {
            return Ok(None);
        }
        if text.is_empty() {
            // An empty text is always quoted.
            return Err(cursor.fail());
        }
        Ok(Some(Part::new(Cow::Borrowed(text), at, self.element)))
    }
}

/// `[lower:upper]` for each dimension and `=`, if any lower bound is not 1.
fn bounds(cursor: &mut Cursor<'_>) -> Result<Dimensions, ValueError> {
    let mut bounds = Dimensions::default();
    while cursor.peek() == Some(b'[') {
        let wrong = cursor.fail();
        cursor.skip(1);
        let lower = cursor.signed()?;
        cursor.want(b':')?;
        let upper = cursor.signed()?;
        cursor.want(b']')?;
        let lower_bound = i32::try_from(lower).map_err(|_| wrong)?;
        let upper = i32::try_from(upper).map_err(|_| wrong)?;
        let length = i64::from(upper) - i64::from(lower_bound) + 1;
        let length = u32::try_from(length).ok().filter(|&length| length > 0).ok_or(wrong)?;
        if !bounds.push(Dimension { length, lower_bound }) {
            return Err(wrong);
        }
    }
    if bounds.count > 0 {
        cursor.want(b'=')?;
    }
    Ok(bounds)
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
    #[inline]
    fn open(&mut self) -> bool {
        let fits = self.depth < DIMENSIONS_MAX && (self.leaf_depth == 0 || self.depth < self.leaf_depth);
        self.depth += usize::from(fits);
        fits
    }

    /// An element; false where none may be.
    #[inline]
    fn element(&mut self) -> bool {
        if self.leaf_depth == 0 {
            self.leaf_depth = self.depth;
        }
        self.depth > 0 && self.depth == self.leaf_depth && self.count()
    }

    /// One more item in the innermost open braces.
    #[inline]
    fn count(&mut self) -> bool {
        let level = self.depth.checked_sub(1).and_then(|level| self.counts.get_mut(level));
        level.is_some_and(|count| {
            *count = count.saturating_add(1);
            true
        })
    }

    /// A brace closes; false when there are more or fewer items in it than in the ones before.
    #[inline]
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
    fn dimensions(&self, bounds: &Dimensions) -> Option<Dimensions> {
        let lengths = self.lengths.get(..self.leaf_depth)?;
        if bounds.count > 0 {
            let same = bounds.as_slice().iter().map(|bound| &bound.length).eq(lengths);
            return same.then_some(*bounds);
        }
        let mut dimensions = Dimensions::default();
        lengths.iter().all(|&length| dimensions.push(Dimension { length, lower_bound: 1 })).then_some(dimensions)
    }
}
