//! A value with all its parts, to be compared, and to be written anew from them. The fuzz target uses it too.

use dbstreamd_model::CellRef;
use dbstreamd_values::{Bounds, Decoder, Dimension, GeometryKind, Position, Value, ValueError};

/// A value all of whose parts were read.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Whole {
    Null,
    /// What is one thing: what it is, in which NaN equals itself and 0 is not -0, and its text.
    One {
        shown: String,
        text: Vec<u8>,
    },
    Array {
        dimensions: Vec<Dimension>,
        elements: Vec<Whole>,
        delimiter: u8,
    },
    Range(Between),
    Multirange(Vec<Between>),
    Composite(Vec<Option<Vec<u8>>>),
    /// Its coordinates are what they show.
    Geometry {
        kind: GeometryKind,
        coordinates: Vec<String>,
        open: bool,
    },
    TextVector(Vec<(Vec<u8>, Vec<Position>)>),
}

/// A range all of whose parts were read.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Between {
    Nothing,
    Bounds { lower: Option<Box<Whole>>, upper: Option<Box<Whole>>, inclusive: (bool, bool) },
}

impl From<Value<'_>> for Whole {
    fn from(value: Value<'_>) -> Self {
        let mut text = Vec::new();
        value.to_text(&mut text);
        match value {
            Value::Null => Self::Null,
            value => Self::One { shown: format!("{value:?}"), text },
        }
    }
}

impl Whole {
    pub(super) fn read(decoder: &Decoder, cell: CellRef<'_>) -> Result<Self, ValueError> {
        Self::of(decoder, decoder.decode(cell)?)
    }

    fn of(decoder: &Decoder, value: Value<'_>) -> Result<Self, ValueError> {
        Ok(match (decoder, value) {
            (Decoder::Array { delimiter, element }, Value::Array(array)) => {
                let mut elements = Vec::new();
                let dimensions = array.read(|part| {
                    let part = part.map(|part| part.read(|value| Self::of(element, value))).transpose()?;
                    elements.push(part.unwrap_or(Self::Null));
                    Ok(())
                })?;
                Self::Array { dimensions: dimensions.as_slice().to_vec(), elements, delimiter: *delimiter }
            }
            (Decoder::Range(subtype), Value::Range(range)) => {
                Self::Range(range.read()?.map_or(Ok(Between::Nothing), |bounds| Between::of(subtype, &bounds))?)
            }
            (Decoder::Multirange(subtype), Value::Multirange(multirange)) => {
                let mut ranges = Vec::new();
                multirange.read(|bounds| {
                    ranges.push(Between::of(subtype, &bounds)?);
                    Ok(())
                })?;
                Self::Multirange(ranges)
            }
            (_, Value::Composite(composite)) => {
                let mut fields = Vec::new();
                composite.read(|field| fields.push(field.map(<[u8]>::to_vec)))?;
                Self::Composite(fields)
            }
            (_, Value::Geometry(geometry)) => {
                let mut coordinates = Vec::new();
                let open = geometry.read(|coordinate| coordinates.push(format!("{coordinate:e}")))?;
                Self::Geometry { kind: geometry.kind, coordinates, open }
            }
            (_, Value::TextVector(vector)) => {
                let mut lexemes = Vec::new();
                vector.read(|lexeme| {
                    let mut positions = Vec::new();
                    lexeme.positions.read(|position| positions.push(position))?;
                    lexemes.push((lexeme.text.into_owned(), positions));
                    Ok(())
                })?;
                Self::TextVector(lexemes)
            }
            (_, value) => Self::from(value),
        })
    }

    /// Appends its text, made of its parts.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::One { text, .. } => out.extend_from_slice(text),
            Self::Array { dimensions, elements, delimiter } => write_array(dimensions, elements, *delimiter, out),
            Self::Range(range) => range.write(out),
            Self::Multirange(ranges) => {
                out.push(b'{');
                separated(ranges, out, Between::write);
                out.push(b'}');
            }
            Self::Composite(fields) => {
                out.push(b'(');
                separated(fields, out, |field, out| {
                    field.iter().for_each(|field| write_quoted(field, b"\"\\(),", true, out));
                });
                out.push(b')');
            }
            Self::Geometry { kind, coordinates, open } => write_geometry(*kind, coordinates, *open, out),
            Self::TextVector(lexemes) => lexemes.iter().enumerate().for_each(|(i, lexeme)| {
                out.extend((i > 0).then_some(b' '));
                write_lexeme(lexeme, out);
            }),
        }
    }
}

