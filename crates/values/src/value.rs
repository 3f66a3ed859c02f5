//! A value of any of PostgreSQL's types, borrowed from the cell it was read from as far as that is possible.

use std::borrow::Cow;

use crate::arrays::Array;
use crate::composites::Composite;
use crate::geometry::Geometry;
use crate::octets::{Bits, Octets};
use crate::ranges::{Multirange, Range};
use crate::text_search::TextVector;

/// A typed value. One of parts has its text, and gives them as they are read.
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
    Json(&'a [u8]),
    /// An array of anything.
    Array(Array<'a>),
    /// A range of anything.
    Range(Range<'a>),
    /// Ranges, in order.
    Multirange(Multirange<'a>),
    /// A row's attributes.
    Composite(Composite<'a>),
    /// A label of an enum.
    Label(&'a [u8]),
    /// `bit` and `varbit`.
    Bits(Bits<'a>),
    /// `inet` and `cidr`.
    Network(Network),
    /// `macaddr`.
    Mac([u8; 6]),
    /// `macaddr8`.
    Mac8([u8; 8]),
    /// Points, lines and so on.
    Geometry(Geometry<'a>),
    /// `money`, in hundredths of its unit.
    Money(i64),
    /// `pg_lsn`.
    Lsn(u64),
    /// `tsvector`.
    TextVector(TextVector<'a>),
    /// `xml`, as text.
    Xml(&'a [u8]),
    /// The binary form of a type that has no case of its own.
    Binary(&'a [u8]),
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
