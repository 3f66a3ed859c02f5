//! PostgreSQL's text and binary forms → typed values.
//!
//! A [`Decoder`] is made once for a column of a schema version; it alone decides what its values are, never the bytes
//! of one of them. It reads exactly what PostgreSQL prints under the session settings that the daemon pins (UTC, ISO
//! dates, IntervalStyle postgres, hex bytea, extra_float_digits 3, lc_monetary C), and nothing else: what does not parse
//! is an error, not a guess. Scalars borrow from the cell and allocate nothing.
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
mod quoting;
mod ranges;
mod text_search;
mod times;
mod to_text;
mod value;

pub use decoder::{DEPTH_MAX, Decoder, ELEMENTS_MAX, Scalar};
pub use error::ValueError;
pub use octets::{Bits, Octets};
pub use value::{
    Array, Dimension, Geometry, GeometryKind, Interval, Lexeme, Network, Position, Range, Sign, TimeTz, Value,
};

#[cfg(test)]
mod tests;
