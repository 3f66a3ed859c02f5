//! A value of any of PostgreSQL's types, borrowed from the cell it was read from as far as that is possible.

use std::borrow::Cow;

use crate::octets::{Bits, Octets};

/// A typed value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the update left as it was and the source did not send. Not null.
    Unchanged,
    /// `bool`.
    Boolean(bool),
    /// `int2`, `int4`, `int8`.
    Integer(i64),
    /// `oid`, `xid`, `cid` (32 bits), `xid8` (64).
    Unsigned(u64),
    /// `float4`; NaN, infinities and -0 as they are.
    Float(f32),
    /// `float8`.
    Double(f64),
    /// `numeric` as PostgreSQL writes it: ASCII, all its digits, or `NaN`, `Infinity`, `-Infinity`.
    Numeric(Cow<'a, [u8]>),
    /// Text, and the text form of every type that has no case of its own. UTF-8, unless the database has no encoding.
    Text(Cow<'a, [u8]>),
    /// `bytea`.
    Bytes(Octets<'a>),
    /// `date`: days since 2000-01-01, proleptic Gregorian.
    Date(i32),
    /// `time`: microseconds since midnight, up to and including 24:00.
    Time(i64),
    /// `timetz`.
    TimeTz(TimeTz),
    /// `timestamp`: microseconds since 2000-01-01 00:00 in no zone.
    Timestamp(i64),
    /// `timestamptz`: microseconds since 2000-01-01 00:00 UTC.
    TimestampTz(i64),
    /// An infinite date, timestamp, timestamptz or interval.
    Infinity(Sign),
    /// `interval`.
    Interval(Interval),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `json` and `jsonb`, as text.
    Json(Cow<'a, [u8]>),
    /// An array of anything.
    Array(Box<Array<'a>>),
    /// A range of anything.
    Range(Box<Range<'a>>),
    /// Ranges, in order.
    Multirange(Vec<Range<'a>>),
    /// A row's attributes: texts and nulls. PostgreSQL prints a row without attributes like one with a single null.
    Composite(Vec<Option<Cow<'a, [u8]>>>),
    /// A label of an enum.
    Label(Cow<'a, [u8]>),
    /// `bit` and `varbit`.
    Bits(Bits<'a>),
    /// `inet` and `cidr`.
    Network(Network),
    /// `macaddr`.
    Mac([u8; 6]),
    /// `macaddr8`.
    Mac8([u8; 8]),
    /// Points, lines and so on.
    Geometry(Box<Geometry>),
    /// `money`, in hundredths of its unit.
    Money(i64),
    /// `pg_lsn`.
    Lsn(u64),
    /// `tsvector`.
    TextVector(Vec<Lexeme<'a>>),
    /// `xml`, as text.
    Xml(Cow<'a, [u8]>),
    /// The binary form of a type that has no case of its own.
    Binary(Cow<'a, [u8]>),
}

/// Which of the two infinities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// `infinity`
    Positive,
    /// `-infinity`
    Negative,
}

/// A time of day with its offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeTz {
    /// Microseconds since midnight.
    pub time: i64,
    /// Seconds east of UTC.
    pub utc_offset: i32,
}

/// An interval's three parts, none of which can be expressed in another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// Years are twelve of them.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub time: i64,
}

/// An array of up to six dimensions.
#[derive(Clone, PartialEq, Debug)]
pub struct Array<'a> {
    /// Outermost first; none for an empty array.
    pub dimensions: Vec<Dimension>,
    /// In row-major order.
    pub elements: Vec<Value<'a>>,
    /// What stands between two elements in the text form.
    pub delimiter: u8,
}

/// One dimension of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dimension {
    /// How many elements; at least one.
    pub length: u32,
    /// Subscript of the first one; 1 unless the array says otherwise.
    pub lower_bound: i32,
}

/// A range of values.
#[derive(Clone, PartialEq, Debug)]
pub enum Range<'a> {
    /// It contains nothing.
    Empty,
    /// It contains something.
    Bounds {
        /// None: unbounded.
        lower: Option<Value<'a>>,
        /// None: unbounded.
        upper: Option<Value<'a>>,
        /// Whether the lower bound belongs to it.
        lower_inclusive: bool,
        /// Whether the upper bound belongs to it.
        upper_inclusive: bool,
    },
}

/// An address, or a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// The address.
    pub address: std::net::IpAddr,
    /// Bits of the network, at most 32 or 128.
    pub prefix: u8,
    /// Whether it is a `cidr`; else `inet`.
    pub cidr: bool,
}

/// A geometric value.
#[derive(Clone, PartialEq, Debug)]
pub struct Geometry {
    /// Which one.
    pub kind: GeometryKind,
    /// Point: x y. Line: A B C. Segment and box: x y x y. Path and polygon: x y, repeated. Circle: x y radius.
    pub coordinates: Vec<f64>,
    /// An open path.
    pub open: bool,
}

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

/// A word of a `tsvector`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lexeme<'a> {
    /// The word.
    pub text: Cow<'a, [u8]>,
    /// Where it stands in its document.
    pub positions: Vec<Position>,
}

/// A place in a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// From 1 to 16,383.
    pub position: u16,
    /// `A`, `B`, `C`, or `D`, the default.
    pub weight: u8,
}

impl Value<'_> {
    /// The same value, borrowing nothing.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Numeric(text) => Value::Numeric(own(text)),
            Self::Text(text) => Value::Text(own(text)),
            Self::Json(text) => Value::Json(own(text)),
            Self::Label(text) => Value::Label(own(text)),
            Self::Xml(text) => Value::Xml(own(text)),
            Self::Binary(bytes) => Value::Binary(own(bytes)),
            Self::Bytes(octets) => Value::Bytes(octets.into_owned()),
            Self::Bits(bits) => Value::Bits(bits.into_owned()),
            Self::Array(array) => {
                let Array { dimensions, elements, delimiter } = *array;
                let elements = elements.into_iter().map(Value::into_owned).collect();
                Value::Array(Box::new(Array { dimensions, elements, delimiter }))
            }
            Self::Range(range) => Value::Range(Box::new(range.into_owned())),
            Self::Multirange(ranges) => Value::Multirange(ranges.into_iter().map(Range::into_owned).collect()),
            Self::Composite(fields) => Value::Composite(fields.into_iter().map(|field| field.map(own)).collect()),
            Self::TextVector(lexemes) => Value::TextVector(
                lexemes.into_iter().map(|Lexeme { text, positions }| Lexeme { text: own(text), positions }).collect(),
            ),
            Self::Null => Value::Null,
            Self::Unchanged => Value::Unchanged,
            Self::Boolean(value) => Value::Boolean(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Unsigned(value) => Value::Unsigned(value),
            Self::Float(value) => Value::Float(value),
            Self::Double(value) => Value::Double(value),
            Self::Date(value) => Value::Date(value),
            Self::Time(value) => Value::Time(value),
            Self::TimeTz(value) => Value::TimeTz(value),
            Self::Timestamp(value) => Value::Timestamp(value),
            Self::TimestampTz(value) => Value::TimestampTz(value),
            Self::Infinity(value) => Value::Infinity(value),
            Self::Interval(value) => Value::Interval(value),
            Self::Uuid(value) => Value::Uuid(value),
            Self::Network(value) => Value::Network(value),
            Self::Mac(value) => Value::Mac(value),
            Self::Mac8(value) => Value::Mac8(value),
            Self::Geometry(value) => Value::Geometry(value),
            Self::Money(value) => Value::Money(value),
            Self::Lsn(value) => Value::Lsn(value),
        }
    }
}

impl Range<'_> {
    fn into_owned(self) -> Range<'static> {
        match self {
            Self::Empty => Range::Empty,
            Self::Bounds { lower, upper, lower_inclusive, upper_inclusive } => Range::Bounds {
                lower: lower.map(Value::into_owned),
                upper: upper.map(Value::into_owned),
                lower_inclusive,
                upper_inclusive,
            },
        }
    }
}

pub(crate) fn own(bytes: Cow<'_, [u8]>) -> Cow<'static, [u8]> {
    Cow::Owned(bytes.into_owned())
}
