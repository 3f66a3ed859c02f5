//! The messages, and the one function that tells them apart.

use bytes::{BufMut, Bytes, BytesMut};
use dbstreamd_model::{EventBody, Lsn, Name, Op, Timestamp, TruncateFlags};

use crate::input::{Input, PG_CATALOG};
use crate::{ParseError, RelationMessage, timestamp_from_postgres};

/// The option bits of a Truncate message that PostgreSQL defines: cascade, restart identity.
const TRUNCATE_BITS: u8 = 0b11;

/// One pgoutput message, borrowed from the bytes it came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// A committed transaction starts.
    Begin(Begin),
    /// The open transaction is complete.
    Commit(Commit),
    /// The open transaction was replicated to this server from another one.
    Origin(Origin<'a>),
    /// A table's columns, before the first change that needs them on this connection.
    Relation(RelationMessage<'a>),
    /// The name of a type that is not PostgreSQL's own, before the relation that uses it.
    Type(TypeMessage<'a>),
    /// A row was inserted.
    Insert(RowMessage<'a>),
    /// A row was updated.
    Update(RowMessage<'a>),
    /// A row was deleted.
    Delete(RowMessage<'a>),
    /// Tables were emptied.
    Truncate(Truncate<'a>),
    /// `pg_logical_emit_message` was called.
    Message(LogicalMessage<'a>),
    /// A stream abort nobody asked for: PostgreSQL 18 can send one under version 1, for a transaction of which
    /// nothing was sent. There is nothing to undo.
    StreamAbort(StreamAbort),
}

/// `B`: a committed transaction starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// Where its commit record starts; [`Commit::commit_lsn`] repeats it.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_time: Timestamp,
    /// Its transaction id.
    pub xid: u32,
}

/// `C`: the open transaction is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Where its commit record ends; confirming this lets the server forget the transaction.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: Timestamp,
}

/// `O`: where the open transaction was replicated from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin<'a> {
    /// The commit's position on the origin.
    pub commit_lsn: Lsn,
    /// The origin's name.
    pub name: Name<'a>,
}

/// `Y`: the name of a type that is not PostgreSQL's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypeMessage<'a> {
    /// The type's OID, valid for this server and connection only.
    pub oid: u32,
    /// Its namespace; never empty, although `pg_catalog` is sent so.
    pub namespace: Name<'a>,
    /// Its name. For a domain, the base type's.
    pub name: Name<'a>,
}

impl TypeMessage<'_> {
    /// The type's name in a schema version: bare for PostgreSQL's own types, otherwise with its namespace.
    ///
    /// A domain over `int8` is described as `pg_catalog.int8` and so has the same name as `int8` itself.
    pub fn schema_name(&self) -> String {
        let name = self.name.to_text();
        if self.namespace == PG_CATALOG { name.into_owned() } else { format!("{}.{name}", self.namespace.to_text()) }
    }
}

/// `I`, `U` or `D`: one row's change, checked to be well-formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowMessage<'a> {
    /// The table's OID, as announced by a Relation message.
    pub relation: u32,
    /// Columns of the old row, when there is one.
    pub old_columns: Option<u16>,
    /// Columns of the new row, when there is one.
    pub new_columns: Option<u16>,
    /// Everything after the table's OID: exactly the body of the event in the log.
    pub body: &'a [u8],
}

/// `T`: tables were emptied together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncate<'a> {
    flags: TruncateFlags,
    /// Four bytes each.
    relations: &'a [u8],
}

impl Truncate<'_> {
    /// How they were emptied.
    pub const fn flags(&self) -> TruncateFlags {
        self.flags
    }

    /// The tables' OIDs.
    pub fn relations(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        let (oids, _) = self.relations.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// `M`: a message written by `pg_logical_emit_message`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogicalMessage<'a> {
    /// Whether it belongs to the open transaction; otherwise it stands alone, committed or not.
    pub transactional: bool,
    /// Where it ends in the WAL.
    pub lsn: Lsn,
    /// Its writer's prefix, in the server's encoding.
    pub prefix: &'a [u8],
    /// Its content, any bytes.
    pub content: &'a [u8],
}

impl LogicalMessage<'_> {
    /// The body of the event in the log: flags, prefix ended by NUL, length, content.
    pub fn to_body(&self) -> Bytes {
        // The content came with a 32-bit length, so it has one.
        let length = u32::try_from(self.content.len()).unwrap_or(u32::MAX);
        let mut body = BytesMut::with_capacity(1 + self.prefix.len() + 1 + 4 + self.content.len());
        body.put_u8(u8::from(self.transactional));
        body.put_slice(self.prefix);
        body.put_u8(0);
        body.put_u32(length);
        body.put_slice(self.content);
        body.freeze()
    }
}

/// `A`: a transaction that was being streamed is undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamAbort {
    /// The transaction.
    pub xid: u32,
    /// The subtransaction, or the transaction itself.
    pub subxid: u32,
}

