//! What an event says: its operation and the layout of its body in record format v1.

use crate::row::{RowError, RowRef};

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Op {
    /// A row was inserted.
    Insert = 1,
    /// A row was updated.
    Update = 2,
    /// A row was deleted.
    Delete = 3,
    /// A table was emptied by TRUNCATE; one event per table.
    Truncate = 4,
    /// `pg_logical_emit_message` was called.
    Message = 5,
    /// The schema was changed, as the source's DDL trigger recorded it: a transactional message with a prefix of its own.
    SchemaChange = 6,
}

impl Op {
    /// All operations, in the order of their codes.
    pub const ALL: [Self; 6] =
        [Self::Insert, Self::Update, Self::Delete, Self::Truncate, Self::Message, Self::SchemaChange];

    /// The operation with this code on disk.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| *op as u8 == code)
    }

    /// Whether it is a change of a row.
    #[inline]
    pub const fn is_row(self) -> bool {
        matches!(self, Self::Insert | Self::Update | Self::Delete)
    }

    /// Lower-case name, as in JSON and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Message => "message",
            Self::SchemaChange => "schema_change",
        }
    }
}

/// Which columns the old row has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BeforeKind {
    /// Only the replica identity's columns are filled; the others are null (`K` on the wire).
    Key,
    /// All columns, under REPLICA IDENTITY FULL (`O` on the wire).
    Full,
}

/// The rows of an insert, update or delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowChange<'a> {
    /// The old row, when PostgreSQL sent one.
    pub before: Option<(BeforeKind, RowRef<'a>)>,
    /// The new row; none for a delete.
    pub after: Option<RowRef<'a>>,
}

/// How a table was truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TruncateFlags {
    /// TRUNCATE … CASCADE.
    pub cascade: bool,
    /// TRUNCATE … RESTART IDENTITY.
    pub restart_identity: bool,
}

impl TruncateFlags {
    /// From PostgreSQL's option bits: 1 cascade, 2 restart identity.
    pub const fn from_bits(bits: u8) -> Self {
        Self { cascade: bits & 1 != 0, restart_identity: bits & 2 != 0 }
    }

    /// Back to PostgreSQL's option bits; the whole body of a truncate event.
    pub const fn bits(self) -> u8 {
        self.cascade as u8 | (self.restart_identity as u8) << 1
    }
}

/// A logical message's body: `u8 flags` (1: transactional), prefix ended by NUL, `u32` big-endian length, content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageBody<'a> {
    /// Whether it belongs to a transaction, or was sent at once.
    pub transactional: bool,
    /// The prefix given by its writer.
    pub prefix: &'a [u8],
    /// The content, any bytes.
    pub content: &'a [u8],
}

/// An event's body, decoded in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventBody<'a> {
    /// Insert, update, delete: `[K row | O row] [N row]`, as on PostgreSQL's wire after the relation's OID.
    Row(RowChange<'a>),
    /// Truncate: one byte of option bits.
    Truncate(TruncateFlags),
    /// Logical message.
    Message(MessageBody<'a>),
    /// Schema change: a logical message whose content is the trigger's JSON document.
    SchemaChange(MessageBody<'a>),
}

/// The body does not fit its operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A row in it is broken.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A row's marker is none of `K`, `O`, `N`, or not where it belongs.
    #[error("unexpected row marker {marker:#04x} in the body of an event of operation {op}", op = op.name())]
    Marker {
        /// The operation.
        op: Op,
        /// The byte found.
        marker: u8,
    },
    /// The body ends too early.
    #[error("the body of an event of operation {op} ends too early", op = .0.name())]
    Truncated(Op),
    /// Bytes are left after the body's end.
    #[error("{left} bytes follow the body of an event of operation {op}", op = op.name())]
    Trailing {
        /// The operation.
        op: Op,
        /// How many bytes are left.
        left: usize,
    },
}

impl<'a> EventBody<'a> {
    /// Decodes the body of an event of operation `op`.
    ///
    /// # Errors
    /// When the bytes are not exactly one body of that operation.
    #[inline]
    pub fn parse(op: Op, mut bytes: &'a [u8]) -> Result<Self, BodyError> {
        let input = &mut bytes;
        let body = match op {
            Op::Insert | Op::Update | Op::Delete => Self::Row(parse_rows(op, input)?),
            Op::Truncate => Self::Truncate(TruncateFlags::from_bits(take_byte(op, input)?)),
            Op::Message => Self::Message(parse_message(op, input)?),
            Op::SchemaChange => Self::SchemaChange(parse_message(op, input)?),
        };
        match bytes.len() {
            0 => Ok(body),
            left => Err(BodyError::Trailing { op, left }),
        }
    }
}

fn parse_rows<'a>(op: Op, input: &mut &'a [u8]) -> Result<RowChange<'a>, BodyError> {
    let mut marker = take_byte(op, input)?;
    let before = match (op, marker) {
        (Op::Update | Op::Delete, b'K') => Some((BeforeKind::Key, RowRef::parse(input)?)),
        (Op::Update | Op::Delete, b'O') => Some((BeforeKind::Full, RowRef::parse(input)?)),
        (Op::Delete, marker) => return Err(BodyError::Marker { op, marker }),
        _ => None,
    };
    if op == Op::Delete {
        return Ok(RowChange { before, after: None });
    }
    if before.is_some() {
        marker = take_byte(op, input)?;
    }
    if marker != b'N' {
        return Err(BodyError::Marker { op, marker });
    }
    Ok(RowChange { before, after: Some(RowRef::parse(input)?) })
}

fn parse_message<'a>(op: Op, input: &mut &'a [u8]) -> Result<MessageBody<'a>, BodyError> {
    let transactional = take_byte(op, input)? & 1 != 0;
    let end = input.iter().position(|&b| b == 0).ok_or(BodyError::Truncated(op))?;
    let (prefix, rest) = input.split_at_checked(end).ok_or(BodyError::Truncated(op))?;
    let (length, rest) = rest.get(1..).and_then(|r| r.split_first_chunk::<4>()).ok_or(BodyError::Truncated(op))?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BodyError::Truncated(op))?;
    let (content, rest) = rest.split_at_checked(length).ok_or(BodyError::Truncated(op))?;
    *input = rest;
    Ok(MessageBody { transactional, prefix, content })
}

fn take_byte(op: Op, input: &mut &[u8]) -> Result<u8, BodyError> {
    let (&byte, rest) = input.split_first().ok_or(BodyError::Truncated(op))?;
    *input = rest;
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_parse_whole_or_not_at_all() {
        let row = b"\0\x01t\0\0\0\x01a";
        let update = [b"K".as_slice(), row, b"N", row].concat();
        let Ok(EventBody::Row(change)) = EventBody::parse(Op::Update, &update) else { panic!() };
        assert_eq!(change.before.unwrap().0, BeforeKind::Key);
        assert!(change.after.is_some());
        for cut in 0..update.len() {
            assert!(EventBody::parse(Op::Update, &update[..cut]).is_err());
        }
        assert!(matches!(EventBody::parse(Op::Insert, &update), Err(BodyError::Marker { .. })));
        let long = [update.as_slice(), b"x"].concat();
        assert_eq!(EventBody::parse(Op::Update, &long), Err(BodyError::Trailing { op: Op::Update, left: 1 }));
        assert_eq!(
            EventBody::parse(Op::Message, b"\x01audit\0\0\0\0\x02hi"),
            Ok(EventBody::Message(MessageBody { transactional: true, prefix: b"audit", content: b"hi" }))
        );
    }
}
