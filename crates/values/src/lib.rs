//! PostgreSQL's text and binary forms → typed values.
//!
//! A [`Decoder`] is made once for a column of a schema version; it alone decides what its values are, never the bytes
//! of one of them. It reads exactly what PostgreSQL prints under the session settings that the daemon pins (UTC, ISO
//! dates, IntervalStyle postgres, hex bytea, extra_float_digits 3, lc_monetary C), and nothing else: what does not parse
//! is an error, not a guess. Values borrow from the cell. One of many parts gives them one by one: none are collected, and
//! nothing is allocated but for a part that was escaped, as long as it is read.
//!
//! Pure: no I/O, no wire format. What becomes of a value is its caller's business.

mod arrays;
mod binary;
mod calendar;
mod composites;
mod cursor;
mod decoder;
mod error;
mod geometry;
mod network;
mod numbers;
mod octets;
mod parts;
mod quoting;
mod ranges;
mod text_search;
mod times;
mod to_text;
mod value;

pub use arrays::{Array, Dimension, Dimensions};
pub use composites::Composite;
pub use decoder::{DEPTH_MAX, Decoder, Scalar};
pub use error::ValueError;
pub use geometry::{Geometry, GeometryKind};
pub use octets::{Bits, Octets};
pub use parts::Part;
pub use ranges::{Bounds, Multirange, Range};
pub use text_search::{Lexeme, Position, Positions, TextVector};
pub use value::{Interval, Network, Sign, TimeTz, Value};

// So that the fuzz target and the tests can share a file.
#[cfg(test)]
extern crate self as dbstreamd_values;
#[cfg(test)]
mod tests;