/// Reads one message: the payload of one XLogData.
///
/// # Errors
/// When the bytes are not exactly one message of protocol version 1.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, ParseError> {
    let (&tag, rest) = bytes.split_first().ok_or(ParseError::Empty)?;
    match tag {
        b'I' => rows(Op::Insert, Input::new("Insert", rest)).map(Message::Insert),
        b'U' => rows(Op::Update, Input::new("Update", rest)).map(Message::Update),
        b'D' => rows(Op::Delete, Input::new("Delete", rest)).map(Message::Delete),
        b'B' => begin(Input::new("Begin", rest)).map(Message::Begin),
        b'C' => commit(Input::new("Commit", rest)).map(Message::Commit),
        b'R' => RelationMessage::parse(Input::new("Relation", rest)).map(Message::Relation),
        b'Y' => type_name(Input::new("Type", rest)).map(Message::Type),
        b'T' => truncate(Input::new("Truncate", rest)).map(Message::Truncate),
        b'M' => logical_message(Input::new("Message", rest)).map(Message::Message),
        b'O' => origin(Input::new("Origin", rest)).map(Message::Origin),
        b'A' => stream_abort(Input::new("Stream Abort", rest)).map(Message::StreamAbort),
        other => Err(ParseError::UnknownTag(other)),
    }
}

#[inline]
fn rows(op: Op, mut input: Input<'_>) -> Result<RowMessage<'_>, ParseError> {
    let relation = input.u32("relation")?;
    let body = input.rest();
    match EventBody::parse(op, body) {
        Ok(EventBody::Row(change)) => Ok(RowMessage {
            relation,
            old_columns: change.before.map(|(_, row)| row.columns()),
            new_columns: change.after.map(|row| row.columns()),
            body,
        }),
        Ok(_) => Err(input.truncated("rows")),
        Err(error) => Err(ParseError::Rows { relation, error }),
    }
}

fn begin(mut input: Input<'_>) -> Result<Begin, ParseError> {
    let final_lsn = input.lsn("final LSN")?;
    let commit_time = timestamp_from_postgres(input.i64("commit time")?);
    let xid = input.u32("transaction id")?;
    input.end()?;
    if final_lsn.is_zero() {
        return Err(input.undefined("final LSN", 0));
    }
    Ok(Begin { final_lsn, commit_time, xid })
}

fn commit(mut input: Input<'_>) -> Result<Commit, ParseError> {
    let flags = input.byte("flags")?;
    let commit_lsn = input.lsn("commit LSN")?;
    let end_lsn = input.lsn("end LSN")?;
    let commit_time = timestamp_from_postgres(input.i64("commit time")?);
    input.end()?;
    // None are defined; one that is set changes what the message means.
    if flags != 0 {
        return Err(input.undefined("flags", flags.into()));
    }
    Ok(Commit { commit_lsn, end_lsn, commit_time })
}

fn origin(mut input: Input<'_>) -> Result<Origin<'_>, ParseError> {
    let commit_lsn = input.lsn("commit LSN")?;
    let name = input.name("name")?;
    input.end()?;
    Ok(Origin { commit_lsn, name })
}

fn type_name(mut input: Input<'_>) -> Result<TypeMessage<'_>, ParseError> {
    let oid = input.u32("OID")?;
    let namespace = input.namespace()?;
    let name = input.name("name")?;
    input.end()?;
    Ok(TypeMessage { oid, namespace, name })
}

fn truncate(mut input: Input<'_>) -> Result<Truncate<'_>, ParseError> {
    let count = input.u32("relation count")?;
    let bits = input.byte("options")?;
    let length = count.checked_mul(4).ok_or_else(|| input.truncated("relations"))?;
    let relations = input.bytes(length, "relations")?;
    input.end()?;
    if bits & !TRUNCATE_BITS != 0 {
        return Err(input.undefined("options", bits.into()));
    }
    Ok(Truncate { flags: TruncateFlags::from_bits(bits), relations })
}

fn logical_message(mut input: Input<'_>) -> Result<LogicalMessage<'_>, ParseError> {
    let flags = input.byte("flags")?;
    let lsn = input.lsn("LSN")?;
    let prefix = input.string_bytes("prefix")?;
    let length = input.u32("content length")?;
    let content = input.bytes(length, "content")?;
    input.end()?;
    if flags > 1 {
        return Err(input.undefined("flags", flags.into()));
    }
    Ok(LogicalMessage { transactional: flags == 1, lsn, prefix, content })
}

fn stream_abort(mut input: Input<'_>) -> Result<StreamAbort, ParseError> {
    let xid = input.u32("transaction id")?;
    let subxid = input.u32("subtransaction id")?;
    if !input.rest().is_empty() {
        // With parallel streaming, where and when it was aborted.
        input.lsn("abort LSN")?;
        input.i64("abort time")?;
    }
    input.end()?;
    Ok(StreamAbort { xid, subxid })
}
