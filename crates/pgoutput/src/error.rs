//! Why bytes are not a message.

use dbstreamd_model::BodyError;

/// The bytes are not one pgoutput message of protocol version 1.
///
/// Each of these means that the server speaks something else than was asked for, or that bytes were damaged: there
/// is no way to go on without skipping changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No bytes at all.
    #[error("an empty pgoutput message")]
    Empty,
    /// A kind of message that protocol version 1 does not have.
    #[error("unknown pgoutput message tag {tag:?} ({code:#04x}); protocol version 1 was asked for", tag = char::from(*.0), code = .0)]
    UnknownTag(u8),
    /// The message ends inside a field.
    #[error("a pgoutput {message} message ends inside its {field}")]
    Truncated {
        /// The message's name.
        message: &'static str,
        /// The field that is cut.
        field: &'static str,
    },
    /// Bytes are left after the message's end.
    #[error("{left} bytes follow the end of a pgoutput {message} message")]
    Trailing {
        /// The message's name.
        message: &'static str,
        /// How many bytes are left.
        left: usize,
    },
    /// A field holds a value that the protocol does not define.
    #[error("the {field} of a pgoutput {message} message has the undefined value {value}")]
    Undefined {
        /// The message's name.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// The value found.
        value: u64,
    },
    /// The rows of an insert, update or delete are broken.
    #[error("a row message of relation {relation} is broken: {error}")]
    Rows {
        /// The relation's OID.
        relation: u32,
        /// What is wrong with them.
        error: BodyError,
    },
    /// A relation uses a type that is neither PostgreSQL's own nor described by a Type message before it.
    #[error("column {column:?} of table {table} has the type with OID {oid}, which the server has not described")]
    UnknownType {
        /// The table, with its namespace.
        table: String,
        /// The column's name.
        column: String,
        /// The type's OID.
        oid: u32,
    },
}
