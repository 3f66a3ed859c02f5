//! Points, lines, segments, boxes, paths, polygons, circles.

use crate::cursor::Cursor;
use crate::error::ValueError;
use crate::numbers::float;

/// The geometric types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeometryKind {
    /// `point`
    Point,
    /// `line`
    Line,
    /// `lseg`
    Segment,
    /// `box`
    Box,
    /// `path`
    Path,
    /// `polygon`
    Polygon,
    /// `circle`
    Circle,
}

impl GeometryKind {
    const fn expected(self) -> &'static str {
        match self {
            Self::Point => "a point, (x,y)",
            Self::Line => "a line, {A,B,C}",
            Self::Segment => "a segment, [(x,y),(x,y)]",
            Self::Box => "a box, (x,y),(x,y)",
            Self::Path => "a path, [(x,y),...] or ((x,y),...)",
            Self::Polygon => "a polygon, ((x,y),...)",
            Self::Circle => "a circle, <(x,y),r>",
        }
    }
}

/// A geometric value, its coordinates not yet read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry<'a> {
    /// Which one.
    pub kind: GeometryKind,
    pub(crate) text: &'a [u8],
}

impl Geometry<'_> {
    /// Gives each coordinate, and then whether it is an open path. Point: x y. Line: A B C. Segment and box: x y x y. Path
    /// and polygon: x y, repeated. Circle: x y radius.
    ///
    /// # Errors
    /// When the text is not of this kind, though coordinates may have been given before that was found.
    pub fn read(&self, each: impl FnMut(f64)) -> Result<bool, ValueError> {
        let kind = self.kind;
        let mut reader = Reader { cursor: Cursor::new(self.text, kind.expected()), each };
        let mut open = false;
        match kind {
            GeometryKind::Point => reader.point()?,
            GeometryKind::Line => {
                reader.cursor.want(b'{')?;
                reader.number(b',')?;
                reader.number(b',')?;
                reader.number(b'}')?;
            }
            GeometryKind::Segment => {
                reader.cursor.want(b'[')?;
                reader.two_points()?;
                reader.cursor.want(b']')?;
            }
            GeometryKind::Box => reader.two_points()?,
            GeometryKind::Path | GeometryKind::Polygon => {
                open = kind == GeometryKind::Path && reader.cursor.eat(b'[');
                if !open {
                    reader.cursor.want(b'(')?;
                }
                reader.point()?;
                while reader.cursor.eat(b',') {
                    reader.point()?;
                }
                reader.cursor.want(if open { b']' } else { b')' })?;
            }
            GeometryKind::Circle => {
                reader.cursor.want(b'<')?;
                reader.point()?;
                reader.cursor.want(b',')?;
                reader.number(b'>')?;
            }
        }
        reader.cursor.end()?;
        Ok(open)
    }
}

struct Reader<'a, F> {
    cursor: Cursor<'a>,
    each: F,
}

impl<F: FnMut(f64)> Reader<'_, F> {
    fn point(&mut self) -> Result<(), ValueError> {
        self.cursor.want(b'(')?;
        self.number(b',')?;
        self.number(b')')
    }

    fn two_points(&mut self) -> Result<(), ValueError> {
        self.point()?;
        self.cursor.want(b',')?;
        self.point()
    }

    /// A float and what follows it.
    fn number(&mut self, then: u8) -> Result<(), ValueError> {
        let from = self.cursor.at();
        let length = memchr::memchr(then, self.cursor.rest()).ok_or_else(|| self.cursor.fail())?;
        self.cursor.skip(length);
        let number = float(self.cursor.since(from), "a float8").map_err(|error| error.within(from))?;
        (self.each)(number);
        self.cursor.want(then)
    }
}