impl Between {
    fn of(subtype: &Decoder, bounds: &Bounds<'_>) -> Result<Self, ValueError> {
        let lower = bounds.lower.as_ref().map(|part| part.read(|value| Whole::of(subtype, value))).transpose()?;
        let upper = bounds.upper.as_ref().map(|part| part.read(|value| Whole::of(subtype, value))).transpose()?;
        let inclusive = (bounds.lower_inclusive, bounds.upper_inclusive);
        Ok(Self::Bounds { lower: lower.map(Box::new), upper: upper.map(Box::new), inclusive })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let Self::Bounds { lower, upper, inclusive } = self else { return out.extend_from_slice(b"empty") };
        let bound = |bound: &Option<Box<Whole>>, out: &mut Vec<u8>| {
            if let Some(value) = bound {
                let mut text = Vec::new();
                value.write(&mut text);
                write_quoted(&text, b"\"\\()[],", true, out);
            }
        };
        out.push(if inclusive.0 { b'[' } else { b'(' });
        bound(lower, out);
        out.push(b',');
        bound(upper, out);
        out.push(if inclusive.1 { b']' } else { b')' });
    }
}

fn separated<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (i, item) in items.iter().enumerate() {
        out.extend((i > 0).then_some(b','));
        write(item, out);
    }
}

/// In quotes if it is empty or holds one of these or a space; the quote doubled, or behind a backslash.
fn write_quoted(text: &[u8], special: &[u8], doubled: bool, out: &mut Vec<u8>) {
    let special = |byte: &u8| special.contains(byte) || byte.is_ascii_whitespace() || *byte == 0x0B;
    if !text.is_empty() && !text.iter().any(special) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' | b'\\' if doubled => out.extend_from_slice(&[byte, byte]),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn write_array(dimensions: &[Dimension], elements: &[Whole], delimiter: u8, out: &mut Vec<u8>) {
    if dimensions.is_empty() {
        return out.extend_from_slice(b"{}");
    }
    if dimensions.iter().any(|dimension| dimension.lower_bound != 1) {
        for dimension in dimensions {
            let upper = i64::from(dimension.lower_bound) + i64::from(dimension.length) - 1;
            out.extend_from_slice(format!("[{}:{upper}]", dimension.lower_bound).as_bytes());
        }
        out.push(b'=');
    }
    // How many elements each level's braces hold, outermost first.
    let mut spans: Vec<usize> = Vec::new();
    for dimension in dimensions.iter().rev() {
        spans.insert(0, spans.first().unwrap_or(&1) * dimension.length as usize);
    }
    let special = [b'"', b'\\', b'{', b'}', delimiter];
    for (i, element) in elements.iter().enumerate() {
        out.extend((i > 0).then_some(delimiter));
        spans.iter().filter(|span| i.is_multiple_of(**span)).for_each(|_| out.push(b'{'));
        let mut text = Vec::new();
        element.write(&mut text);
        if *element == Whole::Null {
            out.extend_from_slice(b"NULL");
        } else if text.eq_ignore_ascii_case(b"NULL") {
            out.extend([b"\"", text.as_slice(), b"\""].concat());
        } else {
            write_quoted(&text, &special, false, out);
        }
        spans.iter().filter(|span| (i + 1).is_multiple_of(**span)).for_each(|_| out.push(b'}'));
    }
}

fn write_geometry(kind: GeometryKind, coordinates: &[String], open: bool, out: &mut Vec<u8>) {
    let numbers = |numbers: &[String]| {
        // As PostgreSQL calls it.
        let named = |number: &String| number.replace("inf", "Infinity");
        numbers.iter().map(named).collect::<Vec<_>>().join(",")
    };
    let point = |pair: &[String]| format!("({})", numbers(pair));
    let points = || coordinates.chunks(2).map(point).collect::<Vec<_>>().join(",");
    let written = match kind {
        GeometryKind::Point | GeometryKind::Box => points(),
        GeometryKind::Line => format!("{{{}}}", numbers(coordinates)),
        GeometryKind::Segment => format!("[{}]", points()),
        GeometryKind::Path if open => format!("[{}]", points()),
        GeometryKind::Path | GeometryKind::Polygon => format!("({})", points()),
        GeometryKind::Circle => format!("<{},{}>", point(&coordinates[..2]), coordinates[2]).replace("inf", "Infinity"),
    };
    out.extend_from_slice(written.as_bytes());
}

fn write_lexeme((word, positions): &(Vec<u8>, Vec<Position>), out: &mut Vec<u8>) {
    out.push(b'\'');
    for &byte in word {
        out.extend(matches!(byte, b'\'' | b'\\').then_some(byte));
        out.push(byte);
    }
    out.push(b'\'');
    out.extend((!positions.is_empty()).then_some(b':'));
    separated(positions, out, |place, out| {
        out.extend_from_slice(place.position.to_string().as_bytes());
        out.extend(Some(place.weight).filter(|&weight| weight != b'D'));
    });
}
