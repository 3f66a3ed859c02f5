//! Points, lines, segments, boxes, paths, polygons, circles.

use crate::cursor::Cursor;
use crate::decoder::Budget;
use crate::error::ValueError;
use crate::numbers::float;
use crate::value::{Geometry, GeometryKind};

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

pub(crate) fn geometry(text: &[u8], kind: GeometryKind, budget: &mut Budget) -> Result<Geometry, ValueError> {
    let mut reader = Reader { cursor: Cursor::new(text, kind.expected()), coordinates: Vec::new(), budget };
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
    Ok(Geometry { kind, coordinates: reader.coordinates, open })
}

struct Reader<'a, 'b> {
    cursor: Cursor<'a>,
    coordinates: Vec<f64>,
    budget: &'b mut Budget,
}

impl Reader<'_, '_> {
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
        self.budget.spend()?;
        self.coordinates.push(number);
        self.cursor.want(then)
    }
}
