//! What a column's values are: decided once, from its type, never from a value.

use std::borrow::Cow;

use dbstreamd_model::{CellRef, Column, TypeDescription, TypeKind};

use crate::arrays::Array;
use crate::composites::Composite;
use crate::error::ValueError;
use crate::geometry::{Geometry, GeometryKind};
use crate::ranges::{Multirange, Range};
use crate::text_search::TextVector;
use crate::value::Value;
use crate::{binary, network, numbers, octets, times};

/// Types nest this deep at most; deeper ones are text. More than anybody has, and few enough messages within messages for
/// Protobuf, whose readers stop at 100.
pub const DEPTH_MAX: usize = 16;

/// How the values of one column are read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoder {
    /// A value that is one thing.
    Scalar(Scalar),
    /// A list of such values.
    Array {
        /// What stands between two elements.
        delimiter: u8,
        /// How an element is read.
        element: Box<Decoder>,
    },
    /// A range of such values.
    Range(Box<Decoder>),
    /// Ranges of such values.
    Multirange(Box<Decoder>),
    /// A row of attributes, each in text form.
    Composite,
}

/// The types that are one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scalar {
    /// `bool`
    Boolean,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `oid`, `xid`, `cid`
    Unsigned4,
    /// `xid8`
    Unsigned8,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `text` and its kin, whose binary form is their text form.
    Text,
    /// `"char"`
    Char,
    /// Any type that has no case of its own: text form, or binary form.
    Other,
    /// `bytea`
    Bytes,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timetz`
    TimeTz,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    TimestampTz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `bit`, `varbit`
    Bits,
    /// `inet`
    Inet,
    /// `cidr`
    Cidr,
    /// `macaddr`
    Mac,
    /// `macaddr8`
    Mac8,
    /// `point`, `line` and so on.
    Geometry(GeometryKind),
    /// `money`
    Money,
    /// `pg_lsn`
    Lsn,
    /// `tsvector`
    TextVector,
    /// `xml`
    Xml,
    /// An enum.
    Label,
}

impl Decoder {
    /// How this column's values are read. Every column has a decoder: what is not known otherwise is text.
    pub fn for_column(column: &Column) -> Self {
        match &column.description {
            Some(description) => Self::described(description, DEPTH_MAX),
            None => Self::built_in(&column.type_name),
        }
    }

    fn described(description: &TypeDescription, deeper_max: usize) -> Self {
        let Some(deeper_max) = deeper_max.checked_sub(1) else { return Self::Scalar(Scalar::Other) };
        let inner = |inner: &TypeDescription| Box::new(Self::described(inner, deeper_max));
        match &description.kind {
            TypeKind::Base => Self::built_in(&description.name),
            TypeKind::Enum => Self::Scalar(Scalar::Label),
            TypeKind::Composite => Self::Composite,
            TypeKind::Array { delimiter, element } => Self::Array { delimiter: *delimiter, element: inner(element) },
            TypeKind::Range(subtype) => Self::Range(inner(subtype)),
            TypeKind::Multirange(subtype) => Self::Multirange(inner(subtype)),
            TypeKind::Domain(base) => Self::described(base, deeper_max),
            TypeKind::Unknown => Self::Scalar(Scalar::Other),
        }
    }

    /// PostgreSQL's own type of this name; anything else is text.
    fn built_in(name: &str) -> Self {
        if name.contains('.') {
            return Self::Scalar(Scalar::Other);
        }
        if let Some(element) = name.strip_prefix('_') {
            let delimiter = if element == "box" { b';' } else { b',' };
            // An array's element is no array, so this goes one step deep.
            let element = if element.starts_with('_') { Self::Scalar(Scalar::Other) } else { Self::built_in(element) };
            return Self::Array { delimiter, element: Box::new(element) };
        }
        let of = |scalar| Box::new(Self::Scalar(scalar));
        match name {
            "int4range" => Self::Range(of(Scalar::Int4)),
            "int8range" => Self::Range(of(Scalar::Int8)),
            "numrange" => Self::Range(of(Scalar::Numeric)),
            "tsrange" => Self::Range(of(Scalar::Timestamp)),
            "tstzrange" => Self::Range(of(Scalar::TimestampTz)),
            "daterange" => Self::Range(of(Scalar::Date)),
            "int4multirange" => Self::Multirange(of(Scalar::Int4)),
            "int8multirange" => Self::Multirange(of(Scalar::Int8)),
            "nummultirange" => Self::Multirange(of(Scalar::Numeric)),
            "tsmultirange" => Self::Multirange(of(Scalar::Timestamp)),
            "tstzmultirange" => Self::Multirange(of(Scalar::TimestampTz)),
            "datemultirange" => Self::Multirange(of(Scalar::Date)),
            name => Self::Scalar(Scalar::named(name)),
        }
    }

    /// Reads one cell. A value of parts still has its text, which is read and checked as its parts are taken.
    ///
    /// # Errors
    /// When its bytes are not a value of the column's type.
    #[inline]
    pub fn decode<'a>(&'a self, cell: CellRef<'a>) -> Result<Value<'a>, ValueError> {
        match cell {
            CellRef::Null => Ok(Value::Null),
            CellRef::Unchanged => Ok(Value::Unchanged),
            CellRef::Text(text) => self.text(text),
            CellRef::Binary(bytes) => self.binary(bytes),
        }
    }

    #[inline]
    pub(crate) fn text<'a>(&'a self, text: &'a [u8]) -> Result<Value<'a>, ValueError> {
        Ok(match self {
            Self::Scalar(scalar) => scalar.text(text)?,
            Self::Array { delimiter, element } => Value::Array(Array { text, delimiter: *delimiter, element }),
            Self::Range(subtype) => Value::Range(Range { text, subtype }),
            Self::Multirange(subtype) => Value::Multirange(Multirange { text, subtype }),
            Self::Composite => Value::Composite(Composite { text }),
        })
    }

    fn binary<'a>(&self, bytes: &'a [u8]) -> Result<Value<'a>, ValueError> {
        match self {
            Self::Scalar(scalar) => binary::scalar(*scalar, bytes),
            _ => Ok(Value::Binary(bytes)),
        }
    }
}

impl Scalar {
    fn named(name: &str) -> Self {
        match name {
            "bool" => Self::Boolean,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "oid" | "xid" | "cid" => Self::Unsigned4,
            "xid8" => Self::Unsigned8,
            "float4" => Self::Float4,
            "float8" => Self::Float8,
            "numeric" => Self::Numeric,
            "text" | "varchar" | "bpchar" | "name" | "cstring" | "unknown" | "refcursor" => Self::Text,
            "char" => Self::Char,
            "bytea" => Self::Bytes,
            "date" => Self::Date,
            "time" => Self::Time,
            "timetz" => Self::TimeTz,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::TimestampTz,
            "interval" => Self::Interval,
            "uuid" => Self::Uuid,
            "json" => Self::Json,
            "jsonb" => Self::Jsonb,
            "bit" | "varbit" => Self::Bits,
            "inet" => Self::Inet,
            "cidr" => Self::Cidr,
            "macaddr" => Self::Mac,
            "macaddr8" => Self::Mac8,
            "point" => Self::Geometry(GeometryKind::Point),
            "line" => Self::Geometry(GeometryKind::Line),
            "lseg" => Self::Geometry(GeometryKind::Segment),
            "box" => Self::Geometry(GeometryKind::Box),
            "path" => Self::Geometry(GeometryKind::Path),
            "polygon" => Self::Geometry(GeometryKind::Polygon),
            "circle" => Self::Geometry(GeometryKind::Circle),
            "money" => Self::Money,
            "pg_lsn" => Self::Lsn,
            "tsvector" => Self::TextVector,
            "xml" => Self::Xml,
            _ => Self::Other,
        }
    }

    #[inline]
    fn text(self, text: &[u8]) -> Result<Value<'_>, ValueError> {
        Ok(match self {
            Self::Int8 => Value::Integer(numbers::integer(text, "an int8", i64::MIN..=i64::MAX)?),
            Self::Int4 => Value::Integer(numbers::integer(text, "an int4", i32::MIN.into()..=i32::MAX.into())?),
            Self::Text | Self::Char | Self::Other => Value::Text(Cow::Borrowed(text)),
            Self::Numeric => Value::Numeric(Cow::Borrowed(numbers::numeric(text)?)),
            Self::Boolean => Value::Boolean(numbers::boolean(text)?),
            Self::Int2 => Value::Integer(numbers::integer(text, "an int2", i16::MIN.into()..=i16::MAX.into())?),
            Self::Unsigned4 => Value::Unsigned(numbers::unsigned(text, "a number of 32 bits", u32::MAX.into())?),
            Self::Unsigned8 => Value::Unsigned(numbers::unsigned(text, "a number of 64 bits", u64::MAX)?),
            Self::Float4 => Value::Float(numbers::float(text, "a float4")?),
            Self::Float8 => Value::Double(numbers::float(text, "a float8")?),
            Self::Bytes => Value::Bytes(octets::bytea(text)?),
            Self::Date => times::date(text)?,
            Self::Time => Value::Time(times::time(text)?),
            Self::TimeTz => Value::TimeTz(times::timetz(text)?),
            Self::Timestamp => times::timestamp(text)?,
            Self::TimestampTz => times::timestamptz(text)?,
            Self::Interval => times::interval(text)?,
            Self::Uuid => Value::Uuid(octets::uuid(text)?),
            Self::Json | Self::Jsonb => Value::Json(text),
            Self::Bits => Value::Bits(octets::bits(text)?),
            Self::Inet => Value::Network(network::network(text, false)?),
            Self::Cidr => Value::Network(network::network(text, true)?),
            Self::Mac => Value::Mac(network::mac(text, "a MAC address, xx:xx:xx:xx:xx:xx")?),
            Self::Mac8 => Value::Mac8(network::mac(text, "a MAC address, xx:xx:xx:xx:xx:xx:xx:xx")?),
            Self::Geometry(kind) => Value::Geometry(Geometry { kind, text }),
            Self::Money => Value::Money(numbers::money(text)?),
            Self::Lsn => Value::Lsn(numbers::lsn(text)?),
            Self::TextVector => Value::TextVector(TextVector { text }),
            Self::Xml => Value::Xml(text),
            Self::Label => Value::Label(text),
        })
    }
}
